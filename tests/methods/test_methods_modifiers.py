"""Row and group weights, and the smooth hazard: worked examples, slow oracles in float64, properties."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import DataError, SettingError
from truegain.methods.credit import amplify_overconfident
from truegain.methods.length import selective_merge, within_limit
from truegain.methods.objective import hazard_gate
from truegain.methods.reward import discount_likely, nonzero_reward

SEEDS = st.integers(0, 999)


def noise(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


# Discount by rank. Mean log-probs (-0.2, -0.5, -0.9, -1.5) rank 3, 2, 1, 0 of G = 4; beta = 0.25:
# r' = 1 - 0.25 * 3/4 = 0.8125, 1 - 0.25 * 2/4 = 0.875, wrong 0, 1.


def discounted(
    reward: Tensor, logp: Tensor, group: Sequence[int], mask: Tensor | None = None, **knobs: object
) -> Tensor:
    whole = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask
    return discount_likely(reward, logp, torch.tensor(group), whole, **knobs)  # pyright: ignore[reportArgumentType]


def test_likely_right_answers_are_discounted_as_in_the_worked_example() -> None:
    reward = torch.tensor([1.0, 1.0, 0.0, 1.0])
    found = discounted(reward, torch.tensor([[-0.2], [-0.5], [-0.9], [-1.5]]), [0, 0, 0, 0])
    assert found.tolist() == [0.8125, 0.875, 0.0, 1.0]


def test_the_rank_is_by_the_mean_of_a_row_or_by_its_sum() -> None:
    # Means -0.5, -1; sums -1.5, -1: the first row is likelier by its mean, less likely by its sum.
    logp, mask = torch.tensor([[-0.5, -0.5, -0.5], [-1.0, 9.0, 9.0]]), mask_of(3, 1)
    assert discounted(torch.ones(2), logp, [0, 0], mask, beta=1.0).tolist() == [0.5, 1.0]
    assert discounted(torch.ones(2), logp, [0, 0], mask, beta=1.0, level="sum").tolist() == [1.0, 0.5]


def test_equal_rows_share_their_ranks_or_take_them_in_order() -> None:
    # Ranks 0, then 1 and 2 (mean 1.5), then 3; G = 4, beta = 1: factors 1, 0.625 twice or 0.75 and 0.5, 0.25.
    logp = torch.tensor([[-1.0], [-2.0], [-1.0], [-0.5]])
    assert discounted(torch.ones(4), logp, [0, 0, 0, 0], beta=1.0).tolist() == [0.625, 1.0, 0.625, 0.25]
    assert discounted(torch.ones(4), logp, [0, 0, 0, 0], beta=1.0, ties="order").tolist() == [0.75, 1.0, 0.5, 0.25]


@given(SEEDS, st.lists(st.integers(0, 3), min_size=1, max_size=12), st.floats(0, 1), st.booleans())
def test_the_discount_equals_the_count_of_less_likely_rows_in_the_group(
    seed: int, group: list[int], beta: float, by_order: bool
) -> None:
    # Three values only, so that ties are common.
    logp = -torch.randint(3, (len(group), 1), generator=torch.Generator().manual_seed(seed)).double()
    reward = noise(seed, len(group)).clamp(min=-1, max=1)
    found = discounted(reward, logp, group, beta=beta, ties="order" if by_order else "mean").tolist()
    for i, value in enumerate(reward.tolist()):
        mates = [j for j, g in enumerate(group) if g == group[i]]
        below = sum(float(logp[j]) < float(logp[i]) for j in mates)
        equal = [j for j in mates if float(logp[j]) == float(logp[i])]
        rank = below + (equal.index(i) if by_order else (len(equal) - 1) / 2)
        wanted = value * (1 - beta * rank / len(mates)) if value > 0 else value
        assert found[i] == pytest.approx(wanted, abs=1e-12)
        assert value <= 0 or 1 - beta * (len(mates) - 1) / len(mates) - 1e-12 <= found[i] / value <= 1 + 1e-12


@given(SEEDS)
def test_among_right_rows_the_less_likely_one_earns_more_and_beta_0_changes_nothing(seed: int) -> None:
    logp, reward = noise(seed, 6, 1), torch.ones(6, dtype=torch.float64)
    order = logp.flatten().argsort()
    found = discounted(reward, logp, [0] * 6)[order]
    assert (found[:-1] > found[1:]).all()
    assert torch.equal(discounted(reward, logp, [0] * 6, beta=0.0), reward)


def test_a_group_of_one_an_empty_row_and_a_nan_reward_are_defined_for_the_discount() -> None:
    mask = torch.tensor([[True], [True], [False], [True]])
    logp = torch.tensor([[-1.0], [-1.0], [float("nan")], [-2.0]])
    found = discounted(torch.tensor([1.0, 1.0, 1.0, float("nan")]), logp, [0, 1, 1, 2], mask, beta=1.0)
    # Alone: kept. Beside an empty row, which is certain (0 nats) and so ranks 1 of 2.
    assert found[:3].tolist() == [1.0, 1.0, 0.5] and found[3].isnan()


def test_rows_of_reward_0_leave_the_batch() -> None:
    assert nonzero_reward(torch.tensor([0.0, -1.0, 0.1, float("nan")])).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert not nonzero_reward(torch.zeros(3)).any()


# Overconfident errors. A = -0.5, alpha = 1, c = 2, 0, -2:
# relu: -0.5 * 3, -0.5, -0.5; softplus(2, 0, -2) = 2.126928, 0.693147, 0.126928: -1.563464, -0.846574, -0.563464.

RISEN = column(2.0, 0.0, -2.0)


def amplified(advantage: Tensor, correct: Sequence[float], risen: Tensor, mask: Tensor | None = None, **knobs: object):
    whole = torch.ones_like(risen, dtype=torch.bool) if mask is None else mask
    right = torch.tensor(correct, dtype=advantage.dtype)
    reference = torch.zeros_like(risen)
    return amplify_overconfident(advantage, right, risen, reference, whole, **knobs)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("shape", "wanted"), [("relu", [-1.5, -0.5, -0.5]), ("softplus", [-1.563464, -0.846574, -0.563464])]
)
def test_overconfident_errors_are_amplified_as_in_the_worked_example(shape: str, wanted: list[float]) -> None:
    found, logs = amplified(column(-0.5, -0.5, -0.5), [0.0, 0.0, 0.0], RISEN, shape=shape)
    assert found.flatten().tolist() == pytest.approx(wanted, abs=1e-6)
    assert logs["truegain/overconfident"].tolist() == [1.0, 0.0, 0.0]


@given(SEEDS, st.floats(0, 3), st.sampled_from(["relu", "softplus"]), st.sampled_from(["sum", "mean"]), st.booleans())
def test_the_amplified_credit_follows_its_formula_row_by_row(
    seed: int, alpha: float, shape: str, level: str, bounded: bool
) -> None:
    mask, old, ref = mask_of(3, 1, 4, 2), noise(seed, 4, 4), noise(seed + 1, 4, 4)
    advantage = noise(seed + 2, 4, 4) * mask
    right, bound = [1.0, 0.0, 0.0, 1.0], 0.5 if bounded else None
    knobs = {"alpha": alpha, "shape": shape, "level": level, "bound": bound}
    found, _ = amplify_overconfident(advantage, torch.tensor(right).double(), old, ref, mask, **knobs)  # pyright: ignore[reportArgumentType]
    for i in range(4):
        tokens = [t for t in range(4) if mask[i, t]]
        shift = sum(float(old[i, t] - ref[i, t]) for t in tokens) / (len(tokens) if level == "mean" else 1)
        shift = min(max(shift, -0.5), 0.5) if bounded else shift
        phi = max(shift, 0.0) if shape == "relu" else math.log1p(math.exp(shift))
        for t in range(4):
            given_here = float(advantage[i, t])
            gain = 1 + alpha * phi if right[i] == 0 and given_here < 0 else 1.0
            assert float(found[i, t]) == pytest.approx(given_here * gain, rel=1e-9)
            assert t not in tokens or right[i] == 0 or float(found[i, t]) == given_here
    assert torch.equal(found.sign(), advantage.sign())
    if alpha == 0:
        assert torch.equal(found, advantage)


@given(st.floats(-9, 9), st.floats(-9, 9), st.sampled_from(["relu", "softplus"]))
def test_an_error_that_has_risen_further_is_never_punished_less(one: float, two: float, shape: str) -> None:
    low, high = sorted((one, two))
    found, _ = amplified(column(-1.0, -1.0), [0.0, 0.0], column(low, high), shape=shape)
    assert float(found[1]) <= float(found[0]) <= -1.0


def test_right_rows_positive_credit_and_empty_rows_keep_what_they_had() -> None:
    mask = torch.tensor([[True], [True], [False]])
    found, _ = amplified(column(-1.0, 1.0, 0.0), [1.0, 0.0, 0.0], column(3.0, 3.0, 3.0), mask)
    assert found.flatten().tolist() == [-1.0, 1.0, 0.0]
    lost, _ = amplified(column(-1.0), [0.0], column(float("nan")))
    assert lost.isnan().all()


# The hazard at l = -2 with the defaults, by hand: psi = 1.5 tanh(-4/3) = -1.305093; softplus(psi) = 0.239921, to the
# power 1.5 = 0.117517; softplus(-psi) = 1.545014, over 0.8 and squared = 3.729795;
# w = exp(-1.305093 - 3.847312) = 0.005786.


def gate(change: Tensor, **knobs: float) -> tuple[Tensor, Tensor]:
    """The weight and its slope by the log-ratio."""
    leaf = change.clone().requires_grad_()
    loss, _ = hazard_gate(leaf, torch.zeros_like(change), torch.ones_like(change), **knobs)
    (slope,) = torch.autograd.grad(-loss.sum(), leaf)
    return -loss.detach(), slope


def test_the_hazard_weights_equal_the_worked_example() -> None:
    weight, _ = gate(torch.tensor([[-2.0, -0.5, 0.0, 0.5, 2.0]], dtype=torch.float64))
    assert weight.flatten().tolist() == pytest.approx([0.0058, 0.1038, 0.2651, 0.4386, 0.4940], abs=5e-5)
    assert float(weight[0, 0]) == pytest.approx(0.005786, abs=1e-6)
    relative, _ = gate(torch.tensor([[-2.0, -0.5, 0.0, 0.5, 2.0]], dtype=torch.float64), one_at_zero=True)
    assert relative.flatten().tolist() == pytest.approx([0.0218, 0.3918, 1.0, 1.6549, 1.8636], abs=5e-5)


@given(st.floats(-50, 50), st.floats(-3, 3), st.floats(0.2, 4), st.floats(0.3, 3), st.floats(0.3, 3), st.floats(0.3, 3))
def test_the_hazard_loss_and_its_gradient_follow_the_formula(
    change: float, advantage: float, bound: float, shape: float, scale: float, other: float
) -> None:
    leaf = torch.tensor([[change]], dtype=torch.float64, requires_grad=True)
    loss, _ = hazard_gate(
        leaf, torch.zeros(1, 1).double(), torch.full((1, 1), advantage).double(), bound=bound, rise_shape=shape,
        rise_scale=scale, fall_shape=other, fall_scale=shape,
    )  # fmt: skip
    loss.sum().backward()
    psi = bound * math.tanh(change / bound)
    hazard = (math.log1p(math.exp(psi)) / scale) ** shape + (math.log1p(math.exp(-psi)) / shape) ** other
    weight = math.exp(psi - hazard)
    advantage = float(torch.tensor(advantage))  # as rounded above
    assert leaf.grad is not None
    assert float(loss.detach()) == pytest.approx(-advantage * weight, rel=1e-6, abs=1e-12)
    slope = -advantage * weight * (1 - math.tanh(change / bound) ** 2)
    assert float(leaf.grad) == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert 0 <= weight <= math.exp(bound)


@given(st.floats(0.0625, 5, width=32))
def test_falls_are_damped_more_than_rises_and_no_token_within_five_nats_loses_its_gradient(change: float) -> None:
    weight, slope = gate(torch.tensor([[-change, 0.0, change]]))
    down, still, up = weight.flatten().tolist()
    assert down < up
    assert down * up < still**2
    assert (slope > 0).all() and slope.isfinite().all()


def test_an_infinite_shift_gives_a_finite_weight() -> None:
    weight, slope = gate(torch.tensor([[-math.inf, math.inf, -300.0, 300.0]]))
    assert weight.isfinite().all() and slope.isfinite().all()
    assert float(weight.max()) <= math.exp(1.5)


def test_the_gradient_may_pass_through_the_hazard() -> None:
    # By finite differences of the weight itself, where the stopped gradient is another number.
    at, step = torch.tensor([[0.7]], dtype=torch.float64), 1e-6
    _, through = gate(at, through=True)
    difference = (gate(at + step)[0] - gate(at - step)[0]) / (2 * step)
    assert float(through) == pytest.approx(float(difference), rel=1e-6)
    assert abs(float(gate(at)[1]) - float(difference)) > 0.05


# Limits. 10 tokens are the limit; a row that was cut off is beyond it whatever its length.


def limited(
    reward: Tensor, correct: Sequence[float], group: Sequence[int], lengths: Sequence[int], **knobs: float
) -> Tensor:
    ended = torch.tensor([length >= 10 for length in lengths])
    right, ids = torch.tensor(correct, dtype=reward.dtype), torch.tensor(group)
    return within_limit(reward, right, ids, mask_of(*lengths), ended, max_tokens=10, **knobs)[0]


def test_a_truncated_row_is_wrong_and_the_others_keep_their_reward() -> None:
    assert limited(torch.tensor([1.0, 1.0, 0.5]), [1, 1, 0], [0, 0, 0], [9, 10, 3]).tolist() == [1.0, 0.0, 0.5]
    assert limited(torch.ones(3), [1, 1, 1], [0, 0, 0], [5, 6, 10], limit=0.5, over=-1.0).tolist() == [1.0, -1.0, -1.0]


def test_problems_that_half_of_the_samples_solve_have_the_tighter_limit() -> None:
    # Group 0: 1 of 2 right, so 5 tokens; group 1: 1 of 3, so all 10.
    found = limited(torch.ones(5), [1, 0, 1, 0, 0], [0, 0, 1, 1, 1], [5, 6, 6, 9, 10], easy=0.5)
    assert found.tolist() == [1.0, 0.0, 1.0, 1.0, 0.0]
    assert limited(torch.ones(2), [1, 0], [0, 0], [5, 6], easy=0.5, threshold=0.6).tolist() == [1.0, 1.0]


def test_holes_of_tool_tokens_count_against_the_limit_and_an_empty_row_is_within() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, False]])
    group, no = torch.zeros(3, dtype=torch.long), torch.zeros(3).bool()
    found, logs = within_limit(torch.ones(3), torch.ones(3), group, mask, no, limit=0.5, max_tokens=4)
    assert found.tolist() == [0.0, 1.0, 1.0] and logs["truegain/over_limit"].tolist() == [1.0, 0.0, 0.0]
    nothing = torch.zeros(3, 0).bool()
    assert within_limit(torch.ones(3), torch.ones(3), group, nothing, no, max_tokens=4)[0].tolist() == [1.0, 1.0, 1.0]


def test_a_nan_reward_stays_nan_within_the_limit() -> None:
    found = limited(torch.tensor([float("nan"), float("nan")]), [1, 1], [0, 0], [3, 10])
    assert found[0].isnan() and float(found[1]) == 0.0


# Merging.


def weights(seed: int) -> dict[str, Tensor]:
    return {"a": noise(seed, 5, 3).float(), "b": noise(seed + 1, 7).float(), "n": torch.tensor([3])}


@given(SEEDS, st.floats(0, 1), st.floats(0, 2), st.sampled_from(["tensor", "model"]))
def test_merging_moves_the_largest_changes_and_no_more_than_their_share(
    seed: int, keep: float, scale: float, per: str
) -> None:
    base, trained = weights(seed), weights(seed + 7)
    merged = selective_merge(base, trained, keep=keep, scale=scale, per=per)  # pyright: ignore[reportArgumentType]
    pairs = {
        name: list(zip(base[name].view(-1).tolist(), trained[name].view(-1).tolist(), strict=True)) for name in "ab"
    }
    flat = [(abs(y - x), name) for name in "ab" for x, y in pairs[name]]
    for name in "ab":
        pool = sorted((size for size, owner in flat if per == "model" or owner == name), reverse=True)
        count = int(keep * len(pool))
        edge = pool[count - 1] if count else math.inf
        moved = 0
        for (x, y), z in zip(pairs[name], merged[name].view(-1).tolist(), strict=True):
            inside = abs(y - x) >= edge
            moved += inside
            assert z == pytest.approx(x + scale * (y - x) if inside else x, abs=1e-5)
        assert per == "model" or moved == count
    assert torch.equal(merged["n"], base["n"])
    assert all(merged[name].dtype == base[name].dtype for name in base)


def test_merging_all_gives_the_trained_weights_and_none_the_base() -> None:
    base, trained = weights(0), weights(7)
    for per in ("tensor", "model"):
        whole = selective_merge(base, trained, keep=1.0, scale=1.0, per=per)
        assert all(torch.equal(whole[name], trained[name]) for name in "ab")
        none = selective_merge(base, trained, keep=0.0, per=per)
        assert all(torch.equal(none[name], base[name]) for name in base)
        assert none["a"] is not base["a"]
    quarter = selective_merge(base, trained)
    assert int((quarter["a"] != base["a"]).sum()) == 3 and int((quarter["b"] != base["b"]).sum()) == 1


def test_merging_equal_changes_keeps_no_more_than_the_share() -> None:
    merged = selective_merge({"w": torch.zeros(8)}, {"w": torch.ones(8)}, keep=0.25, scale=1.0)
    assert merged["w"].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_merging_two_models_that_differ_is_refused_by_name() -> None:
    base = {"w": torch.zeros(2)}
    for other, said in (
        ({}, "trained weights have no 'w'"),
        ({"w": torch.zeros(3)}, r"'w' is .*\[2\] and .*\[3\]"),
        ({"w": torch.zeros(2), "v": torch.zeros(1)}, "base weights have no 'v'"),
    ):
        with pytest.raises(DataError, match=said):
            selective_merge(base, other)


ONE = torch.ones(1, 1)


@pytest.mark.parametrize(
    ("function", "columns", "knobs"),
    [
        (discount_likely, (ONE[0], ONE, torch.tensor([0]), ONE.bool()), [{"beta": 1.1}, {"level": "x"}, {"ties": "x"}]),
        (
            amplify_overconfident,
            (ONE, ONE[0], ONE, ONE, ONE.bool()),
            [{"alpha": -1.0}, {"bound": 0.0}, {"shape": "x"}, {"level": "x"}],
        ),
        (hazard_gate, (ONE, ONE, ONE), [{"bound": 0.0}, {"rise_shape": -1.0}, {"fall_scale": 0.0}]),
        (selective_merge, ({}, {}), [{"keep": 1.5}, {"scale": -1.0}, {"per": "x"}]),
    ],
)
def test_knobs_out_of_bounds_are_refused_by_name(function: object, columns: tuple, knobs: list[dict]) -> None:
    for knob in knobs:
        with pytest.raises(SettingError, match=next(iter(knob))):
            inspect.unwrap(function)(*columns, **knob)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("knob", [{"limit": 0.0}, {"easy": 1.5}, {"threshold": 2.0}])
def test_limits_that_are_no_shares_are_refused(knob: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(knob))):
        limited(torch.ones(1), [1], [0], [3], **knob)


def test_the_order_of_rows_decides_nothing_where_ties_share_their_ranks() -> None:
    logp = torch.tensor([[-1.0], [-2.0], [-1.0], [-1.0], [-2.0]])
    order = list(range(5))
    random.Random(0).shuffle(order)
    found = discounted(torch.ones(5), logp, [0] * 5)
    assert torch.equal(discounted(torch.ones(5), logp[order], [0] * 5), found[order])
