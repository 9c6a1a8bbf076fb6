from __future__ import annotations

import inspect
import itertools
import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.errors import SettingError
from truegain.core.forms import Train
from truegain.core.types import Abstain, Problem, Rollout, Turn
from truegain.methods import credit, objective, reward
from truegain.methods.reward._match_calls import call_rewards
from truegain.methods.reward._matching import greedy, hungarian, scores_of, similarity, sinkhorn
from truegain.recipes.grpo import grpo
from truegain.recipes.hdpo_metis import hdpo_metis
from truegain.recipes.matchtir import matchtir
from truegain.recipes.verpo import verpo

ONE = torch.zeros(4, dtype=torch.long)


def column(rows: int) -> Tensor:
    return torch.ones(rows, 1, dtype=torch.bool)


# --- weighted tests (verpo) ----------------------------------------------------------------------------------------

PASSED = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.float64)


def slow_weights(passed: list[list[float]], alpha: float, sigma: float) -> tuple[list[float], list[float]]:
    """Weights of tests and partial credit of rows of one group, from the formula."""
    rate = [sum(row[j] for row in passed) / len(passed) for j in range(len(passed[0]))]
    near = [sum(math.exp(-((a - b) ** 2) / (2 * sigma**2)) for b in rate) for a in rate]
    weight = [math.exp(-alpha * r) / n for r, n in zip(rate, near, strict=True)]
    return weight, [sum(w * p for w, p in zip(weight, row, strict=True)) for row in passed]


def test_the_catalogs_example_of_weighted_tests() -> None:
    # rho = (1, 0.75, 0.25). N_1 = 1 + exp(-0.0625/0.08) + exp(-0.5625/0.08) = 1 + 0.4578 + 0.0009 = 1.4587, so w_1 =
    # exp(-2) / 1.4587 = 0.1353 / 1.4587 = 0.0928; N_2 = 1 + 0.4578 + exp(-0.25/0.08) = 1.5018, w_2 = 0.2231 / 1.5018 =
    # 0.1486; N_3 = 1 + 0.0009 + 0.0439 = 1.0448, w_3 = 0.6065 / 1.0448 = 0.5805. R = 0.2414, 0.0928, 0.2414, 0.8219,
    # with mean 0.3494.
    weight, gained = slow_weights(PASSED.tolist(), 2.0, 0.2)
    assert weight == pytest.approx([0.0928, 0.1486, 0.5805], abs=1e-4)
    assert gained == pytest.approx([0.2414, 0.0928, 0.2414, 0.8219], abs=1e-4)
    found = credit.weighted_tests(PASSED, ONE, column(4), alpha=2.0, sigma=0.2, delta=0.0).flatten()
    assert found.tolist() == pytest.approx([-0.1080, -0.2566, -0.1080, 0.4725], abs=1e-4)


@given(st.integers(0, 10_000), st.floats(0.0, 4.0), st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_weighted_tests_agree_with_the_formula_group_by_group(seed: int, alpha: float, sigma: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    passed = torch.randint(2, (7, 5), generator=rng).double()
    group = torch.tensor([0, 1, 0, 2, 1, 0, 1])
    found = credit.weighted_tests(passed, group, column(7), alpha=alpha, sigma=sigma, delta=0.0).flatten()
    for g in range(3):
        rows = (group == g).nonzero().flatten()
        weight, gained = slow_weights(passed[rows].tolist(), alpha, sigma)
        assert min(weight) > 0
        wanted = torch.tensor(gained, dtype=torch.float64)
        torch.testing.assert_close(found[rows], wanted - wanted.mean(), atol=1e-9, rtol=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_passing_all_tests_is_best_and_duplicating_every_test_changes_nothing(seed: int) -> None:
    passed = torch.randint(2, (6, 4), generator=torch.Generator().manual_seed(seed)).double()
    passed[0] = 1.0
    group = torch.zeros(6, dtype=torch.long)
    found = credit.weighted_tests(passed, group, column(6), delta=0.0)
    twice = credit.weighted_tests(passed.repeat(1, 2), group, column(6), delta=0.0)
    assert found[0] >= found.max() - 1e-12
    torch.testing.assert_close(found, twice, atol=1e-12, rtol=1e-9)


def test_of_equally_dense_tests_the_rarer_one_weighs_more() -> None:
    # Two tests far apart in pass rate, 3/4 and 1/4: each N is nearly 1, so passing the rare one alone is worth more.
    passed = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    found = credit.weighted_tests(passed, ONE, column(4), sigma=0.05).flatten()
    assert found[3] > 0 > found[0]


def test_three_copies_of_an_easy_test_weigh_about_what_one_does_and_three_times_that_without_density() -> None:
    easy, hard = torch.tensor([[1.0], [1], [1], [0]]), torch.tensor([[0.0], [0], [1], [0]])

    def share(copies: int, density: Any) -> float:
        passed = torch.cat([easy.repeat(1, copies), hard], dim=1)
        gained = credit.weighted_tests(passed, ONE, column(4), density=density, sigma=0.1).flatten()
        return float((gained[0] - gained[3]) / (gained[2] - gained[3]))

    assert share(3, "gaussian") == pytest.approx(share(1, "gaussian"), rel=0.01)
    # w = exp(-2*0.75) and exp(-2*0.25): 3*0.2231 / (3*0.2231 + 0.6065) against 0.2231 / 0.8296.
    assert share(1, "none") == pytest.approx(0.2689, abs=1e-3) and share(3, "none") == pytest.approx(0.5246, abs=1e-3)


def test_a_test_that_a_problem_does_not_have_takes_no_part() -> None:
    nan = float("nan")
    short = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    wide = torch.cat([short, torch.full((3, 2), nan)], dim=1)
    other = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    group = torch.tensor([0, 0, 0, 1, 1])
    both = credit.weighted_tests(torch.cat([wide, other]), group, column(5))
    torch.testing.assert_close(both[:3], credit.weighted_tests(short, group[:3], column(3)))
    torch.testing.assert_close(both[3:], credit.weighted_tests(other, group[3:] - 1, column(2)))
    assert not credit.weighted_tests(torch.full((2, 3), nan), group[:2], column(2)).any()
    assert credit.weighted_tests(torch.zeros(2, 0), group[:2], column(2)).shape == (2, 1)


def test_beta_zero_leaves_the_outcome_discounted_by_turns() -> None:
    turn = torch.tensor([[0, 1, 2], [0, -1, -1], [0, -1, -1], [0, 1, 2]])
    mask = turn % 2 == 0
    batch = Batch(mask=mask, turn=turn, group=ONE, test_pass=PASSED.float(), correct=torch.tensor([1.0, 1.0, 0.0, 0.0]))
    discounted = reward.turn_discount(batch["correct"], turn, mask, gamma=0.5)
    # Two turns of the policy in rows 0 and 3 (turn 1 is a tool's), one in the others.
    assert discounted.tolist() == [0.25, 0.5, 0.0, 0.0]
    form = verpo(beta=0.0, gamma=0.5)
    step = step_on(form, Batch(**{**batch, "reward": discounted}))
    assert step.advantages[0] is not None
    torch.testing.assert_close(step.advantages[0][:, 0], discounted - discounted.mean())


@pytest.mark.parametrize("knobs", [{"density": "box"}, {"sigma": 0.0}, {"sigma": -1.0}])
def test_weighted_tests_refuse_what_is_no_choice(knobs: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="weighted_tests"):
        # Without the tests' own type checker, which would be first to refuse it.
        inspect.unwrap(credit.weighted_tests)(PASSED, ONE, column(4), **knobs)
    with pytest.raises(SettingError, match="turn_discount: gamma"):
        reward.turn_discount(torch.ones(1), torch.zeros(1, 1, dtype=torch.long), column(1), gamma=1.5)


# --- tool economy (hdpo-metis) -------------------------------------------------------------------------------------


def test_the_catalogs_example_of_tool_economy() -> None:
    # r = 1, 1/2, 1/5 among the right; mean 0.5667; sample variance (0.1878 + 0.0044 + 0.1344) / 2 = 0.1633, deviation
    # 0.4041: 0.4333 / 0.4041 = 1.0722, -0.0667 / 0.4041 = -0.1650, -0.3667 / 0.4041 = -0.9073. The wrong one gets 0.
    calls, right = torch.tensor([0.0, 1.0, 4.0, 2.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    found = credit.tool_economy(calls, right, ONE, column(4)).flatten()
    assert found.tolist() == pytest.approx([1.0722, -0.1650, -0.9073, 0.0], abs=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_tool_economy_agrees_with_the_formula_and_sums_to_nothing_over_the_right(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    calls = torch.randint(5, (12,), generator=rng).double()
    right = torch.randint(2, (12,), generator=rng).double()
    group = torch.randint(4, (12,), generator=rng)
    found = credit.tool_economy(calls, right, group, column(12)).flatten()
    assert not found[right == 0].any()
    for g in range(4):
        among = ((group == g) & (right == 1)).nonzero().flatten()
        values = [1 / (1 + float(calls[i])) for i in among]
        if len(set(values)) < 2:
            assert not found[among].any()
            continue
        wanted = (np.array(values) - np.mean(values)) / (np.std(values, ddof=1) + 1e-6)
        assert found[among].tolist() == pytest.approx(wanted.tolist(), abs=1e-9)
        assert abs(float(found[among].sum())) < 1e-9


def tool_batch(seed: int = 0) -> tuple[Batch, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.randint(1, 6, (8, 1), generator=rng)
    old = -torch.rand(8, 5, generator=rng)
    correct = torch.tensor([1.0, 1, 1, 0, 1, 0, 0, 0])
    batch = Batch(
        mask=mask,
        group=torch.arange(2).repeat_interleave(4),
        correct=correct,
        reward=0.9 * correct + 0.1,
        tool_calls=torch.tensor([0.0, 1, 4, 2, 3, 0, 1, 1]),
        old_logp=old,
    )
    return batch, old + 0.05 * torch.randn(8, 5, generator=rng)


def gradient(form: Train, batch: Batch, logp: Tensor) -> Tensor:
    leaf = logp.clone().requires_grad_()
    loss_on(form, step_on(form, batch), leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def test_without_the_tool_term_hdpo_is_grpo_and_its_weight_scales_the_tool_term_alone() -> None:
    batch, logp = tool_batch()
    plain = grpo()
    plain = replace(plain, terms=(replace(plain.terms[0], weight=objective.token_mean),))
    accuracy = gradient(plain, batch, logp)
    torch.testing.assert_close(gradient(hdpo_metis(w_tool=0.0), batch, logp), accuracy)
    once, twice = (gradient(hdpo_metis(w_tool=w), batch, logp) - accuracy for w in (0.15, 0.3))
    torch.testing.assert_close(twice, 2 * once)
    # Only right rows of the first group, which has three, carry the tool term.
    assert once[:3].any() and not once[3:].any()


def test_the_tool_term_has_its_own_denominator() -> None:
    # Rows 0 and 2 are credited: 2 + 1 tokens. Row 1 is not, its tokens do not thin the mean.
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    advantage = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, 5.0]])
    third = 1 / 3
    wanted = torch.tensor([[third, third], [0.0, 0.0], [third, 0.0]])
    torch.testing.assert_close(objective.credited_mean(mask, advantage), wanted)
    assert not objective.credited_mean(mask, torch.zeros(3, 2)).any()


@pytest.mark.parametrize("right", [[0.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 1, 0, 0]])
def test_groups_with_no_comparison_to_make_give_no_tool_loss(right: list[float]) -> None:
    # None right, one right, two right with equal calls.
    found = credit.tool_economy(torch.tensor([2.0, 2, 0, 1]), torch.tensor(right), ONE, column(4))
    assert not found.any() and found.isfinite().all()


# --- matching (matchtir) -------------------------------------------------------------------------------------------

EXAMPLE = np.array([[0.6, 0.5], [0.9, 0.2], [0.0, 0.3]])


def call(name: str, **parameters: Any) -> dict[str, Any]:
    return {"name": name, "parameters": parameters}


def total(scores: Any, match: list[int | None]) -> float:
    return sum(float(scores[i, j]) for i, j in enumerate(match) if j is not None)


def best(scores: Any) -> float:
    """The largest total by trying every assignment."""
    rows, columns = scores.shape
    places = [*range(columns), *[-1] * rows]
    return max(
        sum(float(scores[i, j]) for i, j in enumerate(chosen) if j >= 0)
        for chosen in set(itertools.permutations(places, rows))
    )


def test_the_catalogs_example_of_matching() -> None:
    # Greedy takes 0.9 (row 1, column 0), then 0.5 (row 0, column 1). Here that is the largest total, too.
    assert greedy(EXAMPLE) == hungarian(EXAMPLE) == [1, 0, None]
    assert total(EXAMPLE, hungarian(EXAMPLE)) == pytest.approx(1.4) == best(EXAMPLE)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_the_hungarian_total_is_the_largest_and_no_gold_call_is_used_twice(rows: int, columns: int, seed: int) -> None:
    scores = np.random.default_rng(seed).choice([0.0, 0.25, 0.5, 2 / 3, 0.9, 1.0], size=(rows, columns))
    for matching in (hungarian, greedy):
        used = [j for j in matching(scores) if j is not None]
        assert len(used) == len(set(used)) and len(matching(scores)) == rows
        assert all(scores[i, j] > 0 for i, j in enumerate(matching(scores)) if j is not None)
    assert total(scores, hungarian(scores)) == pytest.approx(best(scores))
    assert total(scores, greedy(scores)) <= total(scores, hungarian(scores)) + 1e-12


def test_the_hungarian_agrees_with_scipy_on_larger_tables() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    for rows, columns in ((12, 12), (30, 9), (9, 30), (1, 20)):
        scores = rng.random((rows, columns))
        at = optimize.linear_sum_assignment(scores, maximize=True)
        assert total(scores, hungarian(scores)) == pytest.approx(float(scores[at].sum()))


def test_greedy_is_worse_than_the_hungarian_in_more_than_a_twentieth_of_random_tables() -> None:
    rng = np.random.default_rng(1)
    tables = [rng.random((3, 3)) for _ in range(400)]
    worse = sum(total(s, greedy(s)) < total(s, hungarian(s)) - 1e-12 for s in tables)
    assert worse / 400 >= 0.05


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 5), (8, 8)])
@pytest.mark.parametrize("reg", [0.05, 0.1, 1.0])
def test_sinkhorn_marginals_are_uniform(shape: tuple[int, int], reg: float) -> None:
    plan = sinkhorn(np.random.default_rng(2).random(shape), reg=reg)
    assert np.abs(plan.sum(axis=0) - 1 / shape[1]).max() < 1e-4
    assert np.abs(plan.sum(axis=1) - 1 / shape[0]).max() < 1e-4


def test_sinkhorn_of_two_by_two_has_its_closed_form() -> None:
    # Uniform marginals 1/2 and S = [[1, 0], [0, 1]] are symmetric: T = [[p, q], [q, p]] with p + q = 1/2 and
    # p / q = exp(1 / reg), here e.
    plan = sinkhorn(np.eye(2), reg=1.0)
    p = 0.5 * math.e / (1 + math.e)
    np.testing.assert_allclose(plan, [[p, 0.5 - p], [0.5 - p, p]], atol=1e-8)


def test_similarity_counts_name_parameters_and_values() -> None:
    gold = call("search", query="boss ann", limit=2)
    assert similarity(gold, gold) == 1.0 and similarity(call("SEARCH", limit=2, query="boss ann"), gold) == 1.0
    assert similarity(call("open", query="boss ann", limit=2), gold) == 0.0
    # (1 + 2/2 + 1) / 4, one value wrong; (1 + 1/2 + 1) / 4, one parameter missing; (1 + 2/3 + 2) / 4, one too many.
    assert similarity(call("search", query="boss bob", limit=2), gold) == 0.75
    assert similarity(call("search", query="boss ann"), gold) == 0.625
    assert similarity(call("search", query="boss ann", limit=2, sort=1), gold) == pytest.approx((1 + 2 / 3 + 2) / 4)
    assert similarity(call("now"), call("now")) == 1.0
    assert similarity({"name": "search", "parameters": "boss ann"}, gold) == 0.25 and similarity({}, gold) == 0.0


def test_each_gold_call_pays_once_and_redundant_calls_get_nothing() -> None:
    gold = [call("search", query="a"), call("search", query="b")]
    same = [gold[0], gold[0], gold[1]]
    # The second copy of a is left over: b is matched with its own.
    assert sorted(call_rewards(same, gold)) == [0.0, 1.0, 1.0] and call_rewards(same, gold)[2] == 1.0
    assert call_rewards(same, gold, unmatched=-0.5).count(-0.5) == 1
    assert call_rewards([], gold) == [] and call_rewards(same, []) == [0.0] * 3
    soft = call_rewards(same, gold, matching="soft")
    # Each row of the plan sums to 1/3, and every call is paid something.
    assert all(0 < r <= 1 / 3 + 1e-9 for r in soft) and soft[2] > soft[0] == pytest.approx(soft[1])
    assert scores_of(same, gold).shape == (3, 2)


POLICY_TOOL = (Turn("policy", 0, 1), Turn("tool", 1, 2), Turn("policy", 2, 3), Turn("tool", 3, 4), Turn("policy", 4, 5))


def turns_of(facts: dict[str, Any], turns: tuple[Turn, ...] = POLICY_TOOL, **knobs: Any) -> list[float]:
    gold = [call("search", query="a"), call("search", query="b")]
    problem = Problem("p", "", "ann bob", {"calls": gold})
    row = Rollout(problem, (), tuple(range(len(turns))), (), "", "stop", turns, facts=facts)
    found = reward.match_calls(problem, row, **knobs)
    assert not isinstance(found, Abstain)
    return found["turn_reward"]


def test_turns_are_paid_for_their_calls_and_the_last_for_the_answer() -> None:
    calls = [call("search", query="a"), call("search", query="x")]
    # The second call has the right name and parameter: (1 + 1 + 0) / 3. The answer's words: 1 of 2 and 1 of 1, F1 2/3.
    assert turns_of({"calls": calls, "final": "bob"}) == pytest.approx([1.0, 0.0, 2 / 3, 0.0, 2 / 3])
    assert (
        turns_of({"calls": calls, "final": "Bob ANN"})[4] == 1.0 and turns_of({"calls": calls, "final": None})[4] == 0
    )
    assert turns_of({"calls": calls, "final": "bob", "correct": 1.0}, answer="exact")[4] == 1.0
    assert turns_of({"calls": calls, "final": "bob"}, answer="none")[4] == 0.0
    # Two calls in the first turn, as a host may allow: their mean.
    both = [{**calls[0], "turn": 0}, {**calls[1], "turn": 0}]
    assert turns_of({"calls": both})[0] == pytest.approx((1 + 2 / 3) / 2)


def test_a_row_that_ends_with_a_call_has_no_answer_to_pay_and_an_empty_one_no_turn() -> None:
    calls = [call("search", query="a")]
    assert turns_of({"calls": calls, "final": "ann bob"}, POLICY_TOOL[:2]) == [1.0, 0.0]
    assert turns_of({"calls": [], "final": None}, ()) == []
    # More calls than turns can only come from a host's mistake: they fall to the last turn.
    assert len(turns_of({"calls": calls * 4}, POLICY_TOOL[:1])) == 1


def test_a_flood_of_calls_is_bounded() -> None:
    assert len(turns_of({"calls": [call("search", query="a")] * 5000})) == 5


@pytest.mark.parametrize(
    ("facts", "meta", "why"), [({}, {"calls": []}, "recorded no"), ({"calls": []}, {}, "no reference")]
)
def test_what_cannot_be_matched_is_abstained_on(facts: dict[str, Any], meta: dict[str, Any], why: str) -> None:
    problem = Problem("p", "", "a", meta)
    found = reward.match_calls(problem, Rollout(problem, (), (), (), "", "stop", (), facts=facts))
    assert isinstance(found, Abstain) and why in found.reason


# --- dual advantages (matchtir) ------------------------------------------------------------------------------------


def slow_dual(rewards: list[list[float]], group: list[int], gamma: float) -> list[list[float]]:
    """The mean of both z-scores of each turn, from the formula; rewards are those of the policy's turns alone."""

    def z(values: list[float]) -> list[float]:
        if len(values) == 1:
            return [values[0] / (1 + 1e-6)]
        spread = float(np.std(values, ddof=1))
        return [0.0 if spread == 0 else (v - float(np.mean(values))) / (spread + 1e-6) for v in values]

    sums, places = defaultdict[int, list[int]](list), defaultdict[tuple[int, int], list[int]](list)
    returns: list[list[float]] = []
    for i, row in enumerate(rewards):
        sums[group[i]].append(i)
        found: list[float] = []
        for r in reversed(row):
            found.insert(0, r + gamma * (found[0] if found else 0.0))
        returns.append(found)
        for j in range(len(row)):
            places[group[i], j].append(i)
    out = [[0.0] * len(row) for row in rewards]
    for rows in sums.values():
        for i, value in zip(rows, z([sum(rewards[i]) for i in rows]), strict=True):
            out[i] = [value / 2] * len(out[i])
    for (_, j), rows in places.items():
        for i, value in zip(rows, z([returns[i][j] for i in rows]), strict=True):
            out[i][j] += value / 2
    return out


def dual(rewards: list[list[float]], group: list[int]) -> Tensor:
    """The recipe's advantages [B, U], one token per turn, a tool's turn after each but the last."""
    width = 2 * max(map(len, rewards)) - 1
    turn = torch.tensor([[t if t < 2 * len(row) - 1 else -1 for t in range(width)] for row in rewards])
    mask = (turn >= 0) & (turn % 2 == 0)
    table = torch.full((len(rewards), width), float("nan"), dtype=torch.float64)
    for i, row in enumerate(rewards):
        table[i, : 2 * len(row) - 1] = 0.0
        table[i, 0 : 2 * len(row) : 2] = torch.tensor(row, dtype=torch.float64)
    summed = reward.turn_sum(table, turn, mask)
    batch = Batch(mask=mask, turn=turn, group=torch.tensor(group), turn_reward=table, reward=summed, old_logp=table * 0)
    found = step_on(matchtir(beta=0.0, entropy=0.0), batch).advantages[0]
    assert found is not None and not found[~mask].any()
    return found


def test_the_catalogs_example_of_dual_advantages() -> None:
    # Returns of row 0: 0.8, 0.5 + 0.72 = 1.22, 1 + 1.098 = 2.098; of row 1: 0.2, 0.68, 0.612. Of two different numbers
    # the z-scores are +-1/sqrt 2, so are those of the sums 2.3 and 0.7, and so is every mean of two of them.
    found = dual([[1.0, 0.5, 0.8], [0.0, 0.5, 0.2]], [0, 0])
    assert found[0, ::2].tolist() == pytest.approx([0.7071] * 3, abs=1e-4)
    assert found[1, ::2].tolist() == pytest.approx([-0.7071] * 3, abs=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_dual_advantages_agree_with_the_formula_on_ragged_turns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards = [rng.choice([0.0, 0.5, 2 / 3, 1.0], size=rng.integers(1, 5)).tolist() for _ in range(7)]
    group = rng.integers(0, 3, size=7).tolist()
    found, wanted = dual(rewards, group), slow_dual(rewards, group, 0.9)
    for i, row in enumerate(wanted):
        assert found[i, 0 : 2 * len(row) : 2].tolist() == pytest.approx(row, abs=1e-6)


def test_with_one_turn_the_dual_advantage_is_grpos() -> None:
    found = dual([[1.0], [0.0], [0.25], [0.25]], [0, 0, 0, 0])
    wanted = credit.group_normalise(torch.tensor([1.0, 0.0, 0.25, 0.25], dtype=torch.float64), ONE, column(4))
    torch.testing.assert_close(found, wanted)


def test_a_turn_alone_at_its_place_keeps_its_return_or_gets_nothing() -> None:
    turn = torch.tensor([[0, 1], [0, -1]])
    given_, group = torch.tensor([[1.0, 0.5], [0.0, float("nan")]]), torch.zeros(2, dtype=torch.long)
    raw = credit.turn_returns(given_, turn, group, turn >= 0, gamma=1.0)
    zero = credit.turn_returns(given_, turn, group, turn >= 0, gamma=1.0, singleton="zero")
    # Returns 1.5 and 0 at the first place: +-1/sqrt 2; 0.5 stands alone at the second.
    assert raw[0].tolist() == pytest.approx([0.7071, 0.5], abs=1e-4) and zero[0].tolist()[1] == 0.0
    with pytest.raises(SettingError, match="turn_returns: after='row'"):
        inspect.unwrap(credit.turn_returns)(given_, turn, group, turn >= 0, after="row")  # pyright: ignore[reportArgumentType]


def test_a_judge_that_gave_no_number_makes_the_reward_nan_which_the_loop_refuses() -> None:
    turn = torch.tensor([[0, 1]])
    given_ = torch.tensor([[1.0, float("nan")]])
    assert reward.turn_sum(given_, turn, turn >= 0).isnan().all()
    assert reward.turn_sum(given_, turn, turn == 0).tolist() == [1.0]  # a tool's turn is not read
