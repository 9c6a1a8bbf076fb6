"""What verl hands to an advantage estimator, as our columns. Arithmetic on tensors; nothing here imports verl.

An estimator is given ``token_level_rewards`` [B,T], ``response_mask`` [B,T] and ``index``, each row's prompt by uid.
The mask is 1 on what the policy wrote and 0 on what a tool wrote and in the padding, so turns are read off it: each run
of ones or zeros up to the row's last policy token is a turn. verl places a reward on one token; what lies between two
tokens that carry one is a step. A verl that hands over ``batch`` and ``non_tensor_batch`` (verl#7473) gives more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truegain.core import segments
from truegain.core.batch import Batch
from truegain.core.columns import COLUMNS
from truegain.core.component import Spec, spec_of
from truegain.core.errors import WiringError
from truegain.core.forms import Stage, Train, members
from truegain.hosts.verl_names import DENSE, VARIABLE

MORE = {
    "old_log_probs": "old_logp",
    "ref_log_prob": "ref_logp",
    "rollout_log_probs": "engine_logp",
    "values": "old_value",
    "responses": "tokens",
}
"""Tensors of verl's batch and what we call them; an estimator of 0.9.1 is not handed them."""

NOT_DENSE = (
    "so far every reward stood on a row's last token; a reward manager's assemble_rm_scores has to place one at the "
    f"end of each step; if yours does, and they were all 0 so far, write `{DENSE} = true` into the file of {VARIABLE}"
)


def groups_of(index: Sequence[Any]) -> Tensor:
    """Group ids [B] by first appearance of a uid.

    >>> groups_of(["b", "a", "b"])
    tensor([0, 1, 0])
    """
    seen: dict[Any, int] = {}
    return torch.tensor([seen.setdefault(uid, len(seen)) for uid in index], dtype=torch.long)


def turns_of(mask: Tensor) -> Tensor:
    """Turn ids [B,T]: runs of one author, counted from 0 up to the row's last policy token, -1 behind it.

    What a tool wrote after that token cannot be told from padding, and nothing is trained there.

    >>> turns_of(torch.tensor([[True, True, False, True, False]]))
    tensor([[ 0,  0,  1,  2, -1]])
    """
    if mask.shape[1] == 0:
        return mask.long()
    changed = torch.zeros_like(mask)
    changed[:, 1:] = mask[:, 1:] != mask[:, :-1]
    behind = mask.flip(1).cumsum(1).flip(1) == 0
    return changed.long().cumsum(1).masked_fill(behind, -1)


def steps_of_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Step ids [B,T]: a step ends with a token that carries a reward; -1 where the policy wrote nothing.

    >>> steps_of_rewards(torch.tensor([[0.0, 0.5, 0.0, 1.0]]), torch.tensor([[True, True, True, True]]))
    tensor([[0, 0, 1, 1]])
    """
    ended = (rewards != 0).long().cumsum(1) - (rewards != 0).long()
    return ended.masked_fill(~mask, -1)


def sums_of(rewards: Tensor, ids: Tensor) -> Tensor:
    """Rewards [B,N] of each row's segments 0..N-1, NaN past a row's last one.

    A reward on a token outside every segment counts for the segment before it: an environment's word on what the policy
    did stands on the environment's own tokens.

    >>> sums_of(torch.tensor([[0.0, 1.0, 2.0, 0.0, 4.0]]), torch.tensor([[0, -1, 1, 1, -1]]))
    tensor([[1., 6.]])
    """
    width = segments.count(ids)
    out = rewards.new_zeros(rewards.shape[0], max(width, 1))
    if ids.shape[1]:
        out.scatter_add_(1, ids.cummax(1).values.clamp(min=0), rewards)
    last = ids.amax(1, keepdim=True) if ids.shape[1] else ids.new_full((ids.shape[0], 1), -1)
    return out.masked_fill(torch.arange(out.shape[1], device=ids.device) > last, float("nan"))


def turn_sums(rewards: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
    """Rewards [B,U] of the turns: what falls on a tool's tokens belongs to the policy's turn before them.

    >>> mask = torch.tensor([[True, False, True]])
    >>> turn_sums(torch.tensor([[0.0, 0.5, 1.0]]), turns_of(mask), mask)
    tensor([[0.5000, 0.0000, 1.0000]])
    """
    out = sums_of(rewards, turn.masked_fill(~mask, -1))
    width = max(segments.count(turn), 1)
    inside = torch.arange(width, device=turn.device) <= turn.amax(1, keepdim=True)
    out = torch.nn.functional.pad(out, (0, width - out.shape[1])).nan_to_num(nan=0.0, posinf=None, neginf=None)
    return out.masked_fill(~inside, float("nan"))


@dataclass
class Density:
    """Whether a reward manager places rewards for steps, which a batch whose steps all earned 0 cannot tell.

    ``stated`` is `DENSE` of the file of knobs; ``seen`` is set by the first batch of this process in which a reward
    stands elsewhere than on, or behind, a row's last policy token. They decide whether a batch is taken or refused,
    and change no number.
    """

    stated: bool = False
    seen: bool = False

    def of(self, rewards: Tensor, mask: Tensor) -> bool:
        """Whether this batch is taken as dense; one whose rewards are all 0 is, whatever is known.

        >>> density, mask = Density(), torch.ones(1, 2, dtype=torch.bool)
        >>> [density.of(torch.tensor([row]), mask) for row in ([0.0, 1.0], [0.5, 1.0], [0.0, 1.0])]
        [False, True, True]
        """
        behind = mask.flip(1).cumsum(1).flip(1) == 0
        last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        placed = rewards != 0
        self.seen = self.seen or bool((placed & ~behind & ~last).any())
        return self.stated or self.seen or not bool(placed.any())


def estimator_columns(
    rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any],
    batch: Mapping[str, Any] | None = None,
    non_tensor_batch: Mapping[str, Any] | None = None,
    density: Density | None = None,
) -> tuple[Batch, dict[str, str]]:
    """The columns of a batch, and of those it lacks why. Rows are verl's, in its order.

    ``score`` and ``correct`` are the row's summed reward, ``correct`` where every row has 0 or 1. Turns follow from the
    mask, so they have rewards in each batch; steps follow from where rewards stand, which ``density`` judges, by
    default from this batch alone.
    """
    mask, rewards = response_mask.bool(), rewards.detach().float()
    total = rewards.sum(dim=1)
    found = {"mask": mask, "group": groups_of(index).to(mask.device), "score": total, "turn": turns_of(mask)}
    found["turn_reward"] = turn_sums(rewards, found["turn"], mask)
    why: dict[str, str] = {}
    if bool(((total == 0) | (total == 1)).all()):
        found["correct"] = total
    else:
        why["correct"] = f"it takes rewards of 0 and 1, and a row of this batch has {_other(total):.6g}"
    if (density or Density()).of(rewards, mask):
        found["step"] = steps_of_rewards(rewards, mask)
        found["step_reward"] = sums_of(rewards, found["step"])
    else:
        why |= dict.fromkeys(("step", "step_reward"), NOT_DENSE)
    return Batch(**found, **_more(found, batch, non_tensor_batch)), why


def _other(total: Tensor) -> float:
    return float(total[(total != 0) & (total != 1)][0])


def _more(
    found: Mapping[str, Tensor], batch: Mapping[str, Any] | None, non_tensor_batch: Mapping[str, Any] | None
) -> dict[str, Tensor]:
    """What a verl that hands over its whole batch adds: tensors by `MORE`, numbers of a row by their column's name."""
    more: dict[str, Tensor] = {}
    shape, device = found["mask"].shape, found["mask"].device
    for theirs, ours in MORE.items():
        value = None if batch is None else batch.get(theirs)
        if isinstance(value, Tensor) and value.shape == shape:
            more[ours] = value.detach().float() if COLUMNS[ours].kind == "float" else value
    for name, values in {} if non_tensor_batch is None else non_tensor_batch.items():
        known = name in COLUMNS and COLUMNS[name].shape == "B" and COLUMNS[name].kind == "float"
        if known and name not in found and name != "reward":
            more[name] = torch.tensor([float(value) for value in values], device=device)
    return more


def check_fed(form: Train, batch: Batch, why: Mapping[str, str], facts: Mapping[str, Any], host: str) -> None:
    """Refuse a batch that lacks a column of the form's reward or credit. Raises WiringError naming both."""
    filled = {"reward", "reward_parts", "advantage"}
    for spec in _specs(form.reward, *(term.credit for term in form.terms)):
        _facts_of(spec, facts)
        for name in spec.inputs:
            if name not in batch and name not in filled:
                reason = why.get(name, f"it comes from {COLUMNS[name].provider}")
                raise WiringError(f"{spec.full_name} needs column {name!r}, which {host} does not supply: {reason}")


def check_facts(form: Train, facts: Mapping[str, Any]) -> None:
    """Refuse a loss whose surrogates name a loop fact that nobody stated. Raises WiringError."""
    for spec in _specs(*(term.surrogate for term in form.terms)):
        _facts_of(spec, facts)


def _specs(*stages: Stage) -> list[Spec]:
    return [spec_of(member) for stage in stages for member in members(stage)]


def _facts_of(spec: Spec, facts: Mapping[str, Any]) -> None:
    for name in spec.facts:
        if name not in facts:
            raise WiringError(f"{spec.full_name} needs {name!r}: write `{name} = ...` into the file of {VARIABLE}")


def loss_columns(old_logp: Tensor, logp: Tensor, advantage: Tensor, response_mask: Tensor) -> dict[str, Tensor]:
    """The columns that verl hands to a policy loss, zero outside the mask, where a NaN would reach the gradient."""
    mask = response_mask.bool()
    found = {"old_logp": old_logp.detach(), "logp": logp, "advantage": advantage.detach()}
    return {
        "mask": mask,
        "turn": turns_of(mask),
        **{name: value.masked_fill(~mask, 0.0) for name, value in found.items()},
    }
