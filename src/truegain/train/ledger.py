"""What a run spent: tokens by stage, and floating-point operations from them.

Per token, a forward pass costs ``2 N + 4 L d c``: two operations per weight (Kaplan et al. 2020, arXiv:2001.08361,
section 2.1) and, in each of L layers, ``2 d c`` for the scores and ``2 d c`` for the weighted values of c attended
positions (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B, which states the forward and backward sum
``6 N + 12 L H Q T``, with H Q = d). Backward costs twice the forward, so a trained token costs three forwards.
N counts the weights that multiply: all but the input embedding, the output head included even when it is tied.
All numbers are Python integers: no rounding, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from truegain.core.errors import DataError, SettingError

Stage = Literal["sampled", "probed", "resampled", "scored", "trained"]


@dataclass(frozen=True)
class ModelCost:
    """What decides the price of a token: ``params`` (N above), ``layers`` (L) and attention ``width`` (d)."""

    params: int
    layers: int = 0
    width: int = 0

    def forward(self, tokens: int, attended: int = 0) -> int:
        """Operations for ``tokens`` that attend to ``attended`` positions in total: 2 N tokens + 4 L d attended.

        >>> ModelCost(params=100, layers=2, width=8).forward(tokens=3, attended=6)
        984
        """
        return 2 * self.params * tokens + 4 * self.layers * self.width * attended


@dataclass(frozen=True)
class Ledger:
    """Tokens that went through a model, by what for, and the operations they took. Ledgers add."""

    sampled: int = 0
    probed: int = 0
    resampled: int = 0
    scored: int = 0
    trained: int = 0
    flops: int = 0

    def __add__(self, other: Ledger) -> Ledger:
        """The sum, number by number."""
        return Ledger(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def to_json(self) -> dict[str, int]:
        """Its numbers by name."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Ledger:
        """The inverse of `to_json`. Raises `DataError` for a missing, unknown or non-integer entry."""
        names = [field.name for field in fields(Ledger)]
        if sorted(values) != sorted(names) or not all(type(value) is int for value in values.values()):
            raise DataError(f"a compute ledger needs exactly the integers {', '.join(names)}; it has {dict(values)}")
        return Ledger(**values)


def spend(model: ModelCost, stage: Stage, tokens: int, attended: int = 0) -> Ledger:
    """The ledger of one piece of work: ``tokens`` that attended to ``attended`` positions in total (see `attended`).

    Only "trained" costs three forwards. Raises `SettingError` for negative counts.
    """
    if tokens < 0 or attended < 0:
        raise SettingError(f"a ledger cannot take {tokens} tokens that attend to {attended} positions")
    passes = 3 if stage == "trained" else 1
    counted: dict[str, int] = {stage: tokens, "flops": passes * model.forward(tokens, attended)}
    return Ledger(**counted)


def attended(start: int, end: int) -> int:
    """Positions that the causal tokens at ``start .. end-1`` attend to, each its own included: their sum of (t + 1).

    >>> attended(0, 3), attended(2, 4)
    (6, 7)
    """
    return (end * (end + 1) - start * (start + 1)) // 2


def model_cost(model: Any) -> ModelCost:
    """The cost of a causal language model in the Hugging Face format; layers and width are 0 without attention."""
    if hasattr(model, "context_index"):  # the table policy looks one row of V numbers up per token
        return ModelCost(int(model.config.vocab_size))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    params = sum(parameter.numel() for parameter in model.parameters())
    tied = embedding is not None and head is not None and embedding.weight is head.weight
    if embedding is not None and not tied:
        params -= embedding.weight.numel()
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    if heads == 0:
        return ModelCost(params)
    width = heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return ModelCost(params, int(config.num_hidden_layers), width)
