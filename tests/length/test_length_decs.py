"""DECS: length costs only after the first right step, and easy problems are a controlled share of the batch."""

from __future__ import annotations

import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from length_runs import two_steps
from torch import Tensor

import truegain.recipes  # noqa: F401  registers them
from truegain.core.component import spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import members
from truegain.core.system import build
from truegain.core.types import Problem, Rollout
from truegain.methods.credit import group_normalise
from truegain.methods.exploration import dosed_sampling
from truegain.methods.length import decoupled_length, prefix_controller
from truegain.methods.length._decoupled_length import first_answer, redundant_span
from truegain.train.online import check

NAN = float("nan")


def case(seed: int) -> dict[str, Tensor]:
    """Random rows of three groups, with steps that begin anywhere and answers in some."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 9, (6, 1), generator=rng)
    mask = torch.arange(8) < lengths
    step = torch.where(mask, torch.randint(0, 2, (6, 8), generator=rng).cumsum(1), -1)
    step = torch.where(torch.arange(8) >= lengths - 1, -1, step)  # the last token is the answer's, in no step
    return {
        "correct": torch.randint(0, 2, (6,), generator=rng).double(),
        "has_answer": torch.randint(0, 2, (6, 9), generator=rng).double(),
        "step": step,
        "group": torch.tensor([0, 1, 0, 1, 2, 0]),
        "mask": mask,
    }


def oracle(c: dict[str, Tensor], beta: float, limit: int) -> list[list[float]]:
    rows, width = c["mask"].shape
    value = [[0.0] * width for _ in range(rows)]
    for i in range(rows):
        s = float(c["correct"][i])
        value[i] = [s * (1 + beta)] * width
        ids = [int(v) if m else -1 for v, m in zip(c["step"][i], c["mask"][i], strict=True)]
        hits = [k for k in sorted(set(ids) - {-1}) if float(c["has_answer"][i, k]) >= 0.5]
        after = [t for t, k in enumerate(ids) if hits and k > hits[0]]
        if s > 0 and after:
            for t in range(after[0], after[-1] + 1):
                value[i][t] = s + beta * (1 - int(c["mask"][i].sum()) / limit)
    out = [[0.0] * width for _ in range(rows)]
    for i in range(rows):
        mates = [j for j in range(rows) if c["group"][j] == c["group"][i]]
        for t in range(width):
            own = [value[j][t] for j in mates]
            spread = statistics.stdev(own) if len(own) > 1 else 0.0
            out[i][t] = (value[i][t] - statistics.fmean(own)) / (spread + 1e-6) if c["mask"][i, t] else 0.0
    return out


def test_the_worked_example_of_the_catalog() -> None:
    # Places 0-2: rewards 1.1, 1.1, 0, mean .7333, sample deviation .6351: .5773, .5773, -1.1547. Places 3 and 4: 1.0
    # (beta (1 - 5/5) = 0), 1.1 (past row 2's end), 0: mean .7, deviation .6083: .4932, .., -1.1508.
    mask = torch.arange(5) < torch.tensor([5, 3, 5])[:, None]
    step = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, -1, -1], [0, 0, 0, 0, 0]])
    known = torch.tensor([[1.0, 0.0], [1.0, NAN], [0.0, NAN]])
    found, said = decoupled_length(
        torch.tensor([1.0, 1.0, 0.0]), known, step, torch.zeros(3).long(), mask, max_tokens=5
    )
    wanted = [[0.5773] * 3 + [0.4932] * 2, [0.5773] * 3 + [0.0] * 2, [-1.1547] * 3 + [-1.1508] * 2]
    for row, expected in zip(found.tolist(), wanted, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    assert float(said["truegain/redundant"]) == pytest.approx(2 / 8)


@given(seed=st.integers(0, 5000), beta=st.sampled_from([0.0, 0.1, 0.5]))
def test_it_agrees_with_a_slow_oracle(seed: int, beta: float) -> None:
    c = case(seed)
    found = decoupled_length(**c, beta=beta, max_tokens=8)[0]
    for row, wanted in zip(found.tolist(), oracle(c, beta, 8), strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)
    assert not found[~c["mask"]].any(), "nothing outside the mask"


@given(seed=st.integers(0, 2000))
def test_redundant_tokens_earn_less_than_needed_ones_whose_reward_no_length_changes(seed: int) -> None:
    c = case(seed)
    span = redundant_span(c["correct"], c["has_answer"], c["step"], c["mask"])
    long = {**c, "mask": c["mask"]}
    a, b = (decoupled_length(**long, beta=0.1, max_tokens=t)[0] for t in (8, 80))
    # A group of one has nothing to compare with; elsewhere a shorter budget only moves places where some are redundant.
    touched = torch.stack([span[c["group"] == g].any(0) for g in c["group"].tolist()])
    torch.testing.assert_close(a[~touched], b[~touched])
    if bool(span.any()):
        row, place = (int(v) for v in span.nonzero()[0])
        rivals = (c["group"] == c["group"][row]) & (c["correct"] > 0) & ~span[:, place] & c["mask"][:, place]
        assert all(a[row, place] < a[other, place] for other in rivals.nonzero().flatten().tolist())


def test_without_beta_it_is_grpos_advantage_and_an_all_right_place_is_exactly_0() -> None:
    c = case(3)
    plain = group_normalise(c["correct"], c["group"], c["mask"])
    torch.testing.assert_close(decoupled_length(**c, beta=0.0, max_tokens=8)[0], plain)
    ones = {**c, "correct": torch.ones(6).double(), "has_answer": torch.zeros(6, 9).double()}
    assert not decoupled_length(**ones, max_tokens=8)[0].any()


def test_unknown_answers_make_all_of_it_needed_and_groups_of_one_have_a_choice() -> None:
    step = torch.tensor([[0, 1, 2]])
    args = (torch.ones(1), torch.full((1, 3), NAN), step, torch.zeros(1).long(), step >= 0)
    assert not decoupled_length(*args, max_tokens=3)[0].any()
    raw = decoupled_length(*args, singleton="raw", max_tokens=3)[0]
    assert raw[0].tolist() == pytest.approx([1.1] * 3, abs=1e-5)
    empty = (
        torch.ones(1),
        torch.zeros(1, 0),
        torch.zeros(1, 0).long(),
        torch.zeros(1).long(),
        torch.zeros(1, 0).bool(),
    )
    assert decoupled_length(*empty, max_tokens=3)[0].shape == (1, 0)
    assert first_answer(torch.zeros(2, 0), torch.zeros(2, 0).long(), torch.zeros(2, 0).bool()).tolist() == [-1, -1]
    with pytest.raises(SettingError, match="beta=-1"):
        decoupled_length(*args, beta=-1.0, max_tokens=3)


# The share of easy problems


def drawn(*groups: list[float], prompts: int, kappa: float, rounds: int = 0) -> tuple[list[str], int]:
    """Names of the groups that are kept, and how many problems are asked for anew."""
    rows = [Rollout(Problem(str(n), "a"), (), (), (), "", "eos", ()) for n, g in enumerate(groups) for _ in g]
    values = [v for g in groups for v in g]
    one = Rollout(Problem("new", "a"), (), (), (), "", "eos", ())
    loop = SimpleNamespace(prompts=prompts, round=0, rewards=lambda r, first: values, fresh=lambda n: [one] * n)
    found = dosed_sampling(loop, rows, kappa=kappa, rounds=rounds)
    return sorted({r.problem.id for i, r in enumerate(rows) if i not in set(found.drop)}), len(found.add)


MIXED, EASY, WRONG = [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]


def test_no_easy_problem_enters_while_kappa_is_0_or_less_and_hopeless_ones_never_do() -> None:
    for kappa in (0.0, -0.3):
        assert drawn(MIXED, EASY, WRONG, MIXED, prompts=4, kappa=kappa) == (["0", "3"], 0)
    assert drawn(WRONG, WRONG, prompts=2, kappa=0.5) == ([], 0), "an empty batch, not a fault"


@given(st.lists(st.sampled_from([MIXED, EASY, WRONG]), max_size=12), st.integers(1, 6), st.floats(-0.5, 0.95))
def test_easy_groups_are_no_more_than_their_share_and_missing_ones_are_asked_for(
    groups: list[list[float]], prompts: int, kappa: float
) -> None:
    kept, asked = drawn(*groups, prompts=prompts, kappa=kappa, rounds=3)
    easy = sum(groups[int(name)] == EASY for name in kept)
    mixed = len(kept) - easy
    assert easy <= (kappa * mixed / (1 - kappa) + 1e-6 if kappa > 0 else 0)
    assert len(kept) + asked == prompts


def test_a_group_of_one_counts_as_mixed_and_knobs_are_checked() -> None:
    assert drawn([1.0], prompts=1, kappa=0.0) == (["0"], 0)
    for knobs in ({"kappa": 1.0, "rounds": 1}, {"kappa": 0.0, "rounds": -1}):
        with pytest.raises(SettingError, match="dosed_sampling"):
            drawn(MIXED, prompts=1, **knobs)


def seen(control: prefix_controller, state: Any, *firsts: tuple[int, int, float]) -> tuple[Any, Any]:
    """A step of rows with (first right step, steps, outcome)."""
    width = max(count for _, count, _ in firsts)
    answers = torch.zeros(len(firsts), width)
    step = torch.full((len(firsts), width), -1)
    for i, (first, count, _) in enumerate(firsts):
        step[i, :count] = torch.arange(count)
        if first >= 0:
            answers[i, first:] = 1.0
    right = torch.tensor([outcome for _, _, outcome in firsts])
    return control.update(state, has_answer=answers, step=step, mask=step >= 0, correct=right)


def test_kappa_follows_the_change_of_the_prefix_share() -> None:
    control = prefix_controller()
    # Prefix shares 2/4 and 4/4: mean .75, up .25 from .5, times .2.
    state, out = seen(control, control.init(), (1, 4, 1.0), (3, 4, 1.0), (0, 2, 0.0))
    assert out == {"resample.dosed_sampling.kappa": pytest.approx(0.05)}
    # Down to 1/4: .05 + .2 (.25 - .75) = -.05, which is set as 0 and kept as it is.
    state, out = seen(control, state, (0, 4, 1.0))
    assert out == {"resample.dosed_sampling.kappa": 0.0} and state["kappa"] == pytest.approx(-0.05)
    # No right row with an answer: nothing changes.
    assert seen(control, state, (-1, 3, 1.0), (0, 3, 0.0)) == (state, {})
    with pytest.raises(SettingError, match="prefix_controller"):
        prefix_controller(most=1.0)


@pytest.mark.parametrize("judge", ["forced", "text"])
def test_two_steps_are_finite(tmp_path: Path, judge: str) -> None:
    lines = two_steps(
        tmp_path / "run",
        "decs",
        task="countdown,style=trace",
        settings={"dosed_sampling.rounds": 1},
        judge=judge,
        samples=2,
    )
    assert any(line["truegain/trained_rows"] > 0 for line in lines)


def test_the_recipe_wires_judge_credit_and_controller() -> None:
    (form,) = build("decs", judge="text", beta=0.2)
    assert [spec_of(m).name for m in members(form.probe)] == ["stated_answers"]
    assert [spec_of(m).name for m in members(build("decs")[0].probe)] == ["forced_answers", "answers_by_probe"]
    assert spec_of(members(form.fold)[0]).name == "prefix_controller"
    with pytest.raises(SettingError, match="judge"):
        build("decs", judge="model")

    class Unchecked:
        name, supplies = "unchecked", ("score",)

    with pytest.raises(WiringError, match="needs column 'correct', which task 'unchecked' does not supply"):
        check(form, Unchecked())  # pyright: ignore[reportArgumentType]
