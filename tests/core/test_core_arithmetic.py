"""The stages from columns to the loss: what adds, what multiplies, what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from core_checks import own_registry, refused
from torch import Tensor

from truegain.core.arithmetic import (
    credit_stage,
    loss_of,
    merge,
    named_columns,
    needs_old_pass,
    plan_stage,
    reward_stage,
    select_stage,
    token_losses,
)
from truegain.core.batch import Batch
from truegain.core.component import component, spec_of
from truegain.core.errors import WiringError
from truegain.core.forms import Fit, Role, Term, Train
from truegain.methods import credit, objective, reward

FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": 3}


def constant(correct, *, level: float = 1.0):
    return torch.full_like(correct, level)


def capped(reward, *, at: float = 1.0):
    return reward.clamp(max=at)


def product(reward_parts):
    return reward_parts.prod(dim=1)


def right_only(correct):
    return correct


def in_group_zero(group):
    return (group == 0).float()


def raw(reward, mask):
    return reward[:, None] * torch.where(mask, 1.0, math.nan)


def doubled(advantage):
    return 2 * advantage


def halves(mask):
    first = torch.zeros_like(mask)
    first[: mask.shape[0] // 2] = True
    return torch.stack([first, ~first])


def turns_of(turn):
    return torch.stack([turn == 0, turn == 1])


def squared_error(value, target):
    return (value - target) ** 2


def wide(mask):
    return mask.float()[:, :1]


def flat_plan(mask):
    return mask


@pytest.fixture(autouse=True)
def _register() -> Iterator[None]:
    with own_registry():
        for kind, members in {
            "reward": (constant, capped, product),
            "select": (right_only, in_group_zero),
            "credit": (raw, doubled),
            "weight": (wide,),
            "plan": (halves, turns_of, flat_plan),
            "surrogate": (squared_error,),
        }.items():
            for member in members:
                component(kind, cite="truegain")(member)
        yield


def term(**changes: object) -> Term:
    return Term(**{"surrogate": objective.ppo_clip, "weight": objective.token_mean, "credit": raw, **changes})  # type: ignore[arg-type]


def train(**changes: object) -> Train:
    return Train(**{"reward": reward.outcome, "terms": (term(),), **changes})  # type: ignore[arg-type]


def batch(**more: Tensor) -> Batch:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]).bool()
    return Batch(
        mask=mask,
        group=torch.tensor([0, 2, 0, 2]),
        correct=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        old_logp=torch.full((4, 3), -1.0),
        **more,
    )


def test_rewards_add_and_their_parts_are_kept_in_order() -> None:
    form = train(reward=(reward.outcome, partial(constant, level=0.25)))
    out, logs = reward_stage(form, batch(), FACTS)
    assert out["reward"].tolist() == [1.25, 0.25, 1.25, 0.25]
    assert out["reward_parts"].tolist() == [[1.0, 0.25], [0.0, 0.25], [1.0, 0.25], [0.0, 0.25]]
    assert logs["rewards/outcome/mean"] == (2.0, 4.0)
    assert logs["rewards/constant/mean"] == (1.0, 4.0)


def test_a_modifier_gets_the_sum_so_far_and_its_part_is_what_it_changed() -> None:
    form = train(reward=(reward.outcome, partial(constant, level=0.5), partial(capped, at=1.0)))
    out, _ = reward_stage(form, batch(), FACTS)
    assert out["reward"].tolist() == [1.0, 0.5, 1.0, 0.5]
    assert out["reward_parts"].tolist() == [[1.0, 0.5, -0.5], [0.0, 0.5, 0.0]] * 2


def test_a_modifier_may_take_the_named_rewards_so_far_apart() -> None:
    form = train(reward=(reward.outcome, partial(constant, level=0.5), product))
    out, _ = reward_stage(form, batch(), FACTS)
    assert spec_of(product).modifies == "reward"
    assert out["reward"].tolist() == [0.5, 0.0, 0.5, 0.0]
    assert out["reward_parts"].tolist() == [[1.0, 0.5, -1.0], [0.0, 0.5, -0.5]] * 2


def test_what_a_modifier_makes_equal_stays_exactly_equal() -> None:
    # 0.3 + (0.7 - 0.3) is not 0.7 in floats: adding parts would tell the rows apart, and eps would magnify it.
    form = train(reward=(reward.user_score, partial(capped, at=0.1)), terms=(term(credit=credit.group_normalise),))
    scored = batch(score=torch.linspace(0.3, 3.1, 4))
    out, _ = reward_stage(form, scored, FACTS)
    assert len(set(out["reward"].tolist())) == 1
    (advantage,), _ = credit_stage(form, out, FACTS)
    assert advantage is not None
    assert not advantage.any()


def test_a_reward_that_is_there_already_is_not_overwritten() -> None:
    with refused(WiringError, "'reward'", "exists already"):
        reward_stage(train(), batch(reward=torch.zeros(4)), FACTS)


def test_selections_multiply_and_groups_are_renumbered() -> None:
    out, index, logs = select_stage(train(select=right_only), batch(), FACTS)
    assert index.tolist() == [0, 2]
    assert out["group"].tolist() == [0, 0]
    assert out["keep"].tolist() == [1.0, 1.0]
    assert logs["truegain/kept"] == (2.0, 4.0)
    flipped = batch().take(torch.tensor([1, 0, 3, 2]))
    out, index, _ = select_stage(train(select=right_only), flipped, FACTS)
    assert index.tolist() == [1, 3]
    second = Batch(**{**batch(), "correct": torch.tensor([0.0, 1.0, 1.0, 0.0])})
    out, index, _ = select_stage(train(select=(right_only, in_group_zero)), second, FACTS)
    assert (index.tolist(), out["group"].tolist()) == ([2], [0])


def test_without_selection_nothing_changes() -> None:
    before = batch()
    out, index, logs = select_stage(train(), before, FACTS)
    assert out is before
    assert (index.tolist(), logs) == ([0, 1, 2, 3], {})


def test_selection_may_leave_nothing() -> None:
    form = train(select=right_only, terms=(term(credit=credit.group_normalise),))
    none = Batch(**{**batch(), "correct": torch.zeros(4)})
    out, index, _ = select_stage(form, reward_stage(form, none, FACTS)[0], FACTS)
    assert (out.rows, index.numel()) == (0, 0)
    advantages, _ = credit_stage(form, out, FACTS)
    (step,), _ = plan_stage(form, out, advantages, FACTS)
    assert step.live["policy"].shape == (0,)


def test_credits_add_modifiers_change_and_nothing_stands_outside_the_mask() -> None:
    scored = batch(reward=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    form = train(terms=(term(credit=(raw, raw, doubled)), term(credit=(), surrogate=objective.negative_logp)))
    (first, second), _ = credit_stage(form, scored, FACTS)
    assert second is None
    assert first is not None
    assert first.tolist() == [[4.0, 4.0, 0.0], [8.0, 0.0, 0.0], [12.0, 12.0, 12.0], [16.0, 16.0, 0.0]]


def test_weights_multiply_with_the_scale() -> None:
    form = train(terms=(term(weight=(objective.token_mean, objective.sequence_sum), scale=2.0),))
    (step,), _ = plan_stage(form, batch(), (torch.ones(4, 3),), FACTS)
    assert torch.allclose(step.weights[0], batch()["mask"] * (2.0 / 8 / 4))


def test_without_a_plan_there_is_one_step_with_all_rows() -> None:
    (step,), _ = plan_stage(train(), batch(), (torch.ones(4, 3),), FACTS)
    assert step.rows.tolist() == [0, 1, 2, 3]
    assert step.live["policy"].all()


def test_a_plan_cuts_rows_and_each_step_has_its_own_denominator() -> None:
    form = train(plan=halves)
    advantage = torch.arange(12.0).reshape(4, 3) + 1
    steps, _ = plan_stage(form, batch(), (advantage,), FACTS)
    assert [step.rows.tolist() for step in steps] == [[0, 1], [2, 3]]
    assert [float(step.weights[0].sum()) for step in steps] == pytest.approx([1.0, 1.0])
    assert steps[1].weights[0][0].tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert torch.equal(steps[1].advantages[0], advantage[2:])  # type: ignore[arg-type]
    assert steps[1].batch["group"].tolist() == [0, 2]


def test_a_plan_may_cut_inside_a_row() -> None:
    turn = torch.tensor([[0, 1, -1], [0, -1, -1], [0, 0, 1], [0, 0, -1]])
    steps, _ = plan_stage(train(plan=turns_of), batch(turn=turn), (torch.ones(4, 3),), FACTS)
    assert steps[1].rows.tolist() == [0, 2]
    assert steps[1].batch["mask"].tolist() == [[False, True, False], [False, False, True]]
    assert sum(int(step.batch["mask"].sum()) for step in steps) == int(batch()["mask"].sum())


def test_rows_without_advantage_are_dead_unless_another_term_or_surrogate_feels_them() -> None:
    advantage = torch.zeros(4, 3)
    advantage[1, 0], advantage[2, 1] = 1.0, math.nan
    (step,), _ = plan_stage(train(), batch(), (advantage,), FACTS)
    assert step.live["policy"].tolist() == [False, True, True, False], "a NaN must reach the loss, where it is refused"
    both = train(terms=(term(surrogate=(objective.ppo_clip, objective.entropy_bonus)),))
    (step,), _ = plan_stage(both, batch(), (advantage,), FACTS)
    assert step.live["policy"].all()
    silent = train(terms=(term(), term(credit=(), surrogate=objective.entropy_bonus, scale=0.0)))
    (step,), _ = plan_stage(silent, batch(), (advantage, None), FACTS)
    assert step.live["policy"].tolist() == [False, True, True, False]


def test_a_wrong_shape_is_refused_with_the_component() -> None:
    with refused(WiringError, "wide", "(4, 1)", "[4, 3]"):
        plan_stage(train(terms=(term(weight=wide),)), batch(), (torch.ones(4, 3),), FACTS)
    with refused(WiringError, "flat_plan", "(4, 3)", "[N,B,T]"):
        plan_stage(train(plan=flat_plan), batch(), (torch.ones(4, 3),), FACTS)


def test_rubbish_in_the_padding_reaches_neither_loss_nor_gradient() -> None:
    penalty = partial(objective.kl_to_reference, beta=1.0)
    form = train(terms=(term(surrogate=(objective.ppo_clip, penalty, objective.entropy_bonus)),))
    outside = ~batch()["mask"]
    dirty = Batch(**{**batch(), "old_logp": batch()["old_logp"].masked_fill(outside, math.nan)})
    dirty = dirty.add(ref_logp=torch.full((4, 3), -2.0).masked_fill(outside, math.inf))
    (step,), _ = plan_stage(form, dirty, (torch.ones(4, 3),), FACTS)
    logp = torch.full((4, 3), -0.9).masked_fill(outside, math.nan).requires_grad_()
    entropy = torch.full((4, 3), 0.5).masked_fill(outside, math.nan).requires_grad_()
    loss, logs = loss_of(form, step, torch.arange(4), {"logp": logp, "entropy": entropy}, FACTS)
    loss.backward()
    assert loss.isfinite()
    for leaf in (logp, entropy):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert not leaf.grad[outside].any()
        assert leaf.grad[~outside].all()
    assert all(math.isfinite(value) for value, _ in logs.values())


def test_current_columns_may_cut_shared_padding_but_no_token() -> None:
    form = train()
    (step,), _ = plan_stage(form, batch(), (torch.ones(4, 3),), FACTS)
    full, _ = loss_of(form, step, torch.tensor([0, 1]), {"logp": torch.full((2, 3), -0.5)}, FACTS)
    cut, _ = loss_of(form, step, torch.tensor([0, 1]), {"logp": torch.full((2, 2), -0.5)}, FACTS)
    assert float(cut) == pytest.approx(float(full), abs=1e-7)
    with refused(WiringError, "2 tokens wide", "mask"):
        loss_of(form, step, torch.tensor([0, 2]), {"logp": torch.full((2, 2), -0.5)}, FACTS)


def test_a_samplers_ratio_multiplies_what_names_the_advantage_and_nothing_beside_it() -> None:
    mask = batch()["mask"]
    logp, entropy = torch.full((4, 3), -1.0), torch.full((4, 3), 0.5)
    columns = {**batch(), "logp": logp, "entropy": entropy, "advantage": torch.full((4, 3), 2.0)}
    both = term(
        surrogate=(objective.ppo_clip, partial(objective.entropy_bonus, coefficient=0.1)), weight=objective.token_mean
    )
    ratio = torch.tensor([[1.0, 3.0, math.nan], [0.0, 9.0, 9.0], [2.0, 2.0, 2.0], [1.0, 1.0, math.inf]])
    # A token gives -1 * 2 by its ratio, and -0.1 * 0.5 whatever that is; padding gives nothing, its ratio says nothing.
    found, _ = token_losses(both, columns, FACTS, ratio)
    assert torch.allclose(found, torch.where(mask, -2 * ratio - 0.05, 0.0))
    (step,), _ = plan_stage(train(terms=(both,)), batch(), (columns["advantage"],), FACTS)
    leaf = logp.clone().requires_grad_()
    whole, _ = loss_of(
        train(terms=(both,)), step, torch.arange(4), {"logp": leaf, "entropy": entropy}, FACTS, ratio=ratio
    )
    # Over 8 tokens; their ratios sum to 1 + 3 + 0 + 6 + 2.
    assert float(whole.detach()) == pytest.approx((-2 * 12 - 8 * 0.05) / 8)
    whole.backward()
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, torch.where(mask, -2 * ratio / 8, 0.0))
    by_row, _ = token_losses(both, columns, FACTS, torch.tensor([[2.0], [1.0], [1.0], [0.0]]))
    assert by_row[:, 0].tolist() == pytest.approx([-4.05, -2.05, -2.05, -0.05])


def test_a_role_gets_its_own_terms_and_credit_as_its_target() -> None:
    critic = Term(credit=raw, surrogate=squared_error, weight=objective.token_mean, role="critic")
    form = train(terms=(term(), critic), roles={"critic": Role("policy", "value", head=True, lr=1e-3)})
    scored = batch(reward=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    advantages, _ = credit_stage(form, scored, FACTS)
    (step,), _ = plan_stage(form, scored, advantages, FACTS)
    # Squared errors at value 0 over 8 tokens: 2 * 1 + 1 * 4 + 3 * 9 + 2 * 16 = 65.
    loss, _ = loss_of(form, step, torch.arange(4), {"value": torch.zeros(4, 3)}, FACTS, role="critic")
    assert float(loss) == pytest.approx(65 / 8)
    # At the old policy the policy's own loss is minus the mean advantage: -(2 + 2 + 9 + 8) / 8.
    own, _ = loss_of(form, step, torch.arange(4), {"logp": scored["old_logp"], "value": torch.zeros(4, 3)}, FACTS)
    assert float(own) == pytest.approx(-21 / 8)


def test_terms_add_with_their_own_denominators() -> None:
    both = train(terms=(term(), term(credit=(), surrogate=objective.negative_logp, weight=objective.sequence_mean)))
    (step,), _ = plan_stage(both, batch(), (torch.ones(4, 3), None), FACTS)
    loss, _ = loss_of(both, step, torch.arange(4), {"logp": batch()["old_logp"]}, FACTS)
    assert float(loss) == pytest.approx(-1.0 + 1.0)


def test_logs_count_masked_tokens_and_micro_batches_merge_to_the_whole() -> None:
    form = train()
    (step,), _ = plan_stage(form, batch(), (torch.ones(4, 3),), FACTS)
    logp = torch.tensor([[-0.5, -2.0, 9.0], [-0.1, 9.0, 9.0], [-1.0, -1.0, -0.2], [-3.0, -0.9, 9.0]])
    _, whole = loss_of(form, step, torch.arange(4), {"logp": logp}, FACTS)
    parts = [loss_of(form, step, torch.tensor(i), {"logp": logp[i]}, FACTS)[1] for i in ([0], [1, 2, 3])]
    assert merge(*parts) == whole
    # log-ratios above log 1.2 = 0.18 with a positive advantage: 0.5, 0.9, 0.8 of eight tokens
    assert whole["clip_ratio/high_mean"] == (3.0, 8.0)


def test_a_missing_column_stops_the_loss_with_its_provider() -> None:
    form = train(terms=(term(surrogate=objective.kl_to_reference),))
    (step,), _ = plan_stage(form, batch(), (torch.ones(4, 3),), FACTS)
    with refused(WiringError, "kl_to_reference", "'ref_logp'", "a role that fills it"):
        loss_of(form, step, torch.arange(4), {"logp": batch()["old_logp"]}, FACTS)


def test_the_columns_a_form_names_are_those_of_all_its_members() -> None:
    form = train(select=in_group_zero, plan=turns_of, terms=(term(), term(surrogate=objective.entropy_bonus)))
    assert named_columns(form) == {
        *("correct", "group", "turn", "reward", "mask", "logp", "old_logp", "advantage", "entropy")
    }
    assert named_columns(Fit(terms=(term(credit=(), surrogate=objective.negative_logp),))) == {"logp", "mask"}


def test_the_old_log_probs_are_computed_only_when_they_can_differ() -> None:
    def trusts_old(old_logp):
        return old_logp.exp()

    component("weight", cite="truegain")(trusts_old)
    assert not needs_old_pass(train())
    assert needs_old_pass(train(plan=halves))
    assert needs_old_pass(train(terms=(term(weight=(objective.token_mean, trusts_old)),)))
    assert not needs_old_pass(train(plan=halves, terms=(term(surrogate=objective.entropy_bonus),)))
    assert not needs_old_pass(Fit(terms=(term(credit=(), surrogate=objective.negative_logp),)))
