"""Length components: the soft penalty near the token limit, and rows that ran into it."""

from __future__ import annotations

import inspect
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.arithmetic import credit_stage, loss_of, plan_stage, reward_stage
from truegain.core.batch import Batch
from truegain.core.errors import SettingError
from truegain.core.forms import Term, Train
from truegain.methods import credit, objective
from truegain.methods.length import drop_truncated, overlong_penalty
from truegain.methods.reward import outcome


def penalty(lengths: list[int], limit: int, **knobs: float) -> list[float]:
    mask = torch.arange(max([*lengths, 1]))[None, :] < torch.tensor(lengths)[:, None]
    return overlong_penalty(mask, max_tokens=limit, **knobs).tolist()


def test_the_papers_lengths() -> None:
    # Lmax 20480, Lb 4096: nothing up to 16384, half of it at 18432.
    assert penalty([15000, 16384, 18432, 20480], 20480) == pytest.approx([0.0, 0.0, -0.5, -1.0], abs=1e-6)


def test_the_factor_scales_and_the_limit_is_the_floor() -> None:
    assert penalty([6, 8, 10, 12], 10, buffer=0.4, factor=3.0) == pytest.approx([0.0, -1.5, -3.0, -3.0], abs=1e-6)


@given(st.integers(1, 60), st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 2.0]))
def test_it_falls_without_a_jump_from_0_to_minus_the_factor(limit: int, buffer: float, factor: float) -> None:
    found = penalty(list(range(limit + 1)), limit, buffer=buffer, factor=factor)
    steps = [a - b for a, b in pairwise(found)]
    assert found[0] == 0.0 and found[-1] == pytest.approx(-factor, abs=1e-5)
    assert all(-1e-6 <= step <= factor / (buffer * limit) + 1e-5 for step in steps)
    free = int((1 - buffer) * limit)
    assert found[free] == pytest.approx(0.0, abs=1e-5)


def test_a_tools_tokens_count_as_they_do_against_the_limit_and_padding_does_not() -> None:
    mask = torch.tensor([[True, False, False, True, False], [True, True, False, False, False], [False] * 5])
    assert overlong_penalty(mask, buffer=1.0, max_tokens=4).tolist() == [-1.0, -0.5, 0.0]
    wide = torch.cat([mask, torch.zeros(3, 7).bool()], dim=1)
    assert torch.equal(overlong_penalty(wide, max_tokens=4), overlong_penalty(mask, max_tokens=4))
    assert overlong_penalty(torch.zeros(2, 0).bool(), max_tokens=4).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("buffer", [0.0, -0.1, 1.5])
def test_a_buffer_that_is_no_share_is_refused(buffer: float) -> None:
    with pytest.raises(SettingError, match="share of the token limit"):
        inspect.unwrap(overlong_penalty)(torch.ones(1, 1).bool(), buffer=buffer, max_tokens=4)


def test_a_truncated_row_stays_in_the_baseline_and_leaves_the_loss() -> None:
    mask = torch.ones(4, 2).bool()
    batch = Batch(
        mask=mask, group=torch.zeros(4, dtype=torch.long), correct=torch.tensor([1.0, 0.0, 0.0, 1.0]),
        truncated=torch.tensor([False, True, False, False]), old_logp=torch.zeros(4, 2),
    )  # fmt: skip
    form = Train(
        reward=outcome,
        terms=(
            Term(
                credit=partial(credit.group_normalise, std="none"),
                surrogate=objective.ppo_clip,
                weight=(objective.token_mean, drop_truncated),
            ),
        ),
    )
    batch, _ = reward_stage(form, batch, {})
    advantages, _ = credit_stage(form, batch, {})
    (step,), _ = plan_stage(form, batch, advantages, {})
    assert advantages[0] is not None and advantages[0][:, 0].tolist() == [0.5, -0.5, -0.5, 0.5]
    logp = torch.zeros(4, 2, requires_grad=True)
    loss_of(form, step, torch.arange(4), {"logp": logp}, {})[0].backward()
    assert logp.grad is not None
    # Each token weighs 1 / 8 as before; only the truncated row's two are gone.
    assert logp.grad[:, 0].tolist() == pytest.approx([-0.0625, 0.0, 0.0625, -0.0625])
    assert step.live["policy"].tolist() == [True, False, True, True]


def test_a_batch_of_truncated_rows_only_has_no_weight() -> None:
    assert not drop_truncated(torch.ones(3, 2).bool(), torch.ones(3).bool()).any()
