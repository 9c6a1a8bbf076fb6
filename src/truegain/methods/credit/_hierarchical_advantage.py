from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError, WiringError
from truegain.methods.credit._by_tags import ACTION, GOAL, KEEP, SWITCH
from truegain.methods.credit._steps import Steps, fitted, standardised, steps_of

Level = Literal["action", "goal", "decision"]
_PARTS: dict[str, tuple[int, ...]] = {"action": (ACTION,), "goal": (GOAL,), "decision": (KEEP, SWITCH)}
LEVELS = tuple(_PARTS)


@component("credit", cite=("arXiv:2602.16165", "JonP07/HiPER-agent core_hae.py"))
def hierarchical_advantage(
    reward: Float[Tensor, "B"],
    turn_reward: Float[Tensor, "B U"],
    old_values: Float[Tensor, "B T M"],
    truncated: Bool[Tensor, "B"],
    turn: Int[Tensor, "B T"],
    part: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    level: Level = "action",
    gamma: float = 1.0,
    turn_lam: float = 1.0,
    goal_lam: float = 0.95,
    bootstrap: bool = False,
    scale: bool = True,
    target: bool = False,
) -> Float[Tensor, "B T"]:
    """HiPER: advantages of actions, subgoals and decisions, from three critics, over turns and segments of turns.

    A segment begins at a row's first turn and at each turn that decides to switch. ``r_t`` is the turn's reward, the
    row's ``reward`` added at its last turn; ``s`` and ``e`` are a segment's first and last turn, ``s'`` the next one's
    first. After the last turn every value is 0; if the row was cut off and ``bootstrap``, V_action is its own at that
    turn, and V_goal, for subgoals and decisions alike, its own at the last segment's first turn.

        action     d_t = r_t + gamma V_action(t+1) - V_action(t), at e with V_goal(s') in the place of V_action(t+1)
                   A_t = d_t + gamma turn_lam A_{t+1}, nothing carried over from the next segment
        goal       d_k = sum_j gamma^j r_{s+j} + gamma^n V_goal(s') - V_goal(s),  n the segment's turns
                   A_k = d_k + gamma^n goal_lam A_{k+1}
        decision   A_t = sum_{j >= t} gamma^(j-t) r_j + gamma^(e-t+1) V_goal(s') - V_decision(t), cut at e

    A critic is read before the first token of its level's part in the turn, or before the turn's first. ``level`` says
    whose advantage is given, and to which tokens: the action's, the subgoal's in the turn that begins a segment, the
    decision's; parts as `by_tags` numbers them. Without tags all of a turn is action, and the rest gets 0. ``scale``
    whitens over the turns that have such tokens (population deviation). ``target`` gives ``A + V`` before that instead,
    to be learned by the level's critic with the weight `level_mean`.

    ``old_values`` holds the critics of actions, subgoals and decisions, in this order of the form's roles. ``gamma``,
    ``turn_lam`` and ``goal_lam`` in [0, 1]. Raises WiringError for another number of critics, SettingError for a knob
    out of bounds. Source: HiPER 2026, as released: the decision's advantage is this return, not the paper's
    ``(q - beta) (V_goal - V_action)``.

    >>> import torch
    >>> part, turn = torch.tensor([[1, 3, 0, 3, 1, 3]]), torch.tensor([[0, 0, 1, 1, 2, 2]])
    >>> goal, action = torch.tensor([[0.35, 0, 0, 0, 0.5, 0]]), torch.tensor([[0, 0.3, 0, 0.4, 0, 0.6]])
    >>> three = torch.stack([action, goal, torch.zeros(1, 6)], dim=2)
    >>> row = (torch.ones(1), torch.zeros(1, 3), three, torch.tensor([False]), turn, part, part >= 0)
    >>> hierarchical_advantage(*row, turn_lam=0.95, scale=False)
    tensor([[0.0000, 0.1950, 0.0000, 0.1000, 0.0000, 0.4000]])
    """
    if not all(0 <= knob <= 1 for knob in (gamma, turn_lam, goal_lam)):
        raise SettingError(f"hierarchical_advantage: gamma={gamma}, turn_lam={turn_lam}, goal_lam={goal_lam} in [0, 1]")
    if level not in _PARTS:
        raise SettingError(f"hierarchical_advantage: level={level!r}; it is {', '.join(_PARTS)}")
    if old_values.shape[2] != len(LEVELS):
        raise WiringError(
            f"hierarchical_advantage reads {len(LEVELS)} critics, of {', '.join(LEVELS)}; the form has "
            f"{old_values.shape[2]} roles that fill 'value'"
        )
    turns = steps_of(turn, mask, reward.dtype, turn_reward.shape[1])
    read = [_read(old_values[..., n].to(reward.dtype), turns, part, name) for n, name in enumerate(LEVELS)]
    action, goal, decision = read
    begin = beginning(turns, part)
    paid = fitted(turn_reward.to(reward.dtype), turns) + _at_last_turn(reward, turns)
    table = _Turns(paid, action, goal, decision, begin, turns.present, truncated & bootstrap)
    found = table.advantages(gamma, turn_lam, goal_lam)[LEVELS.index(level)]
    own = reading_places(turns, part, level) if target else mask & _at_level(part, level)
    if level == "goal":
        own = own & (turns.to_tokens(begin.to(reward.dtype)) > 0)
    if target:
        return torch.where(own, turns.to_tokens(found + read[LEVELS.index(level)]), 0.0)
    if scale:
        felt = Steps(torch.where(own, turns.ids, -1), _holds(own, turns), turns.tokens)
        one = torch.zeros(len(reward), dtype=torch.long, device=reward.device)
        found = standardised(found, felt, one, "batch", scale=True, ddof=0, eps=1e-8)
    return torch.where(own, turns.to_tokens(found), 0.0)


@dataclass(frozen=True)
class _Turns:
    """Tables [B,U]: rewards, the three critics' values, which turns begin a segment, which there are; rows cut off."""

    paid: Tensor
    action: Tensor
    goal: Tensor
    decision: Tensor
    begin: Tensor
    present: Tensor
    open: Tensor

    def advantages(self, gamma: float, turn_lam: float, goal_lam: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of actions, subgoals (at the turns that begin a segment) and decisions, 0 where there is no turn."""
        out = [torch.zeros_like(self.paid) for _ in LEVELS]
        zero = torch.zeros_like(self.paid[:, 0]) if self.paid.shape[1] else self.paid.new_zeros(len(self.paid))
        # Of the turn that comes next, and of the segment that it belongs to or begins
        value, surprise, to_go, sum_, discount = zero, zero, zero, zero, torch.ones_like(zero)
        after, beyond = zero, zero  # V_goal and A_goal where the current segment ends
        fresh, last = torch.zeros_like(self.open), torch.ones_like(self.open)
        v_goal, a_goal, tail_goal = zero, zero, self._tail_goal
        for u in reversed(range(self.paid.shape[1])):
            here, ends = self.present[:, u], last | fresh
            tail = torch.where(self.open, self.action[:, u], zero)
            following = torch.where(last, tail, torch.where(fresh, v_goal, value))
            error = self.paid[:, u] + gamma * following - self.action[:, u]
            error = error + gamma * turn_lam * torch.where(ends, zero, surprise)
            end_value = torch.where(ends, torch.where(last, tail_goal, v_goal), after)
            end_gain = torch.where(ends, torch.where(last, zero, a_goal), beyond)
            own_to_go = self.paid[:, u] + gamma * torch.where(ends, end_value, to_go)
            own_sum = self.paid[:, u] + gamma * torch.where(ends, zero, sum_)
            own_discount = gamma * torch.where(ends, torch.ones_like(zero), discount)
            gain = own_sum + own_discount * (end_value + goal_lam * end_gain) - self.goal[:, u]
            begins = self.begin[:, u]
            for table, column in zip(out, (error, gain, own_to_go - self.decision[:, u]), strict=True):
                table[:, u] = torch.where(here, column, zero)
            out[1][:, u] = torch.where(begins, out[1][:, u], zero)
            value = torch.where(here, self.action[:, u], value)
            surprise, to_go = torch.where(here, error, surprise), torch.where(here, own_to_go, to_go)
            sum_, discount = torch.where(here, own_sum, sum_), torch.where(here, own_discount, discount)
            after, beyond = torch.where(here, end_value, after), torch.where(here, end_gain, beyond)
            v_goal, a_goal = torch.where(begins, self.goal[:, u], v_goal), torch.where(begins, gain, a_goal)
            fresh, last = torch.where(here, begins, fresh), last & ~here
        return out[0], out[1], out[2]

    @property
    def _tail_goal(self) -> Tensor:
        """V_goal of each row's last segment [B], read at its first turn; 0 unless the row is open."""
        number = self.begin.cumsum(dim=1)
        first = self.begin & (number == number[:, -1:]) & self.open[:, None]
        return torch.where(first, self.goal, torch.zeros((), dtype=self.goal.dtype)).sum(dim=1)


def reading_places(turns: Steps, part: Tensor, level: str) -> Tensor:
    """The tokens [B,T] before which a level's critic is read: the first of its part in each turn, else of the turn."""
    inside = turns.ids >= 0
    own = inside & _at_level(part, level)
    wanted = inside & (own | ~(turns.to_tokens(_holds(own, turns).float()) > 0))
    width = wanted.shape[1]
    places = torch.arange(width, device=part.device).expand_as(wanted)
    size = turns.present.numel()
    first = torch.full((size + 1,), width, device=part.device)
    first.scatter_reduce_(0, torch.where(wanted, turns.ids, size).reshape(-1), places.reshape(-1), reduce="amin")
    return wanted & (segments.spread(first[:size], turns.ids) == places)


def beginning(turns: Steps, part: Tensor) -> Tensor:
    """The turns [B,U] that begin a segment: a row's first, and those that decide to switch."""
    return turns.present & ((turns.present.cumsum(dim=1) == 1) | _holds(part == SWITCH, turns))


def _at_level(part: Tensor, level: str) -> Tensor:
    return torch.stack([part == number for number in _PARTS[level]]).any(dim=0)


def _holds(chosen: Tensor, turns: Steps) -> Tensor:
    """Which turns [B,U] hold a chosen token [B,T]."""
    ids = torch.where(chosen, turns.ids, -1)
    count = segments.total(torch.ones_like(ids, dtype=turns.tokens.dtype), ids, turns.present.numel())
    return count.reshape(turns.present.shape) > 0


def _read(values: Tensor, turns: Steps, part: Tensor, level: str) -> Tensor:
    """A critic's number of each turn [B,U]; 0 where there is no turn."""
    ids = torch.where(reading_places(turns, part, level), turns.ids, -1)
    return segments.total(values, ids, turns.present.numel()).reshape(turns.present.shape)


def _at_last_turn(reward: Tensor, turns: Steps) -> Tensor:
    to_come = turns.present.long().flip(1).cumsum(1).flip(1)
    return torch.where(turns.present & (to_come == 1), reward[:, None], torch.zeros((), dtype=reward.dtype))
