from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._steps import Steps, steps_of

# The multiplier of splitmix64's increment and of its finaliser, as signed 64-bit integers
_GAMMA, _MIX = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64


@component("credit", cite="arXiv:2510.20022")
def merge_shared_steps(
    advantage: Float[Tensor, "B T"],
    tokens: Int[Tensor, "B T"],
    step: Int[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    history: int = 1_000_000,
    visits: Literal["once", "each"] = "once",
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Average the advantage over the rows of a group that took the same step: a modifier of the credit before it.

    A step is an edge of the group's graph: it leads from a node, the ``history`` steps before it, to the node that
    holds it too. Two steps are one edge E if their policy tokens and those of their histories are the same:

        A(E) = mean of A_i over the rows i that took E,   A'_t = A(E) at every token of the step

    A step that good and bad rows share becomes neutral; one that a single row took keeps what it had. Rows that say the
    same get the same. ``history`` >= 0: 0 compares the step alone, a number beyond the longest row its whole past,
    which is the state wherever the state follows from what was said. A_i of a step is the mean over its tokens. A row
    that takes an edge twice counts once, or with ``visits="each"`` as often as it takes it.

    Steps are compared by a 64-bit hash. Tokens outside every step get 0. Logs ``truegain/shared_steps``, the share of
    steps that more than one row took. Raises SettingError for knobs out of bounds. Source: SALT 2025, from its abstract
    and summaries: nodes there are observations of an environment.

    >>> import torch
    >>> said, step = torch.tensor([[5, 7], [5, 8]]), torch.tensor([[0, 1], [0, 1]])
    >>> given = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> merge_shared_steps(given, said, step, torch.zeros(2, dtype=torch.long), step >= 0)[0]
    tensor([[ 0.,  1.],
            [ 0., -1.]])
    """
    if history < 0 or visits not in ("once", "each"):
        raise SettingError(f"merge_shared_steps: history={history} must be 0 or more, visits={visits!r} once or each")
    steps = steps_of(step, mask, advantage.dtype)
    given = steps.mean(advantage)
    if not bool(steps.present.any()):
        return torch.zeros_like(advantage), {}
    past = _hashed(_contents(tokens, steps), history)
    edges = _numbered(_mixed(past * _GAMMA + group[:, None]), steps.present)
    rows = torch.arange(len(group), device=group.device)[:, None].expand_as(edges)
    count = int(edges.max()) + 1
    visit = _numbered(rows * count + edges, steps.present)
    times = segments.spread(segments.total(torch.ones_like(given), visit), visit)
    share = 1 / times.clamp(min=1) if visits == "once" else torch.ones_like(given)
    takers = segments.total(torch.where(steps.present, 1 / times.clamp(min=1), share), edges)
    weight = segments.total(share, edges)
    merged = segments.spread(segments.total(given * share, edges) / weight, edges)
    # A mean over one row would round what that row had.
    alone = segments.spread(takers, edges) < 1.5
    shared = (~alone & steps.present).to(given.dtype).sum() / steps.present.sum()
    value = torch.where(alone & (times <= 1), given, merged)
    return steps.to_tokens(value), {"truegain/shared_steps": shared}


def _contents(tokens: Tensor, steps: Steps) -> Tensor:
    """A hash of each step's policy tokens in their order, [B,S]."""
    inside = steps.ids >= 0
    counts = steps.tokens.long()
    before = segments.spread((counts.cumsum(dim=1) - counts).reshape(-1), steps.ids)
    place = inside.long().cumsum(dim=1) - 1 - before
    per_token = _mixed(_mixed(tokens + 1) + place * _GAMMA)
    return segments.total(per_token, steps.ids, steps.present.numel()).reshape(steps.present.shape)


def _hashed(contents: Tensor, history: int) -> Tensor:
    """A hash of each step and the ``history`` steps before it, [B,S]."""
    width = contents.shape[1]
    out = _mixed(contents)
    if history >= width - 1:
        for s in range(1, width):
            out[:, s] = _mixed(out[:, s] + out[:, s - 1] * _GAMMA)
        return out
    single = out
    for back in range(1, history + 1):
        out = _mixed(out * _GAMMA + pad(single[:, :-back], (back, 0)))
    return out


def _mixed(state: Tensor) -> Tensor:
    state = (state ^ ((state >> 30) & 0x3FFFFFFFF)) * _MIX
    state = (state ^ ((state >> 27) & 0x1FFFFFFFFF)) * _GAMMA
    return state ^ ((state >> 31) & 0x1FFFFFFFF)


def _numbered(values: Tensor, present: Tensor) -> Tensor:
    """Equal values of present steps get equal numbers from 0, the others -1; [B,S]."""
    found = torch.full_like(values, -1)
    found[present] = torch.unique(values[present], return_inverse=True)[1]  # pyright: ignore[reportUnknownMemberType]
    return found
