from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.moments import Moments, first_step

SLICE_BYTES = 64 * 2**20


@component("weight", cite=("arXiv:2510.00819", "luckeciano/stable-pg-llm grpo_entropy_trainer.py"))
def curvature_gate(
    tokens: Int[Tensor, "B T"],
    hidden: Float[Tensor, "B T H"],
    top_ids: Int[Tensor, "B T C"],
    top_logp: Float[Tensor, "B T C"],
    advantage: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    step_size: float,
    head_moments: Moments | None,
    policy_limit: float = 1e-4,
    objective_limit: float = 1e-2,
    one_sided: bool = False,
    per: Literal["token", "sequence", "batch"] = "token",
    direction: Literal["adam", "gradient"] = "adam",
    update: Literal["own", "batch"] = "own",
    base: Literal["sequence", "token"] = "sequence",
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """CAPO: 1 for tokens whose objective and policy an update on them would change little, else 0.

    The update is foreseen on the last layer alone. At a token a with hidden state h and probabilities pi, the gradient
    of ``A log pi_a`` in the unembedding is ``g = A v h'`` with ``v = e_a - pi``. Along the update G, at the learning
    rate lr (the fact ``step_size``), with ``u = G h``:

        m_H = lr A (v.u) + lr^2/2 A [(v.u)^2 - Var_pi(u)]      change of A pi_new(a) / pi(a), to second order
        m_F = lr^2/2 (v.u)^2                                   change of log pi_a, squared: the Fisher form
        keep = m_F < policy_limit  and  |m_H| < objective_limit     (one_sided: 0 <= m_H < objective_limit)

    ``update`` says whose update G is: the token's ``own``, as if it were all of the batch, so that a token is judged by
    what it asks for; or the ``batch``'s, the coming one, with ``sum w g`` in the place of g. ``direction`` is
    ``gradient``, the ascent direction itself, or ``adam``, the step that the policy's own optimiser makes of it with
    the moments of its unembedding (the fact ``head_moments``; before its first step, or where the unembedding is
    frozen, Adam's first). ``base`` is the weight ``w`` beside this one: ``sequence`` for `sequence_mean`, ``token`` for
    `token_mean`. A limit of 0 switches its test off, in units of advantage (``objective_limit``) and of KL, nats
    (``policy_limit``). ``per`` averages both numbers over a row's tokens or over all before the test, which then keeps
    or drops them together. Probabilities outside the candidates count as 0. A number that is not finite fails its test.

    Nothing of size [T,V,H] is ever made: tokens are taken in slices, on the rows of the unembedding that a candidate
    names, and v.u and Var_pi(u) are sums over the candidates. Multiply it with a weight that sums. Logs the share kept
    and the means of m_F and m_H.

    Raises SettingError for a limit below 0 or an unknown word. Source: Melo et al. 2025; the quantity under ``m_H`` is
    the ratio surrogate's, not that of ``A log pi``.

    >>> import torch
    >>> pi, h = torch.tensor([[[0.5, 0.3, 0.2]]]), torch.tensor([[[1.0, 0.5]]])
    >>> one, ids = torch.ones(1, 1), torch.arange(3)[None, None]
    >>> at = (torch.zeros(1, 1, dtype=torch.long), h, ids, pi.log(), one, one > 0)
    >>> keep, logs = curvature_gate(*at, step_size=0.1, head_moments=None, direction="gradient", objective_limit=0.0)
    >>> keep, logs["truegain/policy_shift"].round(decimals=4), logs["truegain/objective_shift"].round(decimals=4)
    (tensor([[0.]]), tensor([[0.0011]]), tensor([[0.0475]]))
    """
    if policy_limit < 0 or objective_limit < 0 or per not in ("token", "sequence", "batch"):
        raise SettingError(
            f"curvature_gate: policy_limit={policy_limit} and objective_limit={objective_limit} must be 0 or more, "
            f"per={per!r} token, sequence or batch"
        )
    words = direction in ("adam", "gradient") and update in ("own", "batch") and base in ("sequence", "token")
    if not words:
        raise SettingError(f"curvature_gate: direction={direction!r}, update={update!r} or base={base!r}; see the docs")
    on_objective, on_policy = (torch.zeros_like(advantage) for _ in range(2))
    if mask.any():
        columns = (hidden[mask].to(advantage.dtype), top_logp[mask].exp(), advantage[mask])
        step = partial(_step, head_moments, direction)
        if update == "own":
            shifts = _own_shifts(*columns, step_size, step, tokens[mask], top_ids[mask])
        else:
            places = _places(tokens[mask], top_ids[mask])
            gain = _gain(*columns, _share(mask, base, advantage.dtype)[mask], *places)
            shifts = _shifts(*columns, step_size, step(gain, places[0]), *places[1:])
        on_objective[mask], on_policy[mask] = shifts
    if per != "token":
        on_objective, on_policy = (_averaged(x, mask, per) for x in (on_objective, on_policy))
    size = on_objective if one_sided else on_objective.abs()
    inside = (size >= 0) & (size < objective_limit)
    keep = mask & (inside | (objective_limit == 0)) & ((on_policy < policy_limit) | (policy_limit == 0))
    logs = {"truegain/policy_shift": on_policy, "truegain/objective_shift": on_objective}
    return keep.to(advantage.dtype), {"truegain/curvature_kept": keep.float(), **logs}


def _step(moments: Moments | None, direction: str, gain: Tensor, rows: Tensor) -> Tensor:
    """What an optimiser makes of ``gain`` [..., H] on these rows of the unembedding, per unit of learning rate."""
    if direction == "gradient":
        return gain
    return first_step(gain) if moments is None else moments.ascent(gain, rows)


def _share(mask: Tensor, base: str, dtype: torch.dtype) -> Tensor:
    """The weight of each token in the loss beside this gate."""
    lengths = mask.sum(dim=1, keepdim=True)
    even = lengths.clamp(min=1) * (lengths > 0).sum() if base == "sequence" else mask.sum()
    return mask.to(dtype) / even.clamp(min=1)


def _places(tokens: Tensor, top_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The vocabulary that occurs [U], and where in it the tokens [N] and the candidates [N,C] stand."""
    found = torch.cat([tokens[:, None], top_ids], dim=1)
    known = cast(Tensor, torch.unique(found))  # pyright: ignore[reportUnknownMemberType]
    place = torch.searchsorted(known, found)
    return known, place[:, :1], place[:, 1:]


def _slices(count: int, width: int, itemsize: int) -> Iterator[slice]:
    size = max(1, SLICE_BYTES // (width * itemsize))
    return (slice(start, start + size) for start in range(0, count, size))


def _gain(
    hidden: Tensor, probs: Tensor, advantage: Tensor, share: Tensor, known: Tensor, token: Tensor, candidates: Tensor
) -> Tensor:
    """``sum_n share A v h'`` [U,H], on the rows of the unembedding that occur."""
    gain = hidden.new_zeros(len(known), hidden.shape[1])
    factor = (share * advantage)[:, None]
    for part in _slices(len(hidden), len(known), hidden.itemsize):
        v = hidden.new_zeros(len(hidden[part]), len(known))
        v.scatter_add_(1, candidates[part], -factor[part] * probs[part])
        v.scatter_add_(1, token[part], factor[part])
        gain += v.T @ hidden[part]
    return gain


def _shifts(
    hidden: Tensor, probs: Tensor, advantage: Tensor, lr: float, update: Tensor, token: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """m_H and m_F [N] along one update of the rows that occur."""
    slope, spread = torch.zeros_like(advantage), torch.zeros_like(advantage)
    for part in _slices(len(hidden), len(update), hidden.itemsize):
        u = hidden[part] @ update.T
        seen = u.gather(1, candidates[part])
        mean = (probs[part] * seen).sum(1)
        slope[part] = u.gather(1, token[part])[:, 0] - mean
        spread[part] = (probs[part] * seen**2).sum(1) - mean**2
    return _changes(advantage, lr, slope, spread)


def _own_shifts(
    hidden: Tensor,
    probs: Tensor,
    advantage: Tensor,
    lr: float,
    step: Callable[[Tensor, Tensor], Tensor],
    tokens: Tensor,
    candidates: Tensor,
) -> tuple[Tensor, Tensor]:
    """m_H and m_F [N], each token along the step that its own gradient alone would be."""
    # The token comes first; where it stands among the candidates too, its probability is counted there no more.
    chosen = candidates == tokens[:, None]
    pi = torch.cat([(probs * chosen).sum(1, keepdim=True), probs.masked_fill(chosen, 0.0)], dim=1)
    rows, v = torch.cat([tokens[:, None], candidates], dim=1), -pi
    v[:, 0] += 1
    slope, spread = torch.zeros_like(advantage), torch.zeros_like(advantage)
    for part in _slices(len(hidden), v.shape[1] * hidden.shape[1], hidden.itemsize):
        gain = (advantage[part, None] * v[part])[..., None] * hidden[part, None]
        u = (step(gain, rows[part]) * hidden[part, None]).sum(2)
        slope[part] = (v[part] * u).sum(1)
        mean = (pi[part] * u).sum(1)
        spread[part] = (pi[part] * u**2).sum(1) - mean**2
    return _changes(advantage, lr, slope, spread)


def _changes(advantage: Tensor, lr: float, slope: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """m_H and m_F from ``v.u`` and ``Var_pi(u)``."""
    return advantage * (lr * slope + 0.5 * lr**2 * (slope**2 - spread)), 0.5 * lr**2 * slope**2


def _averaged(values: Tensor, mask: Tensor, per: str) -> Tensor:
    """The mean over each row's policy tokens, or over all, at every one of them."""
    dim = (1,) if per == "sequence" else (0, 1)
    mean = values.sum(dim=dim, keepdim=True) / mask.sum(dim=dim, keepdim=True).clamp(min=1)
    return torch.where(mask, mean, torch.zeros_like(values))
