"""Turns one after another, and the ratio carried between them: worked example, slow oracle, properties, a run."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truegain.claims.updates import loss_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.errors import SettingError
from truegain.core.settings import loop_with
from truegain.methods.credit import group_normalise
from truegain.methods.objective import carried_ratio, turns_in_order
from truegain.policy.policy import Policy
from truegain.recipes.gspo import gspo
from truegain.recipes.seeupo import seeupo
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

NAN = float("nan")
SHIFTS = st.lists(st.one_of(st.floats(-2, 2), st.just(NAN)), max_size=5)
FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": 3}


def carried(*shift: float, **knobs: float) -> float:
    rows = torch.tensor([shift], dtype=torch.float64).reshape(1, len(shift))
    return float(carried_ratio(torch.ones(1, 1, dtype=torch.bool), rows, **knobs)[0])


def test_the_carried_ratio_and_the_advantage_are_those_of_the_worked_example() -> None:
    # R = (1, 0, 0, 1): centred +-0.5, sample deviation sqrt(4 * 0.25 / 3) = 0.57735, so A = +-0.86603.
    # exp(0.3) = 1.35 -> 1.2; exp(-0.1) = 0.904837; exp(-0.5) = 0.61 -> 0.8; exp(0.05) = 1.051271.
    mask, group = torch.ones(4, 1, dtype=torch.bool), torch.zeros(4, dtype=torch.long)
    advantage = group_normalise(torch.tensor([1.0, 0.0, 0.0, 1.0]), group, mask, std="centred", bound=3.0)
    rho, logs = carried_ratio(mask, torch.tensor([[0.3], [-0.1], [-0.5], [0.05]]))
    torch.testing.assert_close(advantage.flatten(), torch.tensor([0.8660, -0.8660, -0.8660, 0.8660]), atol=1e-4, rtol=0)
    torch.testing.assert_close(rho.flatten(), torch.tensor([1.2, 0.904837, 0.8, 1.051271]))
    wanted = torch.tensor([1.0392, -0.7836, -0.6928, 0.9104])
    torch.testing.assert_close((advantage * rho).flatten(), wanted, atol=1e-4, rtol=0)
    assert torch.equal(logs["truegain/carried_ratio"], rho[:, 0])


def test_the_bound_acts_after_every_factor() -> None:
    # 1.2 * 1.2 -> 1.2, then * 0.8 = 0.96; the product bounded at the end would be 1.152.
    assert carried(5.0, 5.0, -5.0) == pytest.approx(0.96)


@settings(max_examples=20)
@given(SHIFTS, st.floats(0.1, 1), st.floats(1, 3))
def test_the_carried_ratio_equals_the_written_out_recursion_and_stays_within_its_bounds(
    shift: list[float], low: float, high: float
) -> None:
    rho = 1.0
    for moved in shift:
        if not math.isnan(moved):
            rho = min(max(rho * min(max(math.exp(moved), low), high), low), high)
    found = carried(*shift, low=low, high=high)
    assert found == pytest.approx(rho, rel=1e-9)
    assert low - 1e-9 <= found <= high + 1e-9


def test_parts_that_a_row_had_no_token_in_leave_the_ratio_at_one() -> None:
    assert carried(NAN, NAN) == 1.0 and carried() == 1.0
    assert carried(0.1, NAN) == carried(NAN, 0.1) == carried(0.1)
    assert not carried_ratio(torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 1))[0].any()
    with pytest.raises(SettingError, match="0 < low <= 1 <= high"):
        carried(0.1, low=1.1)


# The plan


TURN = torch.tensor([[0, 0, 1, 2], [0, -1, -1, -1], [0, 1, 2, 2]])
MASK = torch.tensor([[True, True, False, True], [True, False, False, False], [True, False, True, True]])


def numbers(parts: Tensor, turn: Tensor) -> list[int]:
    return [int(turn[part].unique()) for part in parts]


def test_a_plan_goes_through_the_turns_of_the_policy_in_the_order_asked_for() -> None:
    # Turn 1 is a tool's: it has no token of the policy and makes no part.
    parts = turns_in_order(TURN, MASK, step_index=0)
    assert numbers(parts, TURN) == [2, 0]
    assert torch.equal(parts.any(dim=0), MASK) and int(parts.sum()) == int(MASK.sum())
    assert numbers(turns_in_order(TURN, MASK, order="forward", step_index=0), TURN) == [0, 2]
    with pytest.raises(SettingError, match="reverse, forward or random"):
        inspect.unwrap(turns_in_order)(TURN, MASK, order="back", step_index=0)  # pyright: ignore[reportArgumentType]
    assert turns_in_order(TURN, torch.zeros_like(MASK), step_index=0).shape == (0, 3, 4)


def test_a_random_order_is_the_step_s_own_and_changes_from_step_to_step() -> None:
    turn, whole = torch.arange(6)[None], torch.ones(1, 6, dtype=torch.bool)
    orders = [tuple(numbers(turns_in_order(turn, whole, order="random", step_index=n), turn)) for n in range(8)]
    again = [tuple(numbers(turns_in_order(turn, whole, order="random", step_index=n), turn)) for n in range(8)]
    assert orders == again and len(set(orders)) > 1
    assert all(sorted(order) == list(range(6)) for order in orders)


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_with_one_turn_the_loss_is_gspo_s_with_rewards_over_the_deviation_of_the_batch(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    old = -torch.rand(6, 3, generator=rng)
    mask = torch.arange(3) < torch.tensor([3, 2, 1, 3, 1, 2])[:, None]
    columns = {"mask": mask, "group": torch.arange(6) // 3, "reward": torch.rand(6, generator=rng), "old_logp": old}
    batch = Batch(**columns, turn=torch.where(mask, 0, -1), shift=torch.full((6, 1), NAN))
    logp = old + 0.3 * torch.randn(6, 3, generator=rng)
    losses = []
    for form in (seeupo(beta=0.0), seeupo(beta=0.0, order="forward"), gspo(clip_low=0.2, clip_high=0.2)):
        credit = seeupo().terms[0].credit
        form = replace(form, terms=(replace(form.terms[0], credit=credit),))
        advantages, _ = arithmetic.credit_stage(form, batch, FACTS)
        step = arithmetic.weigh(form, batch, advantages, mask, FACTS, {})
        losses.append(float(loss_on(form, step, logp)))
    assert losses[0] == losses[1] == pytest.approx(losses[2], abs=1e-6)


def test_rows_without_a_turn_take_no_part_in_its_step() -> None:
    form = seeupo(beta=0.0)
    batch = Batch(mask=MASK, group=torch.zeros(3, dtype=torch.long), turn=TURN, old_logp=torch.zeros(3, 4))
    batch = batch.add(reward=torch.tensor([1.0, 0.0, 0.5]), shift=torch.full((3, 2), NAN))
    advantages, _ = arithmetic.credit_stage(form, batch, FACTS)
    (last, _), _ = arithmetic.plan_stage(form, batch, advantages, FACTS)
    assert last.rows.tolist() == [0, 2]
    # Each of the two rows weighs 1/2, over its own tokens of the turn.
    assert last.weights[0].tolist() == [[0.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.25, 0.25]]


def test_two_steps_with_tools_are_finite_and_carry_a_ratio(tmp_path: Path) -> None:
    form = loop_with(seeupo(), steps=2, prompts=4, samples=4, eval_every=0, save_every=0, lr=1e-3, max_tokens=40)
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(form, Policy.load("tiny"), make("calculator,style=trace"), held), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2 and all(math.isfinite(line["loss"]) for line in steps)
    assert all(0.8 <= line["truegain/carried_ratio"] <= 1.2 for line in steps)
    assert any(line["truegain/carried_ratio"] != 1.0 for line in steps)
