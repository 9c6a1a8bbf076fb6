"""MatchTIR against GRPO on the outcome alone, with four tools of which two are needed: how many calls are redundant?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.core.types import Abstain, Problem, Rollout, Turn
from truegain.methods import reward
from truegain.recipes.grpo import grpo
from truegain.recipes.matchtir import matchtir

STEPS, PROMPTS, SAMPLES, LR = 150, 8, 16, 0.05
TOOLS, TURNS = 4, 7
ANSWER = TOOLS  # the action after those of the tools
KNOWS = 0.9  # chance of a right answer when both tools of the trace were called
PAIRS = tuple(combinations(range(TOOLS), 2))
TEST_ROWS = 3000


@cache
def _turn_rewards(pair: int, calls: tuple[int, ...], right: bool) -> tuple[float, ...]:
    """The turns' rewards of a row that made these calls and then answered, by the recipe's own scorer."""
    gold = [{"name": f"tool {tool}", "parameters": {}} for tool in PAIRS[pair]]
    problem = Problem("p", "", "right", {"calls": gold})
    facts = {"calls": [{"name": f"tool {tool}", "parameters": {}} for tool in calls], "final": "right" if right else ""}
    turns = tuple(Turn("policy", n, n + 1) for n in range(len(calls) + 1))
    found = reward.match_calls(problem, Rollout(problem, (), (), (), "", "stop", turns, facts=facts))
    assert not isinstance(found, Abstain)
    return tuple(found["turn_reward"])


def _play(logits: Tensor, pair: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Actions and states [B, TURNS] (-1 past the end) and whether the answer is right [B].

    The state is which tools were called. The last turn is always an answer.
    """
    called = torch.zeros_like(pair)
    open_rows = torch.ones_like(pair, dtype=torch.bool)
    actions, states = [], []
    for turn in range(TURNS):
        drawn = torch.multinomial(logits.detach()[pair, called].softmax(dim=1), 1, generator=rng)[:, 0]
        action = torch.full_like(drawn, ANSWER) if turn + 1 == TURNS else drawn
        actions.append(torch.where(open_rows, action, -1))
        states.append(torch.where(open_rows, called, -1))
        calls = open_rows & (action != ANSWER)
        called = torch.where(calls, called | 2 ** action.clamp(max=TOOLS - 1), called)
        open_rows = calls
    wanted = torch.tensor([sum(2**tool for tool in tools) for tools in PAIRS])[pair]
    right = ((called & wanted) == wanted) & (torch.rand(len(pair), generator=rng) < KNOWS)
    return torch.stack(actions, dim=1), torch.stack(states, dim=1), right


def _trained(form: Train, seed: int) -> dict[str, float]:
    """Redundant calls per row and the share of right answers, after training."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.zeros(len(PAIRS), 2**TOOLS, TOOLS + 1, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROMPTS).repeat_interleave(SAMPLES)
    for _ in range(STEPS):
        pair = torch.randint(len(PAIRS), (PROMPTS,), generator=rng)[group]
        actions, states, right = _play(logits, pair, rng)
        # The forced answer of the last turn was not the policy's choice.
        mask = (actions >= 0) & (torch.arange(TURNS) + 1 < TURNS)
        chosen = logits[pair[:, None], states.clamp(min=0)].log_softmax(dim=2)
        logp = chosen.gather(2, actions.clamp(min=0)[:, :, None])[:, :, 0]
        batch = Batch(
            mask=mask,
            turn=torch.where(actions >= 0, torch.arange(TURNS), -1),
            group=group,
            correct=right.float(),
            turn_reward=_rewards(pair, actions, right),
            old_logp=logp.detach(),
        )
        batch, _ = arithmetic.reward_stage(form, batch, {})
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logp).backward()
        optimiser.step()
    pair = torch.arange(TEST_ROWS) % len(PAIRS)
    actions, _, right = _play(logits, pair, rng)
    needed = torch.tensor(PAIRS)[pair]
    useful = (actions[:, :, None] == needed[:, None, :]).any(dim=1).sum(dim=1)
    made = ((actions >= 0) & (actions != ANSWER)).sum(dim=1)
    return {"redundant": float((made - useful).double().mean()), "right": float(right.double().mean())}


def _rewards(pair: Tensor, actions: Tensor, right: Tensor) -> Tensor:
    out = torch.full(actions.shape, float("nan"))
    for i, (which, row, ok) in enumerate(zip(pair.tolist(), actions.tolist(), right.tolist(), strict=True)):
        found = _turn_rewards(which, tuple(a for a in row if 0 <= a < TOOLS), ok)
        out[i, : len(found)] = torch.tensor(found)
    return out


def _one_seed(seed: int) -> Mapping[str, float]:
    arms = {"outcome": _trained(grpo(), seed), "matchtir": _trained(matchtir(beta=0.0, entropy=0.0), seed)}
    return {f"{name}, {what}": value for name, found in arms.items() for what, value in found.items()}


CLAIM = Claim(
    name="matchtir",
    system="matchtir",
    states="With four tools of which a problem needs two, after 150 updates rows make less than half as many redundant "
    "calls under MatchTIR as under GRPO on the outcome: half of GRPO's number minus MatchTIR's is above 0.",
    unit="redundant calls per row",
    one_seed=_one_seed,
    effect=lambda arms: arms["outcome, redundant"] / 2 - arms["matchtir, redundant"],
    threshold=0.0,
)
