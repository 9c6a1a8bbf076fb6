"""Estimates of an action's advantage with subgoals and without, from the same exact critics, at horizon 30."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.methods.credit import gae, hierarchical_advantage

GOALS, STEPS, HORIZON = 3, 5, 30
FORWARD, SLIP, EPISODES = 0.55, 0.1, 4000


def _values() -> Tensor:
    """Exact chance to finish, [turns left, moves made]: a turn moves on with chance FORWARD (1 - SLIP)."""
    goal = GOALS * STEPS
    table = torch.zeros(HORIZON + 1, goal + 1, dtype=torch.float64)
    table[:, goal] = 1.0
    move = FORWARD * (1 - SLIP)
    for left in range(1, HORIZON + 1):
        table[left, :-1] = move * table[left - 1, 1:] + (1 - move) * table[left - 1, :-1]
    return table


def _one_seed(seed: int) -> Mapping[str, float]:
    rng, value, goal = torch.Generator().manual_seed(seed), _values(), GOALS * STEPS
    made = torch.zeros(EPISODES, HORIZON + 1, dtype=torch.long)
    forward = torch.rand(EPISODES, HORIZON, generator=rng) < FORWARD
    moves = forward & (torch.rand(EPISODES, HORIZON, generator=rng) >= SLIP)
    for t in range(HORIZON):
        made[:, t + 1] = (made[:, t] + moves[:, t].long()).clamp(max=goal)
    before, left = made[:, :-1], torch.arange(HORIZON, 0, -1)
    alive = before < goal
    v = value[left, before]
    stay, on = value[left - 1, before], value[left - 1, (before + 1).clamp(max=goal)]
    true = torch.where(forward, (1 - SLIP) * on + SLIP * stay, stay) - v
    # A subgoal is reached after every STEPS moves; the next turn switches to the next one.
    switch = torch.zeros_like(alive)
    switch[:, 1:] = (before[:, 1:] % STEPS == 0) & (before[:, 1:] != before[:, :-1])
    switch[:, 0] = True
    part = torch.stack([switch.long(), torch.full_like(before, 3)], dim=2).flatten(1)
    mask, turn = alive.repeat_interleave(2, dim=1), torch.arange(HORIZON).repeat_interleave(2).expand(EPISODES, -1)
    part, turn = torch.where(mask, part, -1), torch.where(mask, turn, -1)
    reward = (made[:, -1] == goal).double()
    whole = v.repeat_interleave(2, dim=1)
    nothing, cut = torch.zeros(EPISODES, HORIZON, dtype=torch.float64), torch.zeros(EPISODES, dtype=torch.bool)
    levels = whole[..., None].expand(-1, -1, 3)
    found = hierarchical_advantage(reward, nothing, levels, cut, turn, part, mask, scale=False)[:, 1::2]
    arms = {"hierarchical": found} | {f"gae {lam}": gae(reward, v, alive, lam=lam) for lam in (0.95, 1.0)}
    return {name: float(((estimate - true)[alive] ** 2).mean()) for name, estimate in arms.items()}


CLAIM = Claim(
    name="hiper-hae",
    system="hiper-hae",
    states="On a walk through three subgoals of five moves each within 30 turns, paid only at its end, from the same "
    "exact critics and at the same lambda of 1, the mean squared error of an action's estimated advantage is more than "
    "twice as large by flat GAE over turns as by segments; GAE at lambda 0.95 stands beside it.",
    unit="ratio of variances",
    one_seed=_one_seed,
    effect=lambda arms: arms["gae 1.0"] / arms["hierarchical"],
    threshold=2.0,
)
