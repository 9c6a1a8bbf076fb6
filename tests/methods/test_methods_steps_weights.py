"""Credit by group and by step: attenuation by length, entropy modulation, merged steps, shrinkage to a prior."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.methods.credit import (
    attenuate_by_length,
    entropy_modulation,
    group_normalise,
    merge_shared_steps,
    shrink_to_prior,
)

D = torch.float64
NUMBERS = st.integers(-12, 12).map(lambda n: n / 4)
ROWS = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 10)), min_size=1, max_size=10)


def weights(groups: list[int], right: list[int], lengths: list[int], limit: int, **knobs: Any) -> list[float]:
    """The weight of each row: what an advantage of 1 at its first token becomes, None for a row without one."""
    mask = torch.arange(max([*lengths, 1]))[None] < torch.tensor(lengths)[:, None]
    correct = torch.tensor(right, dtype=D)
    out, _ = attenuate_by_length(
        torch.ones(mask.shape, dtype=D), correct, torch.tensor(groups), mask, max_tokens=limit, **knobs
    )
    assert not out[~mask].any()
    return [float(r[0]) for r in out]


# Attenuation by length


def test_the_catalogs_groups_keep_their_weight_only_where_thinking_longer_paid() -> None:
    # 900 > 500, as 4090 is beyond 0.99 * 4096 = 4055; 300 < (600 + 500) / 2; no right row at all.
    groups = [0, 0, 0, 0, 1, 1, 1, 2]
    right = [1, 1, 0, 0, 1, 0, 0, 0]
    lengths = [900, 700, 500, 4090, 300, 600, 500, 800]
    assert weights(groups, right, lengths, 4096) == pytest.approx([1.0] * 4 + [0.1] * 4)


def test_the_two_rules_differ_where_one_side_is_empty() -> None:
    # Groups: only right; only wrong; right beside a wrong one that ran into the limit; wrong ones at the limit only.
    groups, right, lengths = [0, 1, 2, 2, 3], [1, 0, 1, 0, 0], [4, 4, 4, 10, 10]
    assert weights(groups, right, lengths, 10) == pytest.approx([1.0, 0.1, 1.0, 1.0, 0.1])
    assert weights(groups, right, lengths, 10, rule="image") == pytest.approx([0.1, 1.0, 0.1, 0.1, 0.1])


@given(ROWS, st.sampled_from(["text", "image"]))
def test_the_weight_equals_the_rule_written_as_a_loop(rows: list[tuple[int, bool, int]], rule: str) -> None:
    groups, right, lengths = [r[0] for r in rows], [int(r[1]) for r in rows], [r[2] for r in rows]
    found = weights(groups, right, lengths, 10, rule=rule)
    for i, g in enumerate(groups):
        good = [n for k, r, n in rows if k == g and r]
        bad = [n for k, r, n in rows if k == g and not r and n < 9.9]
        longest = max(good) if good else (-math.inf if rule == "text" else math.inf)
        mean = statistics.fmean(bad) if bad else (-math.inf if rule == "text" else math.inf)
        if lengths[i]:
            assert found[i] == pytest.approx(1.0 if longest > mean else 0.1)


@given(ROWS, st.lists(NUMBERS, min_size=10, max_size=10))
def test_attenuated_advantages_still_sum_to_zero_and_a_factor_of_1_is_grpo(
    rows: list[tuple[int, bool, int]], rewards: list[float]
) -> None:
    group, mask = torch.tensor([r[0] for r in rows]), torch.ones(len(rows), 1, dtype=torch.bool)
    given_ = group_normalise(torch.tensor(rewards[: len(rows)], dtype=D), group, mask)
    correct = torch.tensor([float(r[1]) for r in rows], dtype=D)
    out, _ = attenuate_by_length(given_, correct, group, mask, max_tokens=10)
    for g in set(group.tolist()):
        assert float(out[group == g].sum()) == pytest.approx(0.0, abs=1e-9)
    assert torch.equal(attenuate_by_length(given_, correct, group, mask, factor=1.0, max_tokens=10)[0], given_)


def test_a_wrong_row_at_the_limit_does_not_influence_the_test() -> None:
    groups, right = [0, 0, 0], [1, 0, 0]
    # 5 > 4 with the truncated row left out; counted it would be 5 > 7, false.
    assert weights(groups, right, [5, 4, 10], 10) == [1.0, 1.0, 1.0]
    assert weights(groups, right, [5, 4, 10], 20) == pytest.approx([0.1, 0.1, 0.1])


# Entropy modulation


def modulated(entropy: list[list[float]], advantage: list[float], **knobs: Any) -> Tensor:
    """One token per step; NaN entropies stand for steps that a row does not have."""
    h = torch.tensor(entropy, dtype=D)
    there = ~h.isnan()
    step = torch.where(there, torch.arange(h.shape[1]).expand(h.shape), -1)
    given_ = torch.tensor(advantage, dtype=D)[:, None].expand(h.shape)
    return entropy_modulation(given_, -h.nan_to_num(), step, there, **knobs)[0]


def test_the_catalogs_four_steps() -> None:
    # h = 0, 1/6, 1/2, 1; exp(-h) = 1, 0.8465, 0.6065, 0.3679, mean 0.7052: g = 1.4180, 1.2003, 0.8601, 0.5217.
    # f = 0.8465, 0.6065, 0.3679, 0, so A g + 0.05 f = 1.4603, 1.2306, 0.8785, 0.5217 with mean 1.0228.
    found = modulated([[0.2, 0.5, 1.1, 2.0]], [1.0])
    torch.testing.assert_close(found, torch.tensor([[0.4376, 0.2079, -0.1443, -0.5011]], dtype=D), atol=2e-4, rtol=0)
    kept = modulated([[0.2, 0.5, 1.1, 2.0]], [1.0], centre=False)
    torch.testing.assert_close(kept, torch.tensor([[1.4603, 1.2306, 0.8784, 0.5216]], dtype=D), atol=2e-4, rtol=0)


ENTROPIES = st.lists(st.lists(st.integers(0, 8).map(lambda n: n / 4), min_size=1, max_size=4), min_size=1, max_size=4)


@given(ENTROPIES, st.lists(NUMBERS, min_size=4, max_size=4), st.sampled_from(["step", "token"]))
def test_modulation_equals_the_loop_over_steps(rows: list[list[float]], advantages: list[float], per: str) -> None:
    wide = [[*r, *[math.nan] * (4 - len(r))] for r in rows]
    found = modulated(wide, advantages[: len(rows)], per=per, sharpness=0.7, clarity=1.3, bonus=0.2)
    flat = [h for r in rows for h in r]
    unit = [[(h - min(flat)) / (max(flat) - min(flat) + 1e-8) for h in r] for r in rows]
    mean = statistics.fmean(math.exp(-0.7 * h) for r in unit for h in r)
    wanted = [
        [
            a * math.exp(-0.7 * h) / mean + (0.2 * math.exp(-1.3 * r[s + 1]) if s + 1 < len(r) else 0.0)
            for s, h in enumerate(r)
        ]
        for a, r in zip(advantages, unit, strict=False)
    ]
    middle = statistics.fmean(x for r in wanted for x in r)
    for out, r in zip(found.tolist(), wanted, strict=True):
        assert out == pytest.approx([*[x - middle for x in r], *[0.0] * (4 - len(r))], abs=1e-9)


@given(ENTROPIES, st.lists(NUMBERS, min_size=4, max_size=4))
def test_without_knobs_modulation_only_takes_the_mean_and_with_them_the_mean_is_zero(
    rows: list[list[float]], advantages: list[float]
) -> None:
    wide = [[*r, *[math.nan] * (4 - len(r))] for r in rows]
    given_ = advantages[: len(rows)]
    plain = modulated(wide, given_, sharpness=0.0, bonus=0.0)
    mean = statistics.fmean(a for a, r in zip(given_, rows, strict=True) for _ in r)
    for out, a, r in zip(plain.tolist(), given_, rows, strict=True):
        assert out[: len(r)] == pytest.approx([a - mean] * len(r), abs=1e-9)
    assert float(modulated(wide, given_).sum()) == pytest.approx(0.0, abs=1e-9)
    # The gain itself: an advantage of 1 everywhere, no bonus, no centring.
    gain = modulated(wide, [1.0] * len(rows), bonus=0.0, centre=False)
    assert float(gain.sum()) == pytest.approx(sum(map(len, rows)), abs=1e-9)
    pairs = sorted((h, float(g)) for r, out in zip(rows, gain, strict=True) for h, g in zip(r, out, strict=False))
    assert all(a[1] >= b[1] - 1e-12 for a, b in itertools.pairwise(pairs))


def test_equal_entropies_leave_the_size_of_the_update() -> None:
    found = modulated([[0.3, 0.3]], [2.0], bonus=0.0, centre=False)
    torch.testing.assert_close(found, torch.tensor([[2.0, 2.0]], dtype=D))


def test_modulation_gives_nothing_outside_steps_and_to_a_batch_without_any() -> None:
    step = torch.tensor([[0, -1, 0], [-1, -1, -1]])
    mask = torch.tensor([[True, True, True], [True, True, True]])
    out, _ = entropy_modulation(torch.ones(2, 3), -torch.rand(2, 3), step, mask, bonus=0.0, centre=False)
    assert out.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert not entropy_modulation(torch.ones(2, 3), torch.zeros(2, 3), step - 9, mask)[0].any()


@given(st.lists(NUMBERS, min_size=2, max_size=6))
def test_the_expected_squared_gradient_by_the_logits_is_one_minus_the_collision_probability(x: list[float]) -> None:
    # The identity behind the method: E ||d log p(a) / dz||^2 = 1 - sum p^2, as d log p(a) / dz = e_a - p.
    p = torch.tensor(x, dtype=D).softmax(0)
    squares = ((torch.eye(len(p), dtype=D) - p) ** 2).sum(1)
    assert float((p * squares).sum()) == pytest.approx(float(1 - (p**2).sum()), abs=1e-6)


# Merged steps


def merged(says: list[list[int]], advantage: list[float], groups: list[int] | None = None, **knobs: Any) -> Tensor:
    """One token per step; -1 stands for a step that a row does not have."""
    tokens = torch.tensor(says)
    step = torch.where(tokens >= 0, torch.arange(tokens.shape[1]).expand(tokens.shape), -1)
    given_ = torch.tensor(advantage, dtype=D)[:, None].expand(tokens.shape)
    group = torch.tensor(groups or [0] * len(says))
    return merge_shared_steps(given_, tokens.clamp(min=0), step, group, step >= 0, **knobs)[0]


def test_the_catalogs_graph() -> None:
    # Step 7 is shared by all (mean of 1, 1, -1, -1), then 8 by both good rows, 9 by the row 2 alone, 5 by row 3 alone.
    found = merged([[7, 8], [7, 8], [7, 9], [7, 5]], [1.0, 1.0, -1.0, -1.0])
    assert found.tolist() == [[0.0, 1.0], [0.0, 1.0], [0.0, -1.0], [0.0, -1.0]]


def test_history_says_how_much_of_the_past_makes_a_step_the_same() -> None:
    says = [[1, 3, 4], [2, 3, 4]]
    assert merged(says, [1.0, -1.0]).tolist() == [[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]
    assert merged(says, [1.0, -1.0], history=1).tolist() == [[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]]
    assert merged(says, [1.0, -1.0], history=0).tolist() == [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]


def test_a_row_that_takes_an_edge_twice_counts_once_or_each_time() -> None:
    # Row 0 takes step 5 twice, row 1 once: (1 + -2) / 2, or (1 + 1 - 2) / 3.
    says = [[5, 5], [5, -1]]
    assert merged(says, [1.0, -2.0], history=0)[0].tolist() == [-0.5, -0.5]
    assert merged(says, [1.0, -2.0], history=0, visits="each")[0].tolist() == pytest.approx([0.0, 0.0])


SAID = st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 2), max_size=4), NUMBERS), min_size=1, max_size=7)


@given(SAID, st.integers(0, 4), st.sampled_from(["once", "each"]), st.randoms(use_true_random=False))
def test_merging_equals_a_dictionary_of_edges_in_any_order_of_rows(
    rows: list[tuple[int, list[int], float]], history: int, visits: str, rng: Any
) -> None:
    edges: dict[Any, list[tuple[int, float]]] = {}

    def edge(g: int, said: list[int], s: int) -> Any:
        return g, min(s, history), tuple(said[max(0, s - history) : s + 1])

    for i, (g, said, a) in enumerate(rows):
        for s in range(len(said)):
            edges.setdefault(edge(g, said, s), []).append((i, a))
    order = list(range(len(rows)))
    rng.shuffle(order)
    says = [[*rows[i][1], *[-1] * (4 - len(rows[i][1]))] for i in order]
    found = merged(says, [rows[i][2] for i in order], [rows[i][0] for i in order], history=history, visits=visits)
    for out, i in zip(found.tolist(), order, strict=True):
        g, said, _ = rows[i]
        for s in range(4):
            if s >= len(said):
                assert out[s] == 0.0
                continue
            takers = edges[edge(g, said, s)]
            counted = list(dict(takers).values()) if visits == "once" else [a for _, a in takers]
            assert out[s] == pytest.approx(statistics.fmean(counted), abs=1e-12)


def test_without_shared_steps_nothing_changes_and_equal_rows_get_their_mean() -> None:
    assert merged([[1, 2], [3, 4]], [0.3, -0.7]).tolist() == [[0.3, 0.3], [-0.7, -0.7]]
    assert not merged([[1, 2], [1, 2]], [1.0, -1.0]).any()


def test_tokens_of_a_step_are_compared_in_their_order() -> None:
    tokens, step = torch.tensor([[1, 2], [2, 1], [1, 2]]), torch.zeros(3, 2, dtype=torch.long)
    given_ = torch.tensor([1.0, 5.0, -1.0])[:, None].expand(3, 2)
    out, logs = merge_shared_steps(given_, tokens, step, torch.zeros(3, dtype=torch.long), step >= 0)
    assert out[:, 0].tolist() == [0.0, 5.0, 0.0]
    assert float(logs["truegain/shared_steps"]) == pytest.approx(2 / 3)


# Shrinkage to a prior


def shrunk(rewards: list[float], prior: float, **knobs: Any) -> float:
    """The baseline that the fused advantage stands above."""
    reward, group = torch.tensor(rewards, dtype=D), torch.zeros(len(rewards), dtype=torch.long)
    mask = torch.ones(len(rewards), 2, dtype=torch.bool)
    centred = group_normalise(reward, group, mask, std="none")
    out, _ = shrink_to_prior(centred, reward, torch.full((len(rewards), 2), prior, dtype=D), group, mask, **knobs)
    baseline = reward[:, None] - out
    assert float(baseline.max() - baseline.min()) < 1e-9
    return float(baseline[0, 0])


def test_the_catalogs_baselines() -> None:
    # v = 0.5, k = 4: D2 = 0.9^2 - 0.25 = 0.56, w = 0.56 / 0.81 = 0.6914, b = 0.6914 * 0.5 - 0.3086 * 0.4 = 0.2222.
    assert shrunk([1, 1, -1, 1], -0.4) == pytest.approx(0.2222, abs=1e-4)
    assert shrunk([1, 1, -1, 1], 0.3) == pytest.approx(0.3)


@given(st.lists(st.sampled_from([-1.0, 1.0]), min_size=2, max_size=16), st.floats(-1, 1))
def test_the_baseline_is_the_formulas_and_lies_between_mean_and_prior(rewards: list[float], prior: float) -> None:
    k, v = len(rewards), statistics.fmean(rewards)
    bias = max(0.0, (v - prior) ** 2 - 1 / k)
    w = bias / (bias + 1 / k)
    found = shrunk(rewards, prior)
    assert found == pytest.approx(w * v + (1 - w) * prior, abs=1e-9)
    assert min(v, prior) - 1e-9 <= found <= max(v, prior) + 1e-9
    if (v - prior) ** 2 <= 1 / k:
        assert found == pytest.approx(prior, abs=1e-9)
    # The more rows say the same, the less the prior counts.
    assert abs(shrunk(rewards * 2, prior) - v) <= abs(found - v) + 1e-9


def test_no_prior_and_no_noise_leave_the_mean_of_the_group() -> None:
    assert shrunk([1, 1, -1, 1], math.nan) == 0.5
    assert shrunk([1, 1, -1, 1], -0.4, variance=1e-12) == pytest.approx(0.5)


def test_the_prior_is_read_at_the_first_token_of_the_policy() -> None:
    mask = torch.tensor([[False, True, True]])
    prior = torch.tensor([[9.0, 0.25, 7.0]])
    out, _ = shrink_to_prior(torch.zeros(1, 3), torch.tensor([1.0]), prior, torch.tensor([0]), mask)
    torch.testing.assert_close(out, torch.tensor([[0.0, 0.75, 0.75]]))


@pytest.mark.parametrize(
    ("component", "knobs"),
    [
        (attenuate_by_length, {"factor": -1.0}),
        (attenuate_by_length, {"limit": 0.0}),
        (entropy_modulation, {"sharpness": -0.1}),
        (merge_shared_steps, {"history": -1}),
        (shrink_to_prior, {"variance": 0.0}),
    ],
)
def test_knobs_out_of_bounds_are_refused_by_name(component: Any, knobs: dict[str, Any]) -> None:
    one, ids, mask = torch.ones(1, 1), torch.zeros(1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    given_ = {
        "attenuate_by_length": {"correct": one[0], "group": ids, "max_tokens": 4},
        "entropy_modulation": {"old_logp": one, "step": ids[:, None]},
        "merge_shared_steps": {"tokens": ids[:, None], "step": ids[:, None], "group": ids},
        "shrink_to_prior": {"reward": one[0], "prior_value": one, "group": ids},
    }[component.__name__]
    with pytest.raises(SettingError, match=f"{component.__name__}: .*{next(iter(knobs))}="):
        component(advantage=one, mask=mask, **given_, **knobs)
