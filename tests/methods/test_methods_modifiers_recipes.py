"""What the recipes built of row and group weights come to: credit and gradients against the formulas."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.component import Member, call
from truegain.core.errors import SettingError
from truegain.core.forms import Train, members
from truegain.core.system import build
from truegain.core.types import Problem, Rollout
from truegain.methods import credit

FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": 8}


def train_form(name: str, **knobs: object) -> Train:
    (form,) = build(name, **knobs)
    assert isinstance(form, Train)
    return form


def batch_of(correct: Sequence[float], group: Sequence[int], old: Tensor | None = None, **more: Tensor) -> Batch:
    """One-token rows, or as many tokens as ``old`` has."""
    logp = torch.zeros(len(group), 1, dtype=torch.float64) if old is None else old
    more.setdefault("engine_logp", logp)
    columns = {"mask": torch.ones_like(logp, dtype=torch.bool), "truncated": torch.zeros(len(group)).bool(), **more}
    return Batch(
        group=torch.tensor(group), correct=torch.tensor(correct, dtype=torch.float64), old_logp=logp, **columns
    )


def credit_of(form: Train, batch: Batch) -> list[float]:
    """Each row's advantage at its first token."""
    batch, _ = arithmetic.reward_stage(form, batch, FACTS)
    advantages, _ = arithmetic.credit_stage(form, batch, FACTS)
    assert advantages[0] is not None
    return advantages[0][:, 0].tolist()


def gradient_of(form: Train, batch: Batch) -> Tensor:
    """By the log-probs at the old policy, all kept rows in one step; 0 at rows that selection drops."""
    batch, _ = arithmetic.reward_stage(form, batch, FACTS)
    kept, index, _ = arithmetic.select_stage(form, batch, FACTS)
    out = torch.zeros_like(batch["old_logp"])
    if not len(index):
        return out
    advantages, _ = arithmetic.credit_stage(form, kept, FACTS)
    (step,), _ = arithmetic.plan_stage(replace(form, plan=()), kept, advantages, FACTS)
    logp = kept["old_logp"].clone().requires_grad_()
    arithmetic.loss_of(form, step, torch.arange(kept.rows), {"logp": logp}, FACTS)[0].backward()
    assert logp.grad is not None
    out[index] = logp.grad
    return out


# Lite PPO. Rewards 1110 and 1000: deviations (1/4, 1/4, 1/4, -3/4) and (3/4, -1/4, ...). Eight rewards, four of them 1:
# variance 8 * 0.25 / 7 = 2/7, deviation 0.534522; 0.25 / 0.534522 = 0.467707, 0.75 / 0.534522 = 1.403122.

EIGHT, PAIR = (1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0), (0, 0, 0, 0, 1, 1, 1, 1)


def test_lite_ppo_scales_all_groups_by_one_deviation_as_in_the_worked_example() -> None:
    low, high = 0.467707, 1.403122
    found = credit_of(train_form("lite-ppo"), batch_of(EIGHT, PAIR))
    assert found == pytest.approx([low, low, low, -high, high, -low, -low, -low], abs=1e-5)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=12, max_size=12).filter(lambda r: len(set(r)) > 1))
def test_lite_ppo_sums_to_0_in_every_group_with_one_factor_for_the_batch(rewards: list[float]) -> None:
    group = [0] * 3 + [1] * 4 + [2] * 5
    found = credit_of(train_form("lite-ppo"), batch_of(rewards, group))
    scale = statistics.stdev(rewards) + 1e-6
    for g in range(3):
        mine = [r for r, at in zip(rewards, group, strict=True) if at == g]
        wanted = [(r - statistics.fmean(mine)) / scale for r in mine]
        got = [a for a, at in zip(found, group, strict=True) if at == g]
        assert got == pytest.approx(wanted, abs=1e-9) and sum(got) == pytest.approx(0, abs=1e-9)


def test_the_corners_of_the_trick_matrix_are_the_named_methods() -> None:
    rows = batch_of(EIGHT, (0, 0, 0, 1, 1, 1, 1, 1))
    for knobs, other in (({"std": "group"}, "grpo"), ({"std": "none"}, "dr-grpo")):
        assert credit_of(train_form("lite-ppo", **knobs), rows) == credit_of(train_form(other), rows)
    # Mean and deviation of the batch: what REINFORCE++ whitens, on rows of one token each.
    whole = credit_of(train_form("lite-ppo", mean="batch", std="batch"), rows)
    assert whole == pytest.approx(credit_of(train_form("reinforce-pp", beta=0.0), rows), abs=1e-5)
    # Neither: the reward itself. Only the deviation: the reward over it, 0.534522.
    assert credit_of(train_form("lite-ppo", mean="none", std="none"), rows) == list(EIGHT)
    scaled = [r / 0.534522 for r in EIGHT]
    assert credit_of(train_form("lite-ppo", mean="none"), rows) == pytest.approx(scaled, abs=1e-5)


def test_every_cell_of_the_trick_matrix_runs_or_is_refused_in_a_line() -> None:
    rows, cells = batch_of(EIGHT, PAIR), 0
    axes = (("group", "batch", "none"), ("group", "batch", "none"), (0.2, 0.28), ("token", "sequence"), (True, False))
    for mean, std, high, loss, overlong in itertools.product(*axes):
        knobs = {"mean": mean, "std": std, "clip_high": high, "loss": loss, "overlong_filter": overlong}
        if (mean, std) == ("none", "group"):
            with pytest.raises(SettingError, match="mean='none' goes with"):
                train_form("lite-ppo", **knobs)
            continue
        assert gradient_of(train_form("lite-ppo", **knobs), rows).isfinite().all()
        cells += 1
    assert cells == 64
    with pytest.raises(SettingError, match="token or sequence"):
        train_form("lite-ppo", loss="row")


def test_easy_prompts_are_magnified_by_the_groups_deviation_and_more_so_by_the_batchs() -> None:
    # One failure in 8 among 20 groups, 1 in 40 rows of the batch 5 times: group deviation sqrt(1/8) = 0.353553, so
    # -0.875 / 0.353553 = -2.475. Batch deviation sqrt(0.025 * 0.975) = 0.156, so -5.59. The catalog expects less than
    # 1.5 there: only the advantage without a deviation, -0.875, is.
    rewards = [0.0 if i % 40 == 0 else 1.0 for i in range(160)]
    group = [i // 8 for i in range(160)]
    worst = {std: min(credit_of(train_form("lite-ppo", std=std), batch_of(rewards, group))) for std in ("group", "batch", "none")}  # fmt: skip  # noqa: E501
    batch_std = math.sqrt(160 * 0.025 * 0.975 / 159)
    assert worst == pytest.approx({"group": -2.474874, "batch": -0.875 / batch_std, "none": -0.875}, abs=1e-4)
    assert worst["batch"] < -5


# DLER. The same centred rewards over their own deviation: squares sum to 1.5, sqrt(1.5 / 7) = 0.462910;
# 0.75 / 0.462910 = 1.620185, 0.25 / 0.462910 = 0.540062.


def test_dler_scales_centred_rewards_by_their_deviation_as_in_the_worked_example() -> None:
    rewards = (1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0)
    low, high = 0.540062, 1.620185
    found = credit_of(train_form("dler"), batch_of(rewards, PAIR))
    assert found == pytest.approx([high, -low, -low, -low, low, low, low, -high], abs=1e-5)
    assert statistics.fmean(found) == pytest.approx(0, abs=1e-6) and statistics.stdev(found) == pytest.approx(
        1, abs=1e-5
    )
    # GRPO's deviation in the first group: sqrt(0.75 / 3) = 0.5.
    assert credit_of(train_form("grpo"), batch_of(rewards, PAIR))[:2] == pytest.approx([1.5, -0.5], abs=1e-5)


def test_dler_takes_a_truncated_right_answer_for_wrong() -> None:
    cut = torch.tensor([True, False, False, False])
    whole, _ = arithmetic.reward_stage(train_form("dler"), batch_of([1, 1, 0, 0], [0] * 4, truncated=cut), FACTS)
    assert whole["reward"].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_dlers_tighter_limit_acts_on_groups_that_half_of_the_samples_solve() -> None:
    # 8 tokens are the limit, 4 the tighter one; all rows have 5.
    old = torch.zeros(8, 5, dtype=torch.float64)
    rows, _ = arithmetic.reward_stage(train_form("dler", easy=0.5), batch_of(EIGHT, PAIR, old), FACTS)
    assert rows["reward"].tolist() == [0.0] * 4 + [1.0, 0.0, 0.0, 0.0]


def test_dler_draws_a_group_anew_when_all_its_right_answers_were_cut_off() -> None:
    form = train_form("dler")
    (sampling,) = members(form.resample)
    rollouts = [Rollout(Problem(name, name), (), (), (), "", "length", ()) for name in "aabb"]
    cut = torch.tensor([True, True, False, True])

    def rewards(rows: Sequence[Rollout], *, first: bool) -> list[float]:
        batch, _ = arithmetic.reward_stage(form, batch_of([1, 0, 1, 1], [0, 0, 1, 1], truncated=cut), FACTS)
        return (batch["reward_parts"][:, 0] if first else batch["reward"]).tolist()

    draw = SimpleNamespace(prompts=2, samples=2, round=0, rewards=rewards, fresh=lambda n: rollouts[:n])
    answer, _ = call(sampling, {"draw": draw, "rollouts": rollouts}, {})  # pyright: ignore[reportArgumentType]
    assert answer.drop == [0, 1] and len(answer.add) == 1


# Unlikeliness. r' = 0.8125, 0.875, 0, 1: mean 0.671875, deviations 0.140625, 0.203125, -0.671875, 0.328125, squares
# sum to 0.620117, over 3 its root is 0.454648: 0.309305, 0.446774, -1.477790, 0.721711.


def test_unlikeliness_credit_equals_the_worked_example() -> None:
    old = torch.tensor([[-0.2], [-0.5], [-0.9], [-1.5]], dtype=torch.float64)
    form = train_form("unlikeliness-reward")
    found = credit_of(form, batch_of([1, 1, 0, 1], [0] * 4, old))
    assert found == pytest.approx([0.3093, 0.4468, -1.4778, 0.7217], abs=1e-4)
    # All right: GRPO has nothing to say, here the least likely row gains.
    all_right = credit_of(form, batch_of([1, 1, 1, 1], [0] * 4, old))
    assert all_right == sorted(all_right) and all_right[0] < 0 < all_right[-1]
    assert credit_of(form, batch_of([0, 0, 0, 0], [0] * 4, old)) == [0.0] * 4
    # A prompt with one sample: its raw reward.
    assert credit_of(form, batch_of([1], [0], old[:1])) == pytest.approx([1.0], abs=1e-5)


def test_unlikeliness_without_its_discount_is_grpo() -> None:
    old = -torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = batch_of([1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], old)
    torch.testing.assert_close(
        gradient_of(train_form("unlikeliness-reward", beta_rank=0.0, beta=0.0), rows),
        gradient_of(train_form("grpo"), rows),
        rtol=0,
        atol=1e-12,
    )


# ACE and MHPO on GRPO's credit.


def test_ace_without_alpha_is_grpo_and_with_it_only_risen_errors_move() -> None:
    old = -torch.rand(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    risen = torch.tensor([1.0, 1.0, -1.0, 0.0, 9.0, 0.5], dtype=torch.float64)
    rows = batch_of([1, 0, 0, 1, 0, 1], [0, 0, 0, 1, 1, 1], old, ref_logp=old - risen[:, None] / 3)
    base = gradient_of(train_form("grpo"), rows)
    torch.testing.assert_close(gradient_of(train_form("ace", alpha=0.0), rows), base, rtol=0, atol=0)
    # Row 1 is wrong and rose by 1 nat: twice. Row 4 rose by 9, bounded at 5: six times.
    wanted = base * torch.tensor([1.0, 2.0, 1.0, 1.0, 6.0, 1.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(gradient_of(train_form("ace"), rows), wanted, rtol=1e-9, atol=1e-12)


def test_mhpo_at_the_old_policy_is_grpo_times_the_weight_at_ratio_1() -> None:
    old = -torch.rand(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = batch_of([1, 0, 0, 1], [0] * 4, old)
    base, still = gradient_of(train_form("grpo"), rows), math.exp(-(math.log(2) ** 1.5) - (math.log(2) / 0.8) ** 2)
    assert still == pytest.approx(0.2651, abs=5e-5)
    torch.testing.assert_close(gradient_of(train_form("mhpo"), rows), base * still, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient_of(train_form("mhpo", one_at_zero=True), rows), base, rtol=1e-9, atol=0)


# NSR. pi = (0.6, 0.3, 0.1), arm 0 sampled and wrong: ascent on the logits is -(e_0 - pi) = (-0.4, 0.3, 0.1).


def logit_ascent(form: Train, logits: Tensor, arms: Sequence[int], correct: Sequence[float]) -> Tensor:
    """Minus the gradient by the logits of one state."""
    leaf = logits.clone().requires_grad_()
    logp = leaf.log_softmax(0)[torch.tensor(arms), None]
    slope = gradient_of(form, batch_of(correct, [0] * len(arms), logp.detach()))
    (out,) = torch.autograd.grad((logp * -slope).sum(), leaf)
    return out


def test_negative_reinforcement_moves_the_logits_as_in_the_worked_example() -> None:
    logits = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()
    for form in (train_form("nsr-wreinforce"), train_form("nsr-wreinforce", positive=0.0)):
        found = logit_ascent(form, logits, [0], [0.0])
        torch.testing.assert_close(found, torch.tensor([-0.4, 0.3, 0.1], dtype=torch.float64), rtol=0, atol=1e-6)
    right = logit_ascent(train_form("nsr-wreinforce"), logits, [0], [1.0])
    torch.testing.assert_close(right, torch.tensor([0.04, -0.03, -0.01], dtype=torch.float64), rtol=0, atol=1e-6)


@given(st.integers(0, 999), st.sampled_from([{}, {"positive": 0.0}, {"negative": 0.0, "positive": 1.0}]))
def test_the_logits_gradient_sums_to_0_and_nsr_keeps_the_order_of_other_arms(
    seed: int, knobs: dict[str, float]
) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, generator=rng, dtype=torch.float64)
    arms = torch.randint(6, (5,), generator=rng).tolist()
    found = logit_ascent(train_form("nsr-wreinforce", **knobs), logits, arms, [float(a % 2) for a in arms])
    assert float(found.sum()) == pytest.approx(0, abs=1e-6)
    one = logit_ascent(train_form("nsr-wreinforce", positive=0.0), logits, [0], [0.0])[1:]
    assert torch.equal(one.argsort(), logits[1:].argsort())


def test_the_parts_train_on_the_rows_of_their_sign_and_both_ones_are_reinforce() -> None:
    old = -torch.rand(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = batch_of([1, 0, 0, 0], [0, 0, 1, 1], old)

    def slopes(**knobs: float) -> list[float]:
        return gradient_of(train_form("nsr-wreinforce", **knobs), rows)[:, 0].tolist()

    # 12 tokens; without the right row 9, alone 3.
    assert slopes() == pytest.approx([-0.1 / 12, 1 / 12, 1 / 12, 1 / 12], abs=1e-8)
    assert slopes(positive=0.0) == pytest.approx([0.0, 1 / 9, 1 / 9, 1 / 9], abs=1e-8)
    assert slopes(positive=1.0, negative=0.0) == pytest.approx([-1 / 3, 0.0, 0.0, 0.0], abs=1e-8)
    assert slopes(positive=1.0) == pytest.approx([-1 / 12, 1 / 12, 1 / 12, 1 / 12], abs=1e-8)


@pytest.mark.parametrize(("knobs", "correct"), [({"positive": 0.0}, 1.0), ({"positive": 1.0, "negative": 0.0}, 0.0)])
def test_a_batch_without_a_row_of_the_sign_gives_no_update(knobs: dict[str, float], correct: float) -> None:
    rows = batch_of([correct] * 4, [0, 0, 1, 1])
    assert not gradient_of(train_form("nsr-wreinforce", **knobs), rows).any()


@pytest.mark.parametrize("name", ["lite-ppo", "dler", "unlikeliness-reward", "mhpo", "ace", "nsr-wreinforce"])
def test_the_recipes_compose_with_another_systems_credit(name: str) -> None:
    form = train_form(name)
    (term,) = form.terms
    other: Member = partial(credit.leave_one_out)
    form = replace(form, terms=(replace(term, credit=(other, *members(term.credit)[1:])),))
    old = -torch.rand(4, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    rows = batch_of([1, 0, 0, 1], [0, 0, 1, 1], old, ref_logp=old - 0.1)
    found = gradient_of(form, rows)
    assert found.isfinite().all() and found.any()
