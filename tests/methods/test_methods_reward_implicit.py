"""Rewards of a language model's log-ratio: goldens, an oracle, what must telescope, and where they plug in."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.component import spec_of
from truegain.core.errors import SettingError
from truegain.methods.reward import implicit_outcome, implicit_steps, weakest_step

LOGP = torch.tensor([[-1.0, -0.5, -0.2, -0.8, -0.1]])
REF = torch.tensor([[-1.2, -0.9, -0.1, -0.3, -0.4]])
STEP = torch.tensor([[0, 0, 1, 1, 1]])
# A token: its log-ratio, whether it ends a step, whether the policy chose it, whether it lies in a step.
TOKENS = st.lists(st.tuples(st.floats(-4, 4), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=12)
Token = tuple[float, bool, bool, bool]


def columns(rows: list[Token]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs, references, step ids and mask; padding holds rubbish, tokens outside a step have id -1."""
    ids, number = [], 0
    for _, ends, _, inside in rows:
        ids.append(number if inside else -1)
        number += int(ends and inside)
    mask = torch.tensor([[chosen for _, _, chosen, _ in rows] + [False]])
    logp = torch.tensor([[ratio for ratio, _, _, _ in rows] + [float("nan")]], dtype=torch.float64)
    return logp, torch.zeros_like(logp), torch.tensor([[*ids, -1]]), mask


def test_the_worked_example_of_the_catalog() -> None:
    mask = STEP >= 0
    # 0.05 * (0.2 + 0.4) = 0.03; 0.05 * (-0.1 - 0.5 + 0.3) = -0.015
    found = implicit_steps(LOGP, REF, STEP, mask)["step_reward"]
    assert found[0].tolist() == pytest.approx([0.03, -0.015], abs=1e-6)
    assert implicit_outcome(LOGP, REF, mask, beta=0.05).tolist() == pytest.approx([0.015], abs=1e-6)
    assert weakest_step(found, STEP, mask).tolist() == pytest.approx([-0.015], abs=1e-6)
    # running sums 0.03 and 0.015
    assert weakest_step(found, STEP, mask, running=True).tolist() == pytest.approx([0.015], abs=1e-6)


@given(TOKENS, st.floats(0.001, 2.0))
def test_step_rewards_are_differences_of_q_at_the_ends_of_steps(rows: list[Token], beta: float) -> None:
    logp, ref, step, mask = columns(rows)
    found = implicit_steps(logp, ref, step, mask, beta=beta)["step_reward"][0].tolist()
    q = list(accumulate(beta * ratio * chosen for ratio, _, chosen, _ in rows))
    ids = step[0, :-1].tolist()
    ends = [max(t for t, one in enumerate(ids) if one == k) for k in range(max(ids) + 1)]
    ends = [*ends[:-1], len(rows) - 1] if ends else []  # what follows the last step counts to it
    wanted = [q[end] - (q[ends[k - 1]] if k else 0.0) for k, end in enumerate(ends)]
    assert found == pytest.approx(wanted, abs=1e-9)
    if ends:
        assert sum(found) == pytest.approx(float(implicit_outcome(logp, ref, mask, beta=beta)), abs=1e-9)


@given(TOKENS)
def test_an_untrained_model_rewards_nothing_and_beta_changes_no_order(rows: list[Token]) -> None:
    logp, ref, step, mask = columns(rows)
    assert implicit_steps(logp, logp, step, mask)["step_reward"].nan_to_num().abs().sum() == 0
    small, large = (implicit_steps(logp, ref, step, mask, beta=b)["step_reward"] for b in (0.1, 0.2))
    assert torch.allclose(2 * small, large, equal_nan=True)


@given(TOKENS)
def test_the_weakest_step_is_the_least_that_is_there(rows: list[Token]) -> None:
    logp, ref, step, mask = columns(rows)
    given_ = implicit_steps(logp, ref, step, mask)["step_reward"]
    values = given_[0].tolist()
    there = sorted({i for i, m in zip(step[0].tolist(), mask[0].tolist(), strict=True) if m and i >= 0})
    running = list(accumulate(v if i in there else 0.0 for i, v in enumerate(values)))
    for cumulative, of in ((False, values), (True, running)):
        wanted = min((of[i] for i in there), default=0.0)
        assert float(weakest_step(given_, step, mask, running=cumulative)) == pytest.approx(wanted, abs=1e-9)


def test_rows_of_different_length_have_nan_past_their_last_step() -> None:
    step = torch.tensor([[0, 1, 2], [0, 0, -1], [-1, -1, -1]])
    logp = torch.ones(3, 3)
    found = implicit_steps(logp, logp * 0, step, step >= 0, beta=1.0)["step_reward"]
    assert found.isnan().tolist() == [[False] * 3, [False, True, True], [True] * 3]
    assert weakest_step(found, step, step >= 0).tolist() == [1.0, 2.0, 0.0]


def test_a_batch_without_tokens_or_steps_has_no_step_rewards() -> None:
    for width in (0, 2):
        nothing, none = torch.zeros(2, width), torch.full((2, width), -1)
        found = implicit_steps(nothing, nothing, none, none >= 0)["step_reward"]
        assert found.shape == (2, 0)
        assert weakest_step(found, none, none >= 0).tolist() == [0.0, 0.0]
        assert implicit_outcome(nothing, nothing, none >= 0).tolist() == [0.0, 0.0]


def test_a_nan_of_the_model_spoils_its_own_step_and_row() -> None:
    logp = torch.tensor([[1.0, math.nan], [1.0, 1.0]])
    step = torch.tensor([[0, 1], [0, 1]])
    found = implicit_steps(logp, logp * 0, step, step >= 0)["step_reward"]
    assert found.isnan().tolist() == [[False, True], [False, False]]
    assert implicit_outcome(logp, torch.zeros(2, 2), step >= 0).isnan().tolist() == [True, False]
    assert weakest_step(found, step, step >= 0).isnan().tolist() == [True, False]


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(SettingError, match="beta"):
        implicit_steps(LOGP, REF, STEP, STEP >= 0, beta=beta)


def test_it_fills_the_column_that_process_reward_systems_read() -> None:
    assert spec_of(implicit_steps).fills == ("step_reward",)
