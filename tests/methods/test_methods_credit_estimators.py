"""Credit estimators: worked examples, slow oracles in Python floats, and the properties of the formulas."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.methods.credit import (
    gae,
    gae_returns,
    greedy_baseline,
    group_normalise,
    leave_one_out,
    reference_kl_to_go,
    return_to_go,
    whiten,
)

NUMBERS = st.integers(-12, 12).map(lambda n: n / 4)
MASKS = st.lists(st.booleans(), min_size=1, max_size=11)
SHARES = st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0])


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def masked(values: list[bool]) -> Tensor:
    return torch.tensor([values])


def loo(rewards: list[float], groups: list[int] | None = None, **knobs: Any) -> list[float]:
    group = torch.tensor(groups or [0] * len(rewards))
    scores = torch.tensor(rewards, dtype=torch.float64)
    return leave_one_out(scores, group, torch.ones(len(rewards), 1).bool(), **knobs).flatten().tolist()


# Leave-one-out


def test_the_baseline_is_the_mean_of_the_siblings() -> None:
    # Of 1, 0, 0, 1 the siblings of a 1 average 1/3, those of a 0 average 2/3.
    assert loo([1.0, 0.0, 0.0, 1.0]) == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


@given(st.lists(st.tuples(st.integers(0, 3), NUMBERS), min_size=1, max_size=12))
def test_leave_one_out_equals_the_loop_over_siblings(rows: list[tuple[int, float]]) -> None:
    found = loo([r for _, r in rows], [g for g, _ in rows])
    for i, (group, reward) in enumerate(rows):
        siblings = [r for j, (g, r) in enumerate(rows) if g == group and j != i]
        wanted = reward - statistics.fmean(siblings) if siblings else 0.0
        assert found[i] == pytest.approx(wanted, abs=1e-12)


@given(st.lists(NUMBERS, min_size=2, max_size=9), NUMBERS)
def test_leave_one_out_sums_to_zero_ignores_shifts_and_is_a_multiple_of_the_centred_reward(
    rewards: list[float], shift: float
) -> None:
    found, n = loo(rewards), len(rewards)
    assert sum(found) == pytest.approx(0.0, abs=1e-9)
    assert loo([r + shift for r in rewards]) == pytest.approx(found, abs=1e-9)
    scores, mask = torch.tensor(rewards, dtype=torch.float64), torch.ones(n, 1).bool()
    centred = group_normalise(scores, torch.zeros(n, dtype=torch.long), mask, std="none").flatten() * n / (n - 1)
    assert found == pytest.approx(centred.tolist(), abs=1e-12)


@given(st.floats(-1e6, 1e6, allow_nan=False, width=32), st.integers(2, 33))
def test_equal_rewards_leave_exactly_nothing(reward: float, size: int) -> None:
    out = leave_one_out(torch.full((size,), reward), torch.zeros(size, dtype=torch.long), torch.ones(size, 1).bool())
    assert not out.any()


def test_a_row_without_siblings_gets_zero_or_its_raw_reward() -> None:
    assert loo([3.0, 1.0, 0.0], [0, 1, 1]) == [0.0, 1.0, -1.0]
    assert loo([3.0, 1.0, 0.0], [0, 1, 1], singleton="raw") == [3.0, 1.0, -1.0]


def test_an_empty_row_counts_as_a_sibling_and_gets_nothing() -> None:
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    found = leave_one_out(torch.tensor([1.0, 0.0, 4.0]), torch.zeros(3, dtype=torch.long), mask)
    torch.testing.assert_close(found, torch.tensor([[-1.0, -1.0], [-2.5, 0.0], [0.0, 0.0]]))


# Whitening


def test_whitening_counts_tokens_or_rows() -> None:
    # Advantages 1 at three tokens, -1 at two. Tokens: mean 0.2, squares 3 * 0.64 + 2 * 1.44 = 4.8 over 4.
    # Rows: mean 0, squares 2 over 1.
    given_, mask = torch.tensor([[1.0, 1, 1], [-1, -1, 9]]), torch.tensor([[True] * 3, [True, True, False]])
    by_token, by_row = whiten(given_, mask), whiten(given_, mask, per="row")
    assert by_token[0].tolist() == pytest.approx([0.8 / math.sqrt(1.2)] * 3, abs=1e-6)
    assert by_token[1].tolist() == pytest.approx([-1.2 / math.sqrt(1.2)] * 2 + [0.0], abs=1e-6)
    assert by_row[:, 0].tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], abs=1e-6)


@given(
    st.lists(st.tuples(NUMBERS, st.booleans()), min_size=2, max_size=12), st.sampled_from(["remove", "keep", "scale"])
)
def test_whitening_equals_the_oracle(tokens: list[tuple[float, bool]], mean: str) -> None:
    values = [v for v, chosen in tokens if chosen]
    assume(len(set(values)) > 1)
    found = whiten(row([v for v, _ in tokens]), masked([m for _, m in tokens]), mean=mean)[0].tolist()
    middle, scale = statistics.fmean(values), 1 / math.sqrt(statistics.variance(values) + 1e-8)
    wanted = {"remove": (-middle, 0.0), "keep": (-middle, middle), "scale": (0.0, 0.0)}[mean]
    for out, (value, chosen) in zip(found, tokens, strict=True):
        assert out == pytest.approx((value + wanted[0]) * scale + wanted[1] if chosen else 0.0, abs=1e-9)


@given(st.lists(st.tuples(NUMBERS, st.integers(1, 4)), min_size=2, max_size=7))
def test_per_row_whitening_gives_the_statistics_over_rows_whatever_the_lengths(rows: list[tuple[float, int]]) -> None:
    values = [v for v, _ in rows]
    assume(len(set(values)) > 1)
    mask = torch.arange(4)[None, :] < torch.tensor([n for _, n in rows])[:, None]
    wide = torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, 4)
    found = whiten(wide, mask, per="row", eps=1e-4, eps_in="deviation")[:, 0].tolist()
    middle, scale = statistics.fmean(values), statistics.stdev(values) + 1e-4
    assert found == pytest.approx([(v - middle) / scale for v in values], abs=1e-9)


def test_a_row_without_tokens_is_no_row_of_the_statistics() -> None:
    given_, mask = torch.tensor([[1.0, 1.0], [-2.0, 0.0], [4.0, 4.0]]), torch.tensor([[1, 1], [1, 0], [0, 0]]).bool()
    for per in ("token", "row"):
        torch.testing.assert_close(whiten(given_, mask, per=per)[:2], whiten(given_[:2], mask[:2], per=per))
        assert not whiten(given_, mask, per=per)[2].any()


@given(st.lists(NUMBERS, min_size=2, max_size=12), st.floats(0.1, 10))
def test_whitened_advantages_have_mean_0_variance_1_and_no_scale(values: list[float], scale: float) -> None:
    assume(len(set(values)) > 1)
    whole = torch.ones(1, len(values)).bool()
    found = whiten(row(values), whole)[0].tolist()
    assert statistics.fmean(found) == pytest.approx(0.0, abs=1e-9)
    assert statistics.variance(found) == pytest.approx(1.0, abs=1e-6)
    assert whiten(row([scale * v for v in values]), whole)[0].tolist() == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("per", ["token", "row"])
@pytest.mark.parametrize("value", [0.1, -3.7, 1e6])
def test_equal_advantages_become_exactly_zero_or_stay(per: str, value: float) -> None:
    given_, mask = torch.full((5, 3), value), torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) < 0.7
    assert not whiten(given_, mask, per=per).any()
    for mean in ("keep", "scale"):
        assert torch.equal(whiten(given_, mask, per=per, mean=mean), given_ * mask)


def test_one_token_or_none_has_no_variance_and_does_not_raise() -> None:
    one = torch.tensor([[False, True], [False, False]])
    assert not whiten(torch.tensor([[5.0, 7.0], [1.0, 2.0]]), one).any()
    assert not whiten(torch.tensor([[5.0, 7.0], [1.0, 2.0]]), torch.zeros(2, 2).bool()).any()


def test_a_nan_under_the_mask_is_not_hidden_and_one_outside_it_is_not_seen() -> None:
    given_ = torch.tensor([[1.0, math.nan, 2.0]])
    assert whiten(given_, masked([True, True, True])).isnan().all()
    assert whiten(given_, masked([True, False, True])).isfinite().all()


def test_prompt_offsets_cancel_with_the_group_baseline_and_not_without_it() -> None:
    rewards, group = torch.tensor([1.0, 0.0, 0.5, 2.0]), torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    offset = torch.tensor([10.0, 10.0, -5.0, -5.0])
    centred = [whiten(group_normalise(r, group, mask, std="none"), mask) for r in (rewards, rewards + offset)]
    plain = [whiten(return_to_go(r, mask), mask) for r in (rewards, rewards + offset)]
    torch.testing.assert_close(*centred)
    assert (plain[0] - plain[1]).abs().max() > 0.1


# Returns to go and GAE


def oracle(reward: float, values: list[float], mask: list[bool], gamma: float, lam: float) -> list[float]:
    """GAE of the compacted row, by its double sum; 0 outside the mask."""
    kept = [t for t, chosen in enumerate(mask) if chosen]
    v = [values[t] for t in kept] + [0.0]
    delta = [(reward if k == len(kept) - 1 else 0.0) + gamma * v[k + 1] - v[k] for k in range(len(kept))]
    out = [0.0] * len(mask)
    for k, t in enumerate(kept):
        out[t] = sum((gamma * lam) ** (j - k) * delta[j] for j in range(k, len(kept)))
    return out


@given(NUMBERS, st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=11), SHARES, SHARES)
def test_gae_equals_the_double_sum_over_the_compacted_row(
    reward: float, tokens: list[tuple[float, bool]], gamma: float, lam: float
) -> None:
    values, mask = [v for v, _ in tokens], [m for _, m in tokens]
    given_ = (torch.tensor([reward], dtype=torch.float64), row(values), masked(mask))
    wanted = oracle(reward, values, mask, gamma, lam)
    assert gae(*given_, gamma=gamma, lam=lam)[0].tolist() == pytest.approx(wanted, abs=1e-9)
    targets = [a + v if m else 0.0 for a, v, m in zip(wanted, values, mask, strict=True)]
    assert gae_returns(*given_, gamma=gamma, lam=lam)[0].tolist() == pytest.approx(targets, abs=1e-9)


def test_gae_of_the_worked_example() -> None:
    # V = 0.2, 0.4, -, 0.6; r = 1 last. delta = 0.2, 0.2, 0.4; A = 0.4; 0.2 + 0.95 * 0.4; 0.2 + 0.95 * 0.58.
    given_ = (torch.tensor([1.0]), torch.tensor([[0.2, 0.4, 0.9, 0.6]]), masked([True, True, False, True]))
    assert gae(*given_, lam=0.95)[0].tolist() == pytest.approx([0.751, 0.58, 0.0, 0.4], abs=1e-6)


@given(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=9), SHARES)
def test_lambda_1_is_the_return_and_lambda_0_the_one_step_surprise(
    reward: float, values: list[float], gamma: float
) -> None:
    given_ = (torch.tensor([reward], dtype=torch.float64), row(values), torch.ones(1, len(values)).bool())
    ahead = [*values[1:], 0.0]
    surprise = [gamma * n - v for n, v in zip(ahead, values, strict=True)]
    surprise[-1] += reward
    assert gae(*given_, gamma=gamma, lam=0.0)[0].tolist() == pytest.approx(surprise, abs=1e-9)
    assert gae_returns(*given_)[0].tolist() == pytest.approx([reward] * len(values), abs=1e-9)
    returns = return_to_go(given_[0], given_[2], gamma=gamma)
    torch.testing.assert_close(gae_returns(*given_, gamma=gamma), returns, rtol=0, atol=1e-9)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6), MASKS, SHARES, SHARES)
def test_tool_tokens_anywhere_change_nothing_on_the_others(
    tokens: list[tuple[float, float]], holes: list[bool], gamma: float, lam: float
) -> None:
    # The row once as it is and once with tool tokens, of value 99 and log-ratio -50, put before the token of each hole.
    wide: list[tuple[float, float] | None] = []
    for n, token in enumerate(tokens):
        wide += [None] * holes[n % len(holes)] + [token]
    wide += [None] * holes[-1]
    mask = masked([token is not None for token in wide])
    full = [token or (99.0, 50.0) for token in wide]
    reward, one = torch.tensor([1.5], dtype=torch.float64), torch.ones(1, len(tokens)).bool()

    def columns(pairs: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
        return row([a for a, _ in pairs]), row([b for _, b in pairs])

    (value, logp), (wide_value, wide_logp) = columns(tokens), columns(full)
    for function in (gae, gae_returns):
        found = function(reward, wide_value, mask, gamma=gamma, lam=lam)
        torch.testing.assert_close(found[mask], function(reward, value, one, gamma=gamma, lam=lam)[one])
        assert not found[~mask].any()
    found = return_to_go(reward, mask, gamma=gamma)
    torch.testing.assert_close(found[mask], return_to_go(reward, one, gamma=gamma)[one])
    ratio = reference_kl_to_go(wide_logp, torch.zeros_like(wide_logp), mask, gamma=gamma)
    torch.testing.assert_close(ratio[mask], reference_kl_to_go(logp, torch.zeros_like(logp), one, gamma=gamma)[one])


def test_the_reward_stands_on_the_last_token_that_the_policy_chose() -> None:
    # Rows: whole, a tool's tokens at the end, empty.
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    found = return_to_go(torch.tensor([1.0, 2.0, 3.0]), mask, gamma=0.5)
    assert found.tolist() == [[0.25, 0.5, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert not gae(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 3), mask)[2].any()


def test_long_rows_sum_exactly_as_a_loop_does() -> None:
    rng = torch.Generator().manual_seed(0)
    mask = torch.rand(3, 257, generator=rng) < 0.8
    old, ref = torch.randn(2, 3, 257, generator=rng, dtype=torch.float64)
    found, running = reference_kl_to_go(old, ref, mask, beta=0.3, gamma=0.97), torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(257)):
        step = -0.3 * (old[:, t] - ref[:, t]) + 0.97 * running
        running = torch.where(mask[:, t], step, running)
        torch.testing.assert_close(found[:, t], running * mask[:, t], rtol=1e-10, atol=1e-12)


@given(NUMBERS, st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), min_size=1, max_size=9), SHARES, SHARES)
def test_a_penalty_beside_gae_equals_gae_of_penalised_token_rewards(
    reward: float, tokens: list[tuple[float, float, bool]], gamma: float, lam: float
) -> None:
    values, ratios, mask = map(list, zip(*tokens, strict=True))
    kept = [t for t, chosen in enumerate(mask) if chosen]
    given_ = (torch.tensor([reward], dtype=torch.float64), row(values), masked(mask))
    beside = gae(*given_, gamma=gamma, lam=lam) + reference_kl_to_go(
        row(ratios), row([0.0] * len(mask)), given_[2], beta=0.1, gamma=gamma * lam
    )
    # The oracle: the recursion with a reward at each token.
    running, following, wanted = 0.0, 0.0, [0.0] * len(mask)
    for t in reversed(kept):
        token_reward = (reward if t == kept[-1] else 0.0) - 0.1 * ratios[t]
        running = token_reward + gamma * following - values[t] + gamma * lam * running
        wanted[t], following = running, values[t]
    assert beside[0].tolist() == pytest.approx(wanted, abs=1e-9)


# Greedy baseline


def test_the_greedy_baseline_takes_the_greedy_reward_from_every_token() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    found = greedy_baseline(torch.tensor([1.0, 0.5, 3.0]), torch.tensor([0.4, 0.5, 1.0]), mask)
    torch.testing.assert_close(found, torch.tensor([[0.6] * 3, [0.0] * 3, [0.0] * 3]))


@pytest.mark.parametrize(
    ("function", "knobs"),
    [
        (leave_one_out, {"singleton": "one"}),
        (whiten, {"per": "group"}),
        (whiten, {"mean": "x"}),
        (whiten, {"eps_in": "x"}),
    ],
)
def test_an_unknown_word_is_refused(function: Callable[..., Tensor], knobs: dict[str, str]) -> None:
    # Without the tests' own type checker, which would be first to refuse it.
    plain, mask = inspect.unwrap(function), torch.ones(2, 1).bool()
    call = (
        partial(plain, torch.ones(2), torch.tensor([0, 0]))
        if function is leave_one_out
        else partial(plain, torch.ones(2, 1))
    )
    with pytest.raises(SettingError, match=next(iter(knobs.values()))):
        call(mask, **knobs)
