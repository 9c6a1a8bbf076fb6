"""What the recipes of group weights and step rewards come to: their credit and gradients, stage by stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.arithmetic import credit_stage, loss_of, plan_stage, reward_stage, select_stage
from truegain.core.batch import Batch
from truegain.core.forms import Role, Train, members
from truegain.core.system import build
from truegain.methods.credit import leave_one_out, min_form

FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": 8}
LENGTHS, CORRECT, GROUP = (6, 2, 3, 5, 4, 2, 3, 6), (1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0), (0, 0, 0, 0, 1, 1, 1, 1)


def form_of(name: str, **knobs: Any) -> Train:
    (form,) = build(name, **knobs)
    assert isinstance(form, Train)
    return form


def batch(**columns: Tensor) -> Batch:
    rng = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
    old = -torch.rand(8, 6, generator=rng, dtype=torch.float64)
    given: dict[str, Tensor] = {
        "tokens": torch.randint(1, 9, (8, 6), generator=rng) * mask,
        "mask": mask,
        "group": torch.tensor(GROUP),
        "key": torch.arange(8),
        "step": torch.where(mask, torch.arange(6) // 2, -1),
        "step_reward": torch.rand(8, 3, generator=rng, dtype=torch.float64) * 2 - 1,
        "correct": torch.tensor(CORRECT, dtype=torch.float64),
        "old_logp": old,
        "ref_logp": old - 0.1,
        "prior_value": torch.full((8, 6), 0.9, dtype=torch.float64),
    }
    return Batch(**{**given, **columns})


def credit_of(form: Train, rows: Batch) -> Tensor:
    rows, _ = reward_stage(form, rows, FACTS)
    (advantage,), _ = credit_stage(form, rows, FACTS)
    assert advantage is not None
    return advantage


def trained(form: Train, rows: Batch) -> tuple[list[int], Tensor]:
    """The kept rows, and the gradient by their log-probs."""
    rows, _ = reward_stage(form, rows, FACTS)
    rows, index, _ = select_stage(form, rows, FACTS)
    advantages, _ = credit_stage(form, rows, FACTS)
    (step,), _ = plan_stage(form, rows, advantages, FACTS)
    logp = rows["old_logp"].clone().requires_grad_()
    loss_of(form, step, torch.arange(rows.rows), {"logp": logp}, FACTS)[0].backward()
    assert logp.grad is not None
    return index.tolist(), logp.grad


def test_adora_is_grpo_but_for_groups_in_which_thinking_longer_did_not_pay() -> None:
    grpo = credit_of(form_of("grpo"), batch())
    # Group 0: longest right 6 > (2 + 3) / 2; group 1 likewise, until its right rows are cut short.
    assert torch.equal(credit_of(form_of("adora"), batch()), grpo)
    assert torch.equal(credit_of(form_of("adora", factor=1.0), batch()), grpo)
    mask = batch()["mask"].clone()
    mask[[4, 7], 1:] = False
    found, plain = (credit_of(form_of(name), batch(mask=mask)) for name in ("adora", "grpo"))
    torch.testing.assert_close(found, plain * torch.tensor([1.0] * 4 + [0.1] * 4)[:, None])


def test_empg_without_its_knobs_is_grpo_less_the_mean_over_steps() -> None:
    rows = batch()
    grpo = credit_of(form_of("grpo"), rows)
    per_row = (torch.tensor(LENGTHS) + 1) // 2
    mean = float((grpo[:, 0] * per_row).sum() / per_row.sum())
    found = credit_of(form_of("empg", sharpness=0.0, bonus=0.0), rows)
    torch.testing.assert_close(found, (grpo - mean) * rows["mask"], rtol=0, atol=1e-6)


def test_pure_adds_min_form_and_the_verifiable_reward_and_spares_the_ends_of_lines() -> None:
    rows = batch()
    steps = min_form(rows["step_reward"], rows["step"], rows["group"], rows["mask"])
    wanted = steps + 0.5 * leave_one_out(rows["correct"], rows["group"], rows["mask"])
    for i, length in enumerate(LENGTHS):
        for t in range(1, length - 1, 2):
            wanted[i, t] = 0.0
    torch.testing.assert_close(credit_of(form_of("pure", beta=0.0, verifiable=0.5), rows), wanted, rtol=0, atol=1e-6)
    penalised = credit_of(form_of("pure", beta=0.1, verifiable=0.5), rows)
    # old - ref is 0.1 at every token: at the first one of row 0 all six are still to come.
    assert float(penalised[0, 0] - wanted[0, 0]) == pytest.approx(-0.1 * 0.6, abs=1e-6)


def test_prof_trains_on_balanced_rows_and_no_process_reward_reaches_the_gradient() -> None:
    rows = batch()
    index, gradient = trained(form_of("prof"), rows)
    assert len(index) == 8
    index, gradient = trained(form_of("prof", keep=2), rows)
    assert sorted(CORRECT[i] for i in index) == [0.0, 0.0, 1.0, 1.0]
    # Any other process rewards that choose the same rows give the same gradient.
    again = trained(form_of("prof", keep=2), batch(step_reward=rows["step_reward"] * 0.1 + 3))
    assert again[0] == index and torch.equal(again[1], gradient)


def test_v0_5_stands_above_a_baseline_between_mean_and_prior_in_groups_without_a_signal_too() -> None:
    # Rewards are 1 and -1; v = 0, V = 0.9, k = 4: D2 = 0.81 - 0.25 = 0.56, w = 0.56 / 0.81, b = 0.25 / 0.81 * 0.9.
    found = credit_of(form_of("v0.5"), batch())
    assert float(found[0, 0]) == pytest.approx(1 - 0.25 / 0.81 * 0.9)
    # All wrong: v = -1, D2 = 3.61 - 0.25, b = -1 + 0.25 / 3.61 * 1.9: the group still has a gradient.
    wrong = batch(correct=torch.zeros(8, dtype=torch.float64))
    assert float(credit_of(form_of("v0.5"), wrong)[0, 0]) == pytest.approx(-0.25 / 3.61 * 1.9)
    assert not credit_of(form_of("grpo"), wrong).any()


def test_salt_is_grpo_where_nothing_is_shared_and_neutral_where_all_is() -> None:
    rows = batch(tokens=torch.arange(1, 49).reshape(8, 6))
    torch.testing.assert_close(credit_of(form_of("salt"), rows), credit_of(form_of("grpo"), rows))
    same = batch(tokens=torch.ones(8, 6, dtype=torch.long), mask=torch.ones(8, 6, dtype=torch.bool))
    same = Batch(**{**same, "step": torch.arange(6).expand(8, 6) // 2})
    assert float(credit_of(form_of("salt"), same).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["pure", "prof"])
def test_a_process_reward_model_takes_the_place_of_the_judge(name: str) -> None:
    form = form_of(name, model="some/folder")
    assert not members(form.probe)
    assert form.roles["steps"] == Role(source="some/folder", fills="step_reward", head=True)
