"""Corrections for a checker that errs: derivations, enumeration, and what normalisation makes of them."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (fills the systems)
from truegain.core.errors import SettingError, WiringError
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.core.types import Abstain, Problem, Rollout
from truegain.methods.credit import group_normalise, leave_one_out
from truegain.methods.verifier import (
    appeals,
    false_reject_rate,
    forward_correction,
    noisy_checker,
    unbiased_by_prompt,
    unbiased_verdict,
)
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, check, train

RATES = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))
NAN = float("nan")


def by_row(rates: list[torch.Tensor], verdict: torch.Tensor) -> torch.Tensor:
    return unbiased_by_prompt(verdict, *rates, floor=0.05)


def mean_of(correct: Any, truth: int, accept: float, reject: float) -> float:
    """E[correction | truth], by enumerating the verdicts."""
    chance = {1: 1 - reject, 0: reject} if truth else {1: accept, 0: 1 - accept}
    return sum(p * float(correct(torch.tensor([float(v)], dtype=torch.float64))) for v, p in chance.items())


def test_a_worked_example() -> None:
    # rho0 .1, rho1 .3: (0 - .1) / .6 = -1/6, (1 - .1) / .6 = 1.5; forward .3 - 1 = -.7 and .3.
    verdict = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(
        unbiased_verdict(verdict, false_accept=0.1, false_reject=0.3), torch.tensor([-1 / 6, 1.5])
    )
    torch.testing.assert_close(forward_correction(verdict, false_reject=0.3), torch.tensor([-0.7, 0.3]))


@given(rates=RATES)
def test_backward_is_the_truth_on_average_and_forward_is_nothing_for_a_right_answer(rates: tuple[float, float]) -> None:
    accept, reject = rates
    for truth in (0, 1):
        found = mean_of(lambda r: unbiased_verdict(r, false_accept=accept, false_reject=reject), truth, *rates)
        assert found == pytest.approx(truth, abs=1e-9)
        own = [torch.full((1,), rate, dtype=torch.float64) for rate in rates]
        by_prompt = mean_of(functools.partial(by_row, own), truth, *rates)
        assert by_prompt == pytest.approx(truth, abs=1e-9)
        forward = mean_of(lambda r: forward_correction(r, false_reject=reject), truth, *rates)
        assert forward == pytest.approx(0.0 if truth else -(1 - accept - reject), abs=1e-9)


def test_without_errors_backward_is_the_verdict_and_forward_the_verdict_less_one() -> None:
    verdict = torch.tensor([0.0, 1.0])
    assert torch.equal(unbiased_verdict(verdict), verdict) and torch.equal(forward_correction(verdict), verdict - 1)


@given(rates=RATES, verdicts=st.lists(st.integers(0, 1), min_size=2, max_size=8))
def test_a_groups_deviation_cancels_corrections_at_equal_rates(rates: Any, verdicts: list[int]) -> None:
    reward = torch.tensor(verdicts, dtype=torch.float64)
    group, mask = torch.zeros(len(verdicts), dtype=torch.long), torch.ones(len(verdicts), 1, dtype=torch.bool)
    backward = unbiased_verdict(reward, false_accept=rates[0], false_reject=rates[1])
    forward = forward_correction(reward, false_reject=rates[1])
    plain = group_normalise(reward, group, mask, eps=1e-9)
    for fixed in (backward, forward):
        torch.testing.assert_close(group_normalise(fixed, group, mask, eps=1e-9), plain, atol=1e-6, rtol=1e-6)
    # Without a deviation backward keeps its scale, and forward's constant is gone.
    scale = 1 / (1 - sum(rates))
    torch.testing.assert_close(leave_one_out(backward, group, mask), scale * leave_one_out(reward, group, mask))
    torch.testing.assert_close(leave_one_out(forward, group, mask), leave_one_out(reward, group, mask))


def test_rates_that_reach_one_together_are_refused_and_a_nearly_blind_checker_is_bounded() -> None:
    for rates in ((0.5, 0.5), (0.9, 0.2), (-0.1, 0.0)):
        with pytest.raises(SettingError, match="below 1 together"):
            unbiased_verdict(torch.ones(1), false_accept=rates[0], false_reject=rates[1])
    with pytest.raises(SettingError, match="below 1 together"):
        forward_correction(torch.ones(1), false_reject=1.0)
    accept, reject = torch.tensor([0.5, NAN, 0.0]), torch.tensor([0.5, 0.0, NAN])
    assert unbiased_by_prompt(torch.ones(3), accept, reject, floor=0.1).tolist() == [5.0, 1.0, 1.0]
    with pytest.raises(SettingError, match="floor=0"):
        unbiased_by_prompt(torch.ones(1), torch.zeros(1), torch.zeros(1), floor=0.0)


def rows(count: int, correct: float, problem: str = "p") -> list[Rollout]:
    facts = {"correct": correct}
    return [Rollout(Problem(problem, "a"), (), (), (), "x", "eos", (), facts=facts, key=7 * k) for k in range(count)]


@pytest.mark.parametrize(("correct", "rate"), [(0.0, 0.1), (1.0, 0.3)])
def test_the_channel_errs_at_its_rates_and_repeats(correct: float, rate: float) -> None:
    made = rows(4000, correct)
    found: list[Any] = [noisy_checker(r.problem, r, false_accept=0.1, false_reject=0.3) for r in made]
    wrong = sum(f["score"] != correct for f in found) / len(found)
    assert abs(wrong - rate) < 4 * math.sqrt(rate * (1 - rate) / len(found))
    assert found[:9] == [noisy_checker(r.problem, r, false_accept=0.1, false_reject=0.3) for r in made[:9]]


def test_a_share_of_the_problems_is_noisy_and_says_so() -> None:
    made = [r for n in range(400) for r in rows(1, 1.0, f"p{n}")]
    found: list[Any] = [noisy_checker(r.problem, r, false_reject=0.5, share=0.5) for r in made]
    noisy = [f for f in found if f["false_reject"] == 0.5]
    assert 140 < len(noisy) < 260 and all(f["score"] == 1.0 for f in found if f not in noisy)
    assert isinstance(noisy_checker(Problem("p", ""), Rollout(Problem("p", ""), (), (), (), "", "eos", ())), Abstain)


def test_only_rejected_rows_are_appealed_and_an_abstention_is_no_verdict() -> None:
    asked: list[Rollout] = []

    def outcomes(found: list[Rollout]) -> list[float | Abstain]:
        asked.extend(found)
        return [Abstain("no") if n == 0 else float(n % 2) for n in range(len(found))]

    made = rows(40, 0.0)
    score = torch.tensor([0.0, 1.0] * 20)
    loop = SimpleNamespace(judge=lambda spec: SimpleNamespace(outcomes=outcomes))
    columns, logs = appeals(loop, made, score, share=0.5)
    assert all(float(score[made.index(r)]) == 0 for r in asked) and 3 < len(asked) < 17
    assert columns["appeal"][1::2].isnan().all() and int((~columns["appeal"].isnan()).sum()) == len(asked) - 1
    assert logs == {"truegain/appeals": float(len(asked)), "truegain/appeals_abstained": 1 / len(asked)}
    nobody = SimpleNamespace(judge=lambda spec: 1 / 0)
    assert appeals(nobody, made, score, share=0.0)[0]["appeal"].isnan().all()
    with pytest.raises(SettingError, match="share=2"):
        appeals(nobody, made, score, share=2.0)


def test_the_rate_is_that_of_the_channel_after_many_steps() -> None:
    """Right answers 40 % of the time, rejected at .3: the estimate must come near, from a quarter of the rejected."""
    rng, fold = torch.Generator().manual_seed(0), false_reject_rate(decay=0.95)
    state, out = fold.init(), {}
    for _ in range(200):
        truth = torch.rand(64, generator=rng) < 0.4
        score = (truth & (torch.rand(64, generator=rng) >= 0.3)).float()
        asked = (score == 0) & (torch.rand(64, generator=rng) < 0.25)
        state, out = fold.update(state, score=score, appeal=torch.where(asked, truth.float(), NAN))
    assert abs(out["unbiased_verdict.false_reject"] - 0.3) < 0.05


def test_the_rate_is_clipped_and_steps_without_appeals_change_nothing() -> None:
    fold = false_reject_rate(decay=0.0, cap=0.49)
    score, appeal = torch.zeros(4), torch.tensor([1.0, 1.0, NAN, NAN])
    state, out = fold.update(fold.init(), score=score, appeal=appeal)
    assert out == {"unbiased_verdict.false_reject": 0.49}
    assert fold.update(state, score=score, appeal=torch.full((4,), NAN)) == (state, {})
    assert fold.update(fold.init(), score=score, appeal=torch.zeros(4))[1] == {"unbiased_verdict.false_reject": 0.0}


CHOICES = [("backward", "estimated"), ("backward", "prompt"), ("forward", "estimated"), ("none", "given")]


@pytest.mark.parametrize(("correction", "rates"), CHOICES)
def test_two_real_steps_and_the_rate_that_they_set(correction: str, rates: str, tmp_path: Path) -> None:
    knobs = {"correction": correction, "rates": rates, "noise": (0.1, 0.4), "appeals": 1.0}
    (form,) = build("noisy-verifier-correction", **knobs)
    form = loop_with(form, steps=2, prompts=4, samples=4, max_tokens=24, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as folder:
        lines = list(train(Setup(form, Policy.load("tiny"), make("sort"), folder, 0), lambda: None))
    steps: list[dict[str, Any]] = [line for line in lines if line["kind"] == "step"]
    told = [name for name in steps[0] if name.startswith("set/") and name.endswith("false_reject")]
    assert len(steps) == 2 and bool(told) == (rates == "estimated" and correction != "none")
    assert all(0 <= steps[0][name] <= 0.49 for name in told)


def test_forward_weights_know_no_rates_by_prompt_and_say_so() -> None:
    with pytest.raises(SettingError, match="rates=prompt goes with correction=backward"):
        build("noisy-verifier-correction", correction="forward", rates="prompt")


def test_a_rate_that_an_estimate_could_bring_to_one_is_refused_before_training() -> None:
    with pytest.raises(SettingError, match=r"false_accept=0\.6 must be below 0\.51"):
        build("noisy-verifier-correction", false_accept=0.6)
    build("noisy-verifier-correction", false_accept=0.6, rates="given")


def test_a_form_without_a_verdict_is_refused_before_training() -> None:
    (form,) = build("noisy-verifier-correction")
    bare = form.__class__(**{**form.__dict__, "score": ()})
    with pytest.raises(WiringError, match=r"needs column 'score', which task 'sort' does not supply"):
        check(bare, make("sort"))  # pyright: ignore[reportArgumentType]
