"""Rewards of steps: min-form and summed returns, separators, selection by process, buying rollouts, the exact judge."""

from __future__ import annotations

import math
import random
import statistics
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import SettingError, WiringError
from truegain.core.types import Problem, Rollout
from truegain.methods.credit import by_step, min_form, spare_separators, step_returns
from truegain.methods.exploration import buy_by_risk, known_prior, process_consistent, running_reward
from truegain.methods.reward import judged_steps
from truegain.tasks import make
from truegain.tasks.judges import make_judge
from truegain.tasks.verdicts import pieces, step_verdicts

D = torch.float64
NUMBERS = st.integers(-8, 8).map(lambda n: n / 8)
# Rows of steps: (reward, tokens) each.
TABLE = st.lists(st.lists(st.tuples(NUMBERS, st.integers(1, 2)), max_size=4), min_size=1, max_size=5)


def columns(rows: list[list[tuple[float, int]]]) -> tuple[Tensor, Tensor]:
    """``step_reward`` and ``step`` of rows of (reward, tokens)."""
    ids = [[s for s, (_, n) in enumerate(row) for _ in range(n)] for row in rows]
    width, most = max(1, *map(len, ids)), max(1, *map(len, rows))
    step = torch.tensor([[*r, *[-1] * (width - len(r))] for r in ids])
    rewards = [[*[p for p, _ in row], *[math.nan] * (most - len(row))] for row in rows]
    return torch.tensor(rewards, dtype=D), step


def by_steps(out: Tensor, rows: list[list[tuple[float, int]]]) -> list[list[float]]:
    """One number per step; all tokens of a step have it, and nothing else has any."""
    found: list[list[float]] = []
    for values, row in zip(out.tolist(), rows, strict=True):
        at, mine = 0, []
        for _, n in row:
            assert values[at : at + n] == [values[at]] * n
            mine.append(values[at])
            at += n
        assert not any(values[at:])
        found.append(mine)
    return found


def least(rows: list[list[tuple[float, int]]], groups: list[int] | None = None, **knobs: Any) -> list[list[float]]:
    given_, step = columns(rows)
    return by_steps(min_form(given_, step, torch.tensor(groups or [0] * len(rows)), step >= 0, **knobs), rows)


# Min-form


def test_the_catalogs_steps_are_worth_about_their_minimum_up_to_it_and_nothing_after() -> None:
    # w = softmax(-6, -2, 5, -4) = 0.0000, 0.0009, 0.9989, 0.0001; r* = 0.00001, 0.0002, -0.4995, 0.00005.
    (found,) = least([[(0.6, 1), (0.2, 1), (-0.5, 1), (0.4, 1)]])
    assert found == pytest.approx([-0.4992, -0.4992, -0.4994, 0.0], abs=1e-4)


@given(TABLE, st.lists(st.integers(0, 1), min_size=5, max_size=5), st.sampled_from(["token", "step", "none"]))
def test_min_form_equals_the_formula_written_as_loops(
    rows: list[list[tuple[float, int]]], groups: list[int], baseline: str
) -> None:
    groups = groups[: len(rows)]
    paid: list[list[float]] = []
    for row in rows:
        total = sum(math.exp(-p / 0.1) for p, _ in row)
        paid.append([math.exp(-p / 0.1) / total * p for p, _ in row])
    wanted: list[list[float]] = []
    for i, row in enumerate(rows):
        units = [[n if baseline == "token" else 1 for _, n in r] for r in rows]
        others = [j for j in range(len(rows)) if groups[j] == groups[i] and j != i and units[j]]
        rate = sum(sum(paid[j]) for j in others) / sum(sum(units[j]) for j in others) if others else 0.0
        rate = 0.0 if baseline == "none" else rate
        less = [r - rate * u for r, u in zip(paid[i], units[i], strict=True)]
        wanted.append([sum(less[s:]) for s in range(len(row))])
    for found, want in zip(least(rows, groups, baseline=baseline), wanted, strict=True):
        assert found == pytest.approx(want, abs=1e-9)


@given(st.lists(NUMBERS, min_size=1, max_size=6))
def test_the_sum_lies_between_minimum_and_mean_and_goes_from_one_to_the_other(steps: list[float]) -> None:
    def total(temperature: float) -> float:
        return least([[(p, 1) for p in steps]], temperature=temperature)[0][0]

    low, mean = min(steps), statistics.fmean(steps)
    assert low - 1e-9 <= total(0.1) <= mean + 1e-9
    assert total(1e-4) == pytest.approx(low, abs=1e-9)
    assert total(math.inf) == pytest.approx(mean, abs=1e-9)


@given(st.lists(NUMBERS, min_size=1, max_size=4), st.floats(1.0, 2.0))
def test_a_step_far_above_the_minimum_adds_next_to_nothing(steps: list[float], gap: float) -> None:
    # The catalog says below 0.001 for a gap above 1; the most it can be is (p - total) exp(-gap / T), so with |p| up to
    # 3 here 1e-3 holds at a gap of 1 with room: 4 * exp(-10) = 0.0002.
    short, long = [(p, 1) for p in steps], [*[(p, 1) for p in steps], (min(steps) + gap, 1)]
    assert least([long])[0][0] == pytest.approx(least([short])[0][0], abs=1e-3)


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=2, max_size=5))
def test_with_equal_lengths_the_baselined_totals_sum_to_zero(rows: list[list[float]]) -> None:
    found = least([[(p, 2) for p in row] for row in rows])
    assert sum(row[0] for row in found) == pytest.approx(0.0, abs=1e-9)


def test_a_judge_without_an_answer_spoils_its_group_alone() -> None:
    given_, step = columns([[(math.nan, 1)], [(0.5, 1)], [(0.5, 1)], [(0.25, 1)]])
    out = min_form(given_, step, torch.tensor([0, 0, 1, 1]), step >= 0)
    assert out.isnan().flatten().tolist() == [True, True, False, False]


# Summed returns


@given(TABLE, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from(["none", "group", "batch", "place"]))
def test_step_returns_equal_the_loops(rows: list[list[tuple[float, int]]], gamma: float, pool: Any) -> None:
    groups = [i % 2 for i in range(len(rows))]
    given_, step = columns(rows)
    ids = torch.tensor(groups)
    before = by_steps(step_returns(given_, step, ids, step >= 0, gamma=gamma, before=pool), rows)
    after = by_steps(step_returns(given_, step, ids, step >= 0, gamma=gamma, after=pool), rows)
    first = standard([[p for p, _ in row] for row in rows], groups, pool)
    summed = to_go([[p for p, _ in row] for row in rows], gamma)
    for found, want in ((before, to_go(first, gamma)), (after, standard(summed, groups, pool))):
        for one, two in zip(found, want, strict=True):
            assert one == pytest.approx(two, abs=1e-6)


def to_go(rows: list[list[float]], gamma: float) -> list[list[float]]:
    return [[sum(gamma**k * x for k, x in enumerate(row[s:])) for s in range(len(row))] for row in rows]


def standard(rows: list[list[float]], groups: list[int], pool: str) -> list[list[float]]:
    """Every number less the mean of its pool, over the sample deviation; 0 where the pool's are all equal."""

    def name(i: int, s: int) -> Any:
        return {"group": groups[i], "batch": 0, "place": (groups[i], s), "none": (i, s)}[pool]

    if pool == "none":
        return rows
    pools: dict[Any, list[float]] = {}
    for i, row in enumerate(rows):
        for s, x in enumerate(row):
            pools.setdefault(name(i, s), []).append(x)
    return [
        [
            (x - statistics.fmean(p)) / (statistics.stdev(p) + 1e-6) if max(p) - min(p) > 1e-12 else 0.0
            for s, x in enumerate(row)
            for p in [pools[name(i, s)]]
        ]
        for i, row in enumerate(rows)
    ]


def test_what_stands_past_the_last_step_is_not_read_and_a_step_without_tokens_is_skipped() -> None:
    # Step 1 was the tool's: no token of the policy. 1 + 0.5 * 4 = 3.
    step = torch.tensor([[0, 1, 2]])
    mask = torch.tensor([[True, False, True]])
    given_ = torch.tensor([[1.0, 9.0, 4.0, math.nan]])
    found = step_returns(given_, step, torch.tensor([0]), mask, gamma=0.5)
    assert found.tolist() == [[3.0, 0.0, 4.0]]
    short = step_returns(given_[:, :1], step[:, :1], torch.tensor([0]), mask[:, :1])
    assert short.tolist() == [[1.0]]


# Separators


def test_separators_lose_their_credit_across_what_a_tool_wrote() -> None:
    step = torch.tensor([[0, 0, -1, 1, 2, 2]])
    mask = torch.tensor([[True, True, False, True, True, True]])
    assert spare_separators(torch.ones(1, 6), step, mask).tolist() == [[1.0, 0.0, 0.0, 0.0, 1.0, 1.0]]
    assert spare_separators(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.long), mask[:, :2]).tolist() == [[1.0, 1.0]]


# Selection


def kept(means: list[float], right: list[int], groups: list[int] | None = None, **knobs: Any) -> list[int]:
    rows = len(means)
    step = torch.zeros(rows, 1, dtype=torch.long)
    given_ = torch.tensor(means, dtype=D)[:, None]
    ids = torch.tensor(groups or [0] * rows)
    out = process_consistent(
        torch.tensor(right, dtype=D), given_, step, step >= 0, ids, torch.arange(rows) * 7 % 11, **knobs
    )
    return [i for i, k in enumerate(out.tolist()) if k == 1.0]


def test_the_catalogs_four_rows() -> None:
    # Consistency 0.9, 0.5, -0.7, -0.2: of two, the best right row and the wrong one with the lowest process score.
    assert kept([0.9, 0.5, 0.7, 0.2], [1, 1, 0, 0], keep=2) == [0, 3]


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), NUMBERS), min_size=1, max_size=10), st.integers(1, 6))
def test_selection_is_balanced_full_and_takes_the_most_consistent(
    rows: list[tuple[int, bool, float]], keep: int
) -> None:
    found = set(kept([r[2] for r in rows], [int(r[1]) for r in rows], [r[0] for r in rows], keep=keep))
    for g in {r[0] for r in rows}:
        good = [i for i, r in enumerate(rows) if r[0] == g and r[1]]
        bad = [i for i, r in enumerate(rows) if r[0] == g and not r[1]]
        splits = [
            (p, n) for p in range(len(good) + 1) for n in range(len(bad) + 1) if p + n == min(keep, len(good + bad))
        ]
        best = max(p * n for p, n in splits)
        took = [i for i in good if i in found], [i for i in bad if i in found]
        assert len(took[0]) * len(took[1]) == best and len(took[0]) + len(took[1]) == min(keep, len(good + bad))
        for side, sign in ((good, 1), (bad, -1)):
            inside = [sign * rows[i][2] for i in side if i in found]
            outside = [sign * rows[i][2] for i in side if i not in found]
            assert not inside or not outside or min(inside) >= max(outside)


def test_one_side_may_be_chosen_at_random_and_ties_do_not_follow_the_order_of_rows() -> None:
    # Keys 0, 7, 3, 10, 6, 2: with rank=right the wrong rows 3, 4, 5 go by key, whatever their process says.
    means, right = [0.1, 0.3, 0.2, 0.0, 0.9, 0.8], [1, 1, 1, 0, 0, 0]
    assert kept(means, right, keep=2, rank="right") == [1, 5]
    assert kept(means, right, keep=2, rank="wrong") == [0, 3]
    assert kept([0.5] * 6, right, keep=4) == [0, 2, 4, 5]


def test_rows_without_a_verdict_are_never_kept_and_short_or_long_ones_pay() -> None:
    assert kept([math.nan, 0.1, 0.2], [1, 1, 0], keep=3) == [1, 2]
    step = torch.tensor([[0, 0, -1], [0, 1, -1], [0, 1, 2]])
    given_ = torch.tensor([[0.9, math.nan, math.nan], [0.5, 0.5, math.nan], [0.6, 0.6, 0.6]])
    out = process_consistent(
        torch.ones(3), given_, step, step >= 0, torch.zeros(3, dtype=torch.long), torch.arange(3),
        keep=1, penalty=0.5, most_steps=3,
    )  # fmt: skip
    assert out.tolist() == [0.0, 1.0, 0.0]


# Buying rollouts


def bought(rewards: list[float], prior: float | None, **knobs: Any) -> int:
    """How many rollouts the sequential test ends with when the mean stays as it is."""
    problem = Problem("a", "a")
    rows = [Rollout(problem, (), (), (), "", "eos", (), facts={"r": r}) for r in rewards]
    mean = statistics.fmean(rewards)
    loop = SimpleNamespace(round=0, rewards=lambda rows: [r.facts["r"] for r in rows])
    loop.again = lambda asked, n: [Rollout(asked[0], (), (), (), "", "eos", (), facts={"r": mean})]
    while more := buy_by_risk(loop, rows, otherwise=prior, **knobs).add:
        assert [r.sample for r in more] == [len(rows)]
        rows += more
        loop.round += 1
    return len(rows)


@given(st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4), st.integers(-4, 4).map(lambda n: n / 4))
def test_rollouts_are_bought_while_the_predicted_error_falls_by_more_than_the_cost(
    rewards: list[float], prior: float
) -> None:
    def error(k: int, bias: float) -> float:
        w = bias / (bias + 1 / k)
        return w**2 / k + (1 - w) ** 2 * bias

    k, mean = 4, statistics.fmean(rewards)
    while k < 16:
        bias = max(0.0, (mean - prior) ** 2 - 1 / k)
        drop = error(k, bias) - error(k + 1, bias)
        assume(abs(drop - 1 / 256) > 1e-9)
        if drop <= 1 / 256:
            break
        k += 1
    assert bought(rewards, prior) == k


def test_an_infinite_cost_buys_nothing_no_cost_all_and_a_confirmed_prior_nothing() -> None:
    assert bought([1.0] * 4, -1.0, cost=math.inf) == 4
    assert bought([1.0] * 4, -1.0, cost=0.0) == 16
    assert bought([1.0, 1.0, -1.0, 1.0], 0.5, cost=0.0) == 4
    # Without a prior 1/k - 1/(k + 1) is to exceed 1/256: 15 * 16 = 240 < 256 < 16 * 17.
    assert bought([1.0] * 4, None, most=40) == 16


def test_a_problem_whose_check_abstains_again_and_again_is_left() -> None:
    rows = [Rollout(Problem("a", "a"), (), (), (), "", "eos", ()) for _ in range(4)]
    loop = SimpleNamespace(round=16, rewards=lambda rows: [1.0] * 4, again=lambda asked, n: rows[:1])
    assert not buy_by_risk(loop, rows, otherwise=-1.0).add


def test_a_rate_of_the_dataset_is_the_prior_unless_it_is_none() -> None:
    rates = [0.75, 1, True, 1.5, "0.5", None, math.nan]
    rows = [
        Rollout(Problem(str(i), "", meta={"success_rate": r}), (), (), (), "", "eos", ()) for i, r in enumerate(rates)
    ]
    found = known_prior(rows, torch.ones(7, 2, dtype=torch.bool), otherwise=0.1)["prior_value"]
    assert found[:, 0].tolist() == pytest.approx([0.5, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert known_prior(rows[3:], torch.ones(4, 2, dtype=torch.bool))["prior_value"].isnan().all()


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=3), min_size=1, max_size=5), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_running_reward_is_the_discounted_mean_of_the_steps(steps: list[list[float]], decay: float) -> None:
    fold: Any = running_reward(decay=decay, settings=("x.y",))
    state, out = fold.init(), {}
    for rewards in steps:
        state, out = fold.update(state, reward=torch.tensor(rewards, dtype=D))
    weights = [decay ** (len(steps) - 1 - i) for i in range(len(steps))]
    wanted = sum(w * statistics.fmean(r) for w, r in zip(weights, steps, strict=True)) / sum(weights)
    assert out["x.y"] == pytest.approx(wanted)
    assert fold.update(state, reward=torch.zeros(0)) == (state, {})


# Steps of a text, and their judge


@given(
    st.lists(st.sampled_from(["a", "b=1", " ", "\n", "\n\n", "<think>", "</think>", "<answer>1</answer>"]), max_size=9)
)
def test_the_segment_and_the_judge_count_the_same_steps(parts: list[str]) -> None:
    text = "".join(parts)
    ids = by_step(text, [(i, i + 1) for i in range(len(text))])
    assert "".join(pieces(text)) == text
    wanted = [n for n, piece in enumerate(pieces(text)) for _ in piece]
    assert ids == wanted


@pytest.mark.parametrize("spec", ["chain,style=trace,level=4", "sort,style=trace,level=4", "add,style=trace,level=4"])
def test_the_judge_finds_the_wrong_turns_of_demonstrations_and_nothing_else(spec: str) -> None:
    task: Any = make(spec)
    turns = checks = 0
    for i in range(60):
        problem = task.problem("train", i)
        text = task.demonstration(problem, random.Random(i))
        lines = pieces(text)
        wrong = {n - 1 for n, line in enumerate(lines) if "no back" in line}
        assert task.step_verdicts(problem, text) == [float(n not in wrong) for n in range(len(lines))]
        turns, checks = turns + len(wrong), checks + text.count("check")
    assert turns and checks


def test_the_judge_knows_wrong_lines_wrong_answers_and_what_it_cannot_judge() -> None:
    problem = Problem("p", "", "7", {"task": "chain", "style": "trace", "content": "a=3 b=a+4"})
    text = "<think>a=4\nb=3+4=7\nno back\ncheck b=3+4=8 ok\nhm</think><answer>8</answer>"
    assert step_verdicts(problem, text) == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert step_verdicts(problem, "") == []
    for meta in ({"task": "countdown"}, {"style": "direct"}, {"content": "x"}, {"content": None}):
        other = Problem("p", "", "7", {**problem.meta, **meta})
        assert step_verdicts(other, text) is None


def test_a_task_that_judges_no_steps_is_refused_by_name() -> None:
    row = Rollout(Problem("a", "a"), (), (1,), (0.0,), "x", "eos", ())
    for task in (SimpleNamespace(name="other"), make("bandit"), make("chain,style=direct")):
        loop = SimpleNamespace(judge=lambda spec, task=task: make_judge(spec, task))
        with pytest.raises(WiringError, match=r"task '.*' judges no steps: take chain"):
            judged_steps(loop, [row], torch.tensor([[0]]))


def test_an_empty_row_has_no_judged_step() -> None:
    task: Any = make("chain,style=trace")
    rows = [Rollout(task.problem("train", i), (), (), (), text, "eos", ()) for i, text in enumerate(("x\ny", ""))]
    loop = SimpleNamespace(judge=lambda spec: make_judge(spec, task))
    found = judged_steps(loop, rows, torch.tensor([[0, 0, 1], [-1, -1, -1]]), wrong=0.0)["step_reward"]
    assert found[0].tolist() == [0.0, 0.0] and found[1].isnan().all()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (partial(min_form, temperature=0.0), "temperature"),
        (partial(process_consistent, keep=0), "keep"),
        (partial(buy_by_risk, cost=-1.0), "cost"),
        (partial(running_reward, decay=1.5), "decay"),
        (partial(by_step, delimiter=""), "delimiter"),
    ],
)
def test_knobs_out_of_bounds_are_refused_by_name(call: Any, word: str) -> None:
    one, ids = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.long)
    arguments: dict[str, tuple[Any, ...]] = {
        "min_form": (one, ids, ids[0], ids >= 0),
        "process_consistent": (one[0], one, ids, ids >= 0, ids[0], ids[0]),
        "buy_by_risk": (None, []),
        "by_step": ("a", []),
        "running_reward": (),
    }
    with pytest.raises(SettingError, match=word):
        call(*arguments[call.func.__name__])
