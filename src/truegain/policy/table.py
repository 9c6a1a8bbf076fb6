"""The `table` policy: a causal language model whose logits are looked up by the last few tokens.

Small enough to be understood completely, and a real Hugging Face model all the same: bandits, chains, grids and games
are tasks for it, and it goes through the same engine, loop and recipes as a checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

MAX_ROWS = 16384


class TableConfig(PretrainedConfig):
    """Shape of a table policy.

    ``order`` tokens choose the row, out of ``rows`` (0: one row per context up to `MAX_ROWS`, hashed beyond). With
    ``feature_size`` F > 0 the logits are linear in a given feature vector of the context instead.
    """

    model_type = "truegain_table"

    def __init__(  # noqa: D107
        self, vocab_size: int = 108, order: int = 1, rows: int = 0, feature_size: int = 0, **rest: Any
    ) -> None:
        rest.setdefault("tie_word_embeddings", False)
        rest.setdefault("use_cache", False)
        for mark in ("pad_token_id", "bos_token_id", "eos_token_id"):
            rest.setdefault(mark, None)
        self.vocab_size = vocab_size
        self.order = order
        self.rows = rows or min(vocab_size**order, MAX_ROWS)
        self.feature_size = feature_size
        super().__init__(**rest)


class TablePolicy(PreTrainedModel, GenerationMixin):
    """Logits of the next token: ``weight[row]``, or ``features[row] @ weight``, with row = hash of the last tokens.

    ``weight`` is [rows, V] (zero at the start: uniform), or [F, V] when ``features`` [rows, F] are given.
    """

    config_class = TableConfig
    base_model_prefix = "table"
    main_input_name = "input_ids"
    config: TableConfig

    def __init__(self, config: TableConfig) -> None:  # noqa: D107
        super().__init__(config)
        inputs = config.feature_size or config.rows
        self.weight = nn.Parameter(torch.zeros(inputs, config.vocab_size))
        if config.feature_size:
            self.register_buffer("features", torch.zeros(config.rows, config.feature_size))
        self.post_init()
        if self.generation_config is not None:
            self.generation_config.use_cache = False

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the zeros: every context starts uniform."""

    def context_index(self, tokens: Tensor) -> Tensor:
        """Row of the context that ends at each position: tokens [B, L] -> [B, L], left-padded with ``<bos>``.

        Exact base-V digits (the latest token is the lowest digit) when all contexts have a row of their own;
        a polynomial hash modulo ``rows`` otherwise.
        """
        order, vocabulary, rows = self.config.order, self.config.vocab_size, self.config.rows
        bos = self.config.bos_token_id or 0
        padded = torch.cat([tokens.new_full((tokens.shape[0], order - 1), bos), tokens], dim=1)
        exact = vocabulary**order <= rows
        index = torch.zeros_like(tokens)
        for offset in range(order):
            digit = padded[:, offset : offset + tokens.shape[1]]
            index = index * vocabulary + digit if exact else (index * 1_000_003 + digit + 1) % 2_147_483_647
        return index if exact else index % rows

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        """Logits [B, L, V] for tokens [B, L]. Right padding is inert, as nothing looks ahead."""
        index = self.context_index(input_ids)
        if not self.config.feature_size:
            # embedding() and not weight[index]: its backward adds up duplicates quickly and in a fixed order
            return CausalLMOutput(logits=nn.functional.embedding(index, self.weight))
        return CausalLMOutput(logits=nn.functional.embedding(index, self.get_buffer("features")) @ self.weight)

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, **_: Any
    ) -> dict[str, Tensor]:
        """Only the last ``order`` tokens matter, and a copy of them is cheaper than a cache."""
        return {"input_ids": input_ids[:, -max(self.config.order, 1) :]}


AutoConfig.register(TableConfig.model_type, TableConfig)
AutoModelForCausalLM.register(TableConfig, TablePolicy)


def table_model(
    *, order: int = 1, vocab_size: int = 108, rows: int = 0, features: Tensor | None = None, **tokens: int
) -> TablePolicy:
    """A uniform table policy; ``features`` [rows, F] makes it linear; ``tokens`` are ``bos_token_id`` and the like."""
    size = 0 if features is None else features.shape[1]
    rows = rows if features is None else features.shape[0]
    model = TablePolicy(TableConfig(vocab_size=vocab_size, order=order, rows=rows, feature_size=size, **tokens))
    if features is not None:
        model.get_buffer("features").copy_(features)
    return model
