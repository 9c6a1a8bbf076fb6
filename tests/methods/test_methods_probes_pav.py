"""PAV: the progress of a step under a prover, and its sum with the outcome."""

from __future__ import annotations

from itertools import pairwise
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.claims.pav import HIDDEN, TOKENS, _values  # pyright: ignore[reportPrivateUsage]
from truegain.claims.updates import step_on
from truegain.core.batch import Batch
from truegain.core.errors import SettingError, WiringError
from truegain.core.settings import loop_with
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods.credit import leave_one_out, prover_progress
from truegain.policy.policy import Policy
from truegain.recipes.pav import pav
from truegain.tasks import make
from truegain.train.drawing import Draw
from truegain.train.folder import RunFolder
from truegain.train.models import load_models
from truegain.train.setup import Setup, State
from truegain.train.shaping import shape

SHARES = st.lists(st.integers(0, 4), min_size=2, max_size=6)


def progress(rights: list[int | None], outcome: float, **knobs: Any) -> list[float]:
    """What the probe gives a row of len(rights) one-token steps: rights[c] of 4 tries from c tokens; None abstains."""
    steps, tries = len(rights), 4
    turns = (Turn("policy", 0, steps),)
    row = Rollout(Problem("a", "q"), (), (5,) * steps, (0.0,) * steps, "x" * steps, "eos", turns)
    row = Rollout(**{**vars(row), "facts": {"correct": outcome}})

    def judged(count: int | None) -> list[Any]:
        facts = (
            [{"abstained": "no"}] * tries if count is None else [{"correct": float(n < count)} for n in range(tries)]
        )
        return [SimpleNamespace(problem=row.problem, facts=f) for f in facts]

    class Loop:
        def again(self, problems: Any, samples: int, *, role: str) -> list[Any]:
            assert (samples, role, len(problems)) == (tries, "prover", 1)
            return judged(rights[0])

        def fork(self, places: Any, samples: int, *, role: str) -> list[Any]:
            assert (samples, role) == (tries, "prover")
            return [found for _, cut in places for found in judged(rights[cut])]

    roles = {"prover": SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: "x" * len(ids)))}
    step = torch.arange(steps)[None]
    return prover_progress(roles, Loop(), [row], step, samples=tries, **knobs)["step_reward"][0].tolist()


def test_the_worked_example_of_the_catalog() -> None:
    # Q = .3, .5, .2 and K = 4: 1 - .7^4 = .7599, 1 - .5^4 = .9375, 1 - .8^4 = .5904; steps gain .1776 and lose .3471.
    # Here with quarters, Q = .25, .5, .25 and the row's own verdict 1 at the end:
    # 1 - .75^4 = .6836, .9375, .6836, 1: gains .2539, -.2539, .3164.
    assert progress([1, 2, 1], 1.0, best_of=4) == pytest.approx([0.2539, -0.2539, 0.3164], abs=1e-4)
    from truegain.methods.credit._prover_progress import _best  # pyright: ignore[reportPrivateUsage]

    values = [_best(q, 4) for q in (0.3, 0.5, 0.2)]
    assert values == pytest.approx([0.7599, 0.9375, 0.5904])
    assert [b - a for a, b in pairwise(values)] == pytest.approx([0.1776, -0.3471])


@given(rights=SHARES, outcome=st.sampled_from([0.0, 1.0]), tries=st.integers(1, 6))
def test_progress_telescopes_to_the_last_value_minus_the_first(rights: list[int], outcome: float, tries: int) -> None:
    found = progress(list(rights), outcome, best_of=tries)
    assert sum(found) == pytest.approx(outcome - (1 - (1 - rights[0] / 4) ** tries), abs=1e-5)
    assert all(-1 <= value <= 1 for value in found)


@given(low=st.integers(0, 4), high=st.integers(0, 4), tries=st.integers(1, 8))
def test_the_best_of_some_tries_grows_with_the_chance_and_with_the_tries_and_one_try_is_the_chance(
    low: int, high: int, tries: int
) -> None:
    low, high = sorted((low, high))
    (gain, _) = progress([low, high], 0.0, best_of=tries)
    assert gain >= -1e-6
    # From a prompt that is never solved the first step's progress is the value itself.
    assert progress([0, high], 0.0, best_of=tries + 1)[0] >= progress([0, high], 0.0, best_of=tries)[0] - 1e-6
    assert progress([0, high], 0.0)[0] == pytest.approx(high / 4)


def test_where_no_try_was_judged_the_value_stays_and_the_step_gains_nothing() -> None:
    assert progress([1, None, 3], 1.0) == pytest.approx([0.0, 0.5, 0.25])
    assert progress([None, 2, 2], 1.0) == pytest.approx([0.0, 0.0, 0.5])


def test_knobs_and_roles_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingError, match="best_of=0"):
        progress([1, 1], 0.0, best_of=0)
    with pytest.raises(WiringError, match="role 'prover'"):
        prover_progress({"policy": None}, None, [], torch.zeros(0, 0, dtype=torch.long))


def advantages(alpha: float, steps: list[list[float]]) -> torch.Tensor:
    mask = torch.ones(2, 2, dtype=torch.bool)
    batch = Batch(
        mask=mask,
        group=torch.zeros(2, dtype=torch.long),
        reward=torch.tensor([1.0, 0.0]),
        step=torch.tensor([[0, 1], [0, 0]]),
        step_reward=torch.tensor(steps),
        old_logp=torch.zeros(2, 2),
    )
    (found,) = step_on(pav(alpha=alpha), batch).advantages
    assert found is not None
    return found


def test_credit_is_the_outcome_above_the_siblings_and_alpha_times_the_steps_own_progress() -> None:
    # Leave-one-out: 1 and -1. Row 0 has the steps .2 and -.1, row 1 the one step .3.
    steps = [[0.2, -0.1], [0.3, float("nan")]]
    torch.testing.assert_close(advantages(3.0, steps), torch.tensor([[1.6, 0.7], [-0.1, -0.1]]))


def test_alpha_0_and_a_prover_without_progress_both_leave_the_outcome_alone() -> None:
    plain = leave_one_out(torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.long), torch.ones(2, 2).bool())
    assert torch.equal(advantages(0.0, [[0.2, -0.1], [0.3, 0.0]]), plain)
    assert torch.equal(advantages(3.0, [[0.0, 0.0], [0.0, 0.0]]), plain)


def test_on_a_model_the_prover_goes_on_from_every_step_and_the_end_is_the_rows_own_verdict(tmp_path: Path) -> None:
    policy = Policy.load("tiny")
    form = loop_with(pav(best_of=1, samples=2), prompts=2, samples=2, max_tokens=60)
    with RunFolder(tmp_path / "run") as held:
        setup = Setup(form, policy, make("sort,level=4,style=trace"), held)
        models, state = load_models(form, policy, policy.reference()), State()
        rollouts = Draw(setup, models, state, "sampled", "train").fresh(2)
        made = shape(setup, models, state, rollouts)
        batch, spent = made.batch, made.spent
    found = batch["step_reward"]
    # One start per problem: what the rows of a group sum to differs by their own verdicts alone.
    ends = torch.tensor([float(r.facts["correct"]) for r in rollouts])
    starts = (ends - found.nansum(dim=1)).reshape(2, 2)
    torch.testing.assert_close(starts[:, 0], starts[:, 1])
    assert set((starts * 2).round(decimals=4).flatten().tolist()) <= {0.0, 1.0, 2.0} and spent.probed > 0
    assert set((found[found.isfinite()] * 2).round(decimals=4).tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}


def test_the_claims_exact_values_are_binomial_tails() -> None:

    chance = 0.3
    table = _values(torch.full((HIDDEN,), chance))
    tail = sum(comb(TOKENS, k) * chance**k * (1 - chance) ** (TOKENS - k) for k in range(HIDDEN, TOKENS + 1))
    assert float(table[TOKENS, 0]) == pytest.approx(tail, rel=1e-4)
    assert float(table[3, HIDDEN - 3]) == pytest.approx(chance**3, rel=1e-5)
