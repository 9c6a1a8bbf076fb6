"""Log-sigmoid-centred rewards and their references: worked example, oracle, properties, the recipe."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError, WiringError
from truegain.core.settings import loop_with
from truegain.core.types import Problem, Rollout
from truegain.methods.reward import known_reference, log_sigmoid, reference_quantile
from truegain.policy.policy import Policy
from truegain.recipes.lsc_transform import lsc_transform
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, check, train

VALUES = st.lists(st.floats(-30, 30), min_size=1, max_size=4)


def of(rewards: list[float], reference: float = 0.0, **knobs: Any) -> float:
    parts = torch.tensor([rewards], dtype=torch.float64)
    return float(log_sigmoid(parts, torch.full_like(parts, reference), **knobs))


def test_values_and_sums_are_those_of_the_worked_example() -> None:
    # log sigmoid(3) = -ln(1 + e^-3) = -0.04859, of 0 -ln 2, of -3 -0.04859 - 3.
    assert [of([r]) for r in (3.0, 0.0, -3.0)] == pytest.approx([-0.04859, -0.69315, -3.04859], abs=1e-5)
    found = [of([r, s]) for r, s in ((3.0, 0.0), (0.0, 0.0), (-3.0, 3.0))]
    assert found == pytest.approx([-0.74173, -1.38629, -3.09717], abs=1e-5)


def test_the_slope_is_one_minus_the_chance_of_being_good() -> None:
    parts = torch.tensor([[3.0], [0.0], [-3.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_sigmoid(parts, torch.zeros_like(parts)).sum(), parts)
    assert slope.flatten().tolist() == pytest.approx([0.04743, 0.5, 0.95257], abs=1e-5)


@given(VALUES, st.floats(-5, 5))
def test_the_sum_equals_the_formula_is_at_most_0_and_at_most_its_smallest_part(r: list[float], ref: float) -> None:
    parts = [-math.log1p(math.exp(-(x - ref))) if x > ref else (x - ref) - math.log1p(math.exp(x - ref)) for x in r]
    assert of(r, ref) == pytest.approx(math.fsum(parts), rel=1e-9, abs=1e-12)
    assert of(r, ref) <= min(parts) + 1e-12 <= 1e-12
    higher = [x + 0.1 for x in r]
    assert of(higher, ref) > of(r, ref)


def test_far_below_its_reference_a_reward_stays_as_it_is_but_for_the_shift() -> None:
    assert of([2.0], 500.0) == pytest.approx(-498.0)
    assert of([-1e4], 0.0) == -1e4


def test_weights_multiply_and_what_does_not_fit_is_refused() -> None:
    assert of([1.0, -1.0], weights=(2.0, 0.0)) == pytest.approx(2 * of([1.0]))
    assert math.isnan(of([math.nan, 0.0]))
    with pytest.raises(WiringError, match="2 named rewards, with 2 references and 1 weights"):
        log_sigmoid(torch.zeros(1, 2), torch.zeros(1, 2), weights=(1.0,))


def row(name: str, **meta: Any) -> Rollout:
    return Rollout(Problem(name, name, meta=meta), (), (), (), "", "eos", ())


def test_a_reference_is_the_quantile_of_the_samples_of_its_own_prompt() -> None:
    given_parts = {"a": [[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 0.0]], "b": [None, [10.0, 20.0], None, None]}
    asked: list[Any] = []

    def again(problems: list[Problem], samples: int, *, role: str) -> list[Rollout]:
        asked.append((samples, role))
        return [row(p.id) for p in problems for _ in range(samples)]

    def parts(rows: list[Rollout]) -> list[list[float] | None]:
        left = {name: iter(values) for name, values in given_parts.items()}
        return [next(left[r.problem.id]) for r in rows]

    draw = SimpleNamespace(again=again, reward_parts=parts)
    rows = [row("b"), row("a"), row("b")]
    found = reference_quantile(draw, rows, quantile=0.5, samples=4)["reference_reward"]
    assert asked == [(4, "reference")]
    # Medians 1.5 and 1.5 of prompt a; the one sample of b that was judged.
    assert found.tolist() == [[10.0, 20.0], [1.5, 1.5], [10.0, 20.0]]
    given_parts["b"] = [None] * 4
    assert reference_quantile(draw, rows, quantile=1.0, samples=4)["reference_reward"][0].tolist() == [3.0, 3.0]
    given_parts["a"] = [None] * 4
    assert reference_quantile(draw, rows, samples=4)["reference_reward"].isnan().all()
    for bad in ({"quantile": 1.5}, {"samples": 0}):
        with pytest.raises(SettingError, match="reference_quantile"):
            reference_quantile(draw, rows, **bad)  # pyright: ignore[reportArgumentType]


def test_known_references_come_from_the_problem_or_are_the_same_for_all() -> None:
    rows = [row("a", reference_reward=[1.0, -1.0]), row("b")]
    found = known_reference(rows, values=(0.5, 0.25))["reference_reward"]
    assert found.tolist() == [[1.0, -1.0], [0.5, 0.25]]


def test_two_steps_on_tiny_are_finite_and_every_reward_is_a_log_probability(tmp_path: Path) -> None:
    form = loop_with(lsc_transform(samples=3), steps=2, prompts=3, samples=4, max_tokens=12, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(form, Policy.load("tiny"), make("add"), held), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2 and all(math.isfinite(line["loss"]) and line["reward"] < 0 for line in steps)
    assert steps[0]["ledger"]["probed"]


def test_a_task_without_the_column_is_refused_by_name() -> None:
    with pytest.raises(WiringError, match=r"well_formed needs column 'answered'.*bandit.*checker"):
        check(lsc_transform(), make("bandit"))
