"""Scalar heads on a policy's hidden states: critics, reward models, probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from truegain.core.errors import DataError
from truegain.policy.logprobs import completion_hidden

if TYPE_CHECKING:
    from truegain.policy.policy import Policy


class ScalarHead(nn.Module):
    """One number per token from hidden states [.., d]: a linear map, zero at the start, computed in float32."""

    def __init__(self, width: int) -> None:  # noqa: D107
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[.., d] -> [..]."""
        return self.linear(hidden.to(self.linear.weight.dtype))[..., 0]

    def save(self, file: str | Path) -> None:
        """Write the head as safetensors."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, str(file))

    @staticmethod
    def load(file: str | Path) -> ScalarHead:
        """Read a head that `save` wrote. Raises DataError if the file is missing, damaged or no head."""
        try:
            weights = load_file(str(file))
            head = ScalarHead(weights["linear.weight"].shape[-1])
            head.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise DataError(f"{file} is not a readable scalar head: name a file that ScalarHead.save wrote") from error
        return head


MEMBER = "member-{}"
"""The folders of an ensemble, as `truegain fit reward-model` writes them and a role reads that names their parent."""


def members_of(folder: str | Path) -> list[Path]:
    """The members of an ensemble's folder in their order; none for any other source."""
    found = [p for p in Path(folder).expanduser().glob(MEMBER.format("*")) if p.name.rpartition("-")[2].isdecimal()]
    return sorted((p for p in found if p.is_dir()), key=lambda p: int(p.name.rpartition("-")[2]))


def at_last(values: Tensor, lengths: Tensor) -> Tensor:
    """Each row's number [B] at its last token, of ``values`` [B, T]; 0 for an empty row. Carries gradient."""
    if not values.shape[1]:
        return values.new_zeros(values.shape[0])
    found = values.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
    return torch.where(lengths > 0, found, torch.zeros_like(found))


def token_values(
    policy: Policy,
    head: ScalarHead,
    prompts: Sequence[tuple[int, ...]],
    tokens: Tensor,
    lengths: Tensor,
    *,
    after: bool = False,
    grad: bool = True,
) -> Tensor:
    """The head's number [B, T] for each completion token, 0.0 beyond ``lengths`` [B].

    A critic judges the state *before* token t is chosen; with ``after=True`` token t is seen too, as a reward model
    needs it. Raises DataError if a prompt is empty.
    """
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        hidden, row, column = completion_hidden(policy, prompts, tokens, lengths, after=after)
        values = head(hidden)
        return values.new_zeros(tokens.shape).index_put((row, column), values)
