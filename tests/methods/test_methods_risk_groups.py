"""Surrogates that spread a loss over the tokens of a whole group: DRPO's contrast and hinge, TRPA's ranked pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.errors import SettingError
from truegain.core.forms import Train
from truegain.core.types import Problem, Rollout
from truegain.methods.objective import (
    decoupled_contrast,
    group_mean,
    kl_hinge,
    outcome_level,
    pair_mean,
    ranked_pairs,
    unpaired_mean,
    unpaired_ranks,
)
from truegain.recipes.dr_grpo import dr_grpo
from truegain.recipes.trpa import trpa


def columns(lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A mask of rows of these lengths and log-probs for it, in float64 with gradient."""
    width = max([*lengths, 1])
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    drawn = -3 * torch.rand(len(lengths), width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return mask, drawn.requires_grad_()


def gradient(loss: Tensor, logp: Tensor) -> Tensor:
    """By the log-probs; 0 where the loss does not depend on them."""
    return torch.autograd.grad(loss, logp, allow_unused=True, materialize_grads=True)[0]


# DRPO


def drpo_oracle(
    rows: list[list[float]], right: list[float], group: list[int], limit: int, tau: float, spread: float
) -> dict[int, tuple[float, dict[int, float]]]:
    """Per group: minus J, and minus the gradient of J by each row's score."""
    out: dict[int, tuple[float, dict[int, float]]] = {}
    score = {i: math.fsum(row) / len(row) for i, row in enumerate(rows) if row}
    for g in set(group):
        mine = [i for i in score if group[i] == g]
        good, bad = [i for i in mine if right[i] == 1], [i for i in mine if right[i] == 0]
        if not good or not bad:
            out[g] = (0.0, dict.fromkeys(mine, 0.0))
            continue
        raw = {i: math.exp((1 - len(rows[i]) / limit) / spread) for i in good}
        weights = {i: w / math.fsum(raw.values()) for i, w in raw.items()}
        total = math.fsum(math.exp(score[j] / tau) for j in bad)
        value = tau * math.log(total) - math.fsum(weights[i] * score[i] for i in good)
        slopes = {i: -weights[i] for i in good} | {j: math.exp(score[j] / tau) / total for j in bad}
        out[g] = (value, slopes)
    return out


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, 1.0]), st.integers(0, 2)), min_size=1, max_size=9),
    st.sampled_from([0.05, 0.1, 1.0]),
    st.sampled_from([0.2, 10.0]),
)
def test_the_tokens_of_a_group_add_up_to_its_contrast_and_to_its_gradient(
    drawn: list[tuple[int, float, int]], spread: float, tau: float
) -> None:
    lengths, right, group = (list(x) for x in zip(*drawn, strict=True))
    mask, logp = columns(lengths)
    rows = [logp[i, :n].tolist() for i, n in enumerate(lengths)]
    wanted = drpo_oracle(rows, right, group, 5, tau, spread)
    loss = decoupled_contrast(
        logp, torch.tensor(right), torch.tensor(group), mask, max_tokens=5, tau=tau, spread=spread
    )
    slope = gradient(loss.sum(), logp)
    for g, (value, slopes) in wanted.items():
        assert loss[torch.tensor(group) == g].sum().item() == pytest.approx(value, abs=1e-6)
        for i, by_score in slopes.items():
            assert slope[i, : lengths[i]].tolist() == pytest.approx([by_score / lengths[i]] * lengths[i], abs=1e-6)


def weights_of(lengths: Sequence[int], right: Sequence[float], limit: int, **knobs: float) -> list[float]:
    """Minus the gradient by each row's score, of one group with scores of -1 in every token."""
    mask, logp = columns(lengths)
    loss = decoupled_contrast(
        logp, torch.tensor(right), torch.zeros(len(right)).long(), mask, max_tokens=limit, **knobs
    )
    return [-x for x in gradient(loss.sum(), logp).sum(1).tolist()]


def test_weights_of_right_rows_of_20_and_80_tokens_are_those_of_the_worked_example() -> None:
    # exp((1 - 0.2)/0.1) and exp((1 - 0.8)/0.1): their ratio is e^6 = 403.43, so 0.99753 and 0.00247.
    assert weights_of([20, 80, 5], [1.0, 1.0, 0.0], 100)[:2] == pytest.approx([0.9975, 0.0025], abs=1e-4)


def test_wrong_rows_with_scores_minus_1_and_minus_3_are_weighed_as_in_the_worked_example() -> None:
    # exp(-0.1) / (exp(-0.1) + exp(-0.3)) = 0.904837 / 1.645656 = 0.54983.
    logp = torch.tensor([[0.0], [-1.0], [-3.0]], requires_grad=True)
    right, one = torch.tensor([1.0, 0.0, 0.0]), torch.ones(3, 1, dtype=torch.bool)
    loss = decoupled_contrast(logp, right, torch.zeros(3).long(), one, max_tokens=10)
    assert gradient(loss.sum(), logp).flatten().tolist() == pytest.approx([-1.0, 0.5498, 0.4502], abs=1e-4)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_right_rows_weigh_above_0_and_1_in_sum_and_wrong_rows_minus_1(good: list[int], bad: list[int]) -> None:
    found = weights_of([*good, *bad], [1.0] * len(good) + [0.0] * len(bad), 30)
    assert min(found[: len(good)]) > 0 and math.fsum(found[: len(good)]) == pytest.approx(1, abs=1e-6)
    assert math.fsum(found[len(good) :]) == pytest.approx(-1, abs=1e-6)


def test_an_infinite_spread_weighs_right_rows_alike() -> None:
    found = weights_of([3, 9, 27, 2], [1.0, 1.0, 1.0, 0.0], 30, spread=math.inf)
    assert found[:3] == pytest.approx([1 / 3] * 3)


def test_a_spread_of_a_thousandth_does_not_overflow_in_single_precision() -> None:
    mask = torch.tensor([[True, False], [True, True], [True, False]])
    logp = torch.full((3, 2), -300.0, requires_grad=True)
    right = torch.tensor([1.0, 1.0, 0.0])
    loss = decoupled_contrast(logp, right, torch.zeros(3).long(), mask, max_tokens=100, spread=1e-3, tau=0.1)
    assert loss.isfinite().all() and gradient(loss.sum(), logp).isfinite().all()


def test_a_question_without_contrast_adds_nothing_and_counts_in_the_denominator() -> None:
    mask, logp = columns([2, 2, 3, 1, 1])
    right, group = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1, 2])
    loss = decoupled_contrast(logp, right, group, mask, max_tokens=5)
    assert loss[:2].abs().sum() > 0 and not loss[2:].any()
    assert group_mean(mask, group)[mask].unique().tolist() == pytest.approx([1 / 3])
    assert not group_mean(torch.zeros(2, 3, dtype=torch.bool), torch.tensor([0, 1])).any()


def test_the_hinge_is_shut_inside_and_pulls_back_outside() -> None:
    mask, logp = columns([2, 3, 1])
    group = torch.tensor([0, 0, 1])
    for shift, pulls in ((0.0, False), (-0.01, False), (0.3, True)):
        loss, logs = kl_hinge(logp, logp.detach() + shift, group, mask, beta=10.0, delta=0.05)
        slope = gradient((loss * mask).sum(), logp)
        assert bool(slope[mask].any()) is pulls and logs["kl_old"][mask].tolist() == pytest.approx([shift] * 6)
        if pulls:
            # 10 * (0.3 - 0.05) = 2.5, over the group's five tokens; the KL falls as the log-prob rises.
            assert slope[0, :2].tolist() == pytest.approx([-0.5, -0.5])
            assert (loss * mask)[:2].sum().item() == pytest.approx(0.75)
    low_var, _ = kl_hinge(logp, logp.detach() + 0.3, group, mask, beta=1.0, delta=0.0, estimator="low_var")
    kl = math.exp(-0.3) - 1 + 0.3  # rho - 1 - log rho
    assert low_var[2, 0].item() == pytest.approx(kl * kl)


def test_knobs_out_of_bounds_are_refused() -> None:
    mask, logp = columns([1, 1])
    call: Any = partial(decoupled_contrast, logp, torch.tensor([1.0, 0.0]), torch.zeros(2).long(), mask, max_tokens=4)
    for knobs in ({"tau": 0.0}, {"tau": math.inf}, {"spread": 0.0}):
        with pytest.raises(SettingError, match="decoupled_contrast"):
            call(**knobs)


# TRPA


def trpa_oracle(
    u: list[float], level: list[float], group: list[int], beta: float, more: float
) -> tuple[float, list[float], int]:
    """Sum of the pair losses, its slope by each u, and the number of pairs."""
    loss, slope, pairs = 0.0, [0.0] * len(u), 0
    for i in range(len(u)):
        for j in range(len(u)):
            if group[i] == group[j] and level[i] < level[j]:
                scale = beta * (more if level[i] == 1 else 1)
                h = scale * (u[i] - u[j])
                loss += math.log1p(math.exp(-h))
                slope[i] -= scale / (1 + math.exp(h))
                slope[j] += scale / (1 + math.exp(h))
                pairs += 1
    return loss, slope, pairs


ROWS = st.lists(
    st.tuples(st.floats(-2, 2), st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.integers(0, 1)), min_size=2, max_size=7
)


@settings(max_examples=40)
@given(ROWS, st.integers(1, 3))
def test_pairs_add_up_to_the_mean_of_the_logistic_losses_and_to_its_gradient(
    drawn: list[tuple[float, float, int]], tokens: int
) -> None:
    u, level, group = (list(x) for x in zip(*drawn, strict=True))
    loss, slope, pairs = trpa_oracle(u, level, group, 0.1, 2.5)
    mask = torch.ones(len(u), tokens, dtype=torch.bool)
    logp = torch.tensor(u, dtype=torch.float64)[:, None].repeat(1, tokens).requires_grad_()
    ranks, ids = torch.tensor(level, dtype=torch.float64), torch.tensor(group)
    found, _ = ranked_pairs(logp, torch.zeros_like(logp), ranks, ids, mask)
    weighed = (found * pair_mean(mask, ids, ranks)).sum()
    assert weighed.item() == pytest.approx(loss / pairs if pairs else 0.0, abs=1e-9)
    got = gradient(found.sum(), logp)
    assert got.sum(1).tolist() == pytest.approx(slope, abs=1e-9)
    if pairs and not any(u):
        assert weighed.item() == pytest.approx(math.log(2))


def test_three_rows_of_three_levels_are_those_of_the_worked_example() -> None:
    # h = 0.1 * 2.5 * 0.5, 0.1 * 2.5 * 0.2, 0.1 * (-0.3) = 0.125, 0.05, -0.03; their losses are 0.63260, 0.66846 and
    # 0.70826, and the mean 0.66977.
    logp, one = torch.tensor([[0.3], [-0.2], [0.1]]), torch.ones(3, 1, dtype=torch.bool)
    ranks, ids = torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3).long()
    loss, logs = ranked_pairs(logp, torch.zeros(3, 1), ranks, ids, one)
    assert (loss * pair_mean(one, ids, ranks)).sum().item() == pytest.approx(0.6698, abs=1e-4)
    assert logs["truegain/pairs_won"].tolist() == pytest.approx([1.0, 0.5, 0.5])


def test_rows_of_one_level_of_no_level_or_without_a_token_make_no_pair() -> None:
    mask, logp = columns([2, 1, 0, 2])
    ids, ref = torch.zeros(4).long(), torch.zeros_like(logp)
    for level in ([2.0, 2.0, 1.0, 2.0], [1.0, math.nan, 2.0, 1.0]):
        ranks = torch.tensor(level, dtype=torch.float64)
        loss, _ = ranked_pairs(logp, ref, ranks, ids, mask)
        assert not loss.any() and not pair_mean(mask, ids, ranks).any()
        assert unpaired_mean(mask, ids, ranks)[mask].unique().tolist() == pytest.approx([1 / 3])


def test_a_step_without_pairs_ranks_every_row_by_itself() -> None:
    mask, logp = columns([2, 1, 3])
    ref, ids = logp.detach() - 0.5, torch.tensor([0, 1, 1])
    ranks = torch.tensor([1.0, 3.0, 3.0], dtype=torch.float64)
    loss = unpaired_ranks(logp, ref, ranks, mask)
    # u = 0.5: -log sigmoid(0.5) = 0.474077 for the right row and -log sigmoid(-0.5) = 0.974077 for the others.
    assert loss.sum(1).tolist() == pytest.approx([0.474077, 0.974077, 0.974077], abs=1e-5)
    slope = gradient(loss.sum(), logp).sum(1)
    assert slope.tolist() == pytest.approx([-0.377541, 0.622459, 0.622459], abs=1e-5)
    assert not unpaired_ranks(logp, ref, ranks * math.nan, mask).any()
    mixed = torch.tensor([1.0, 1.0, 3.0])
    assert not unpaired_mean(mask, ids, mixed).any() and pair_mean(mask, ids, mixed).any()


def test_the_scale_of_rewards_is_nothing_to_trpa_and_something_to_a_loss_on_rewards() -> None:
    def slope(form: Train, scale: float) -> Tensor:
        drawn = -torch.rand(8, 1, generator=torch.Generator().manual_seed(0))
        reward = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.0, 0.5]) * scale
        batch = Batch(
            mask=torch.ones(8, 1, dtype=torch.bool),
            group=torch.arange(8) // 4,
            reward=reward,
            level=torch.tensor([1.0, 3.0, 2.0, 4.0, 1.0, 1.0, 4.0, 2.0]),
            ref_logp=drawn - 0.1,
            old_logp=drawn,
        )
        logp = drawn.clone().requires_grad_()
        return gradient(loss_on(form, step_on(form, batch), logp), logp)

    assert torch.equal(slope(trpa(), 1.0), slope(trpa(), 100.0))
    assert not torch.equal(slope(dr_grpo(), 1.0), slope(dr_grpo(), 100.0))


def test_levels_follow_the_checker_and_the_end_of_the_completion() -> None:
    def level(stop: str, **facts: float) -> float:
        row = Rollout(Problem("a", "a"), (), (1,), (0.0,), "x", stop, (), facts=facts)  # type: ignore[arg-type]
        return outcome_level(row.problem, row)

    assert level("eos", correct=1.0) == level("length", correct=1.0) == 1
    assert level("eos", correct=0.0, answered=1.0) == level("eos", correct=0.5) == 2
    assert level("stop", correct=0.0, answered=0.0) == 3
    assert level("length", correct=0.0, answered=1.0) == 4
