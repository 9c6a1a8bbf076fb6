"""The learner's half of a step: micro-batches, learning rates, and updates that are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from train_runs import equal, form_of, llama, rollout

from truegain.core import arithmetic
from truegain.core.arithmetic import OptimiserStep
from truegain.core.batch import Batch
from truegain.core.errors import RunError
from truegain.core.forms import Loop
from truegain.policy.policy import Policy
from truegain.rollout.batch import to_columns
from truegain.train import learner
from truegain.train.learner import cut_micro, learning_rate, logp_pass, update
from truegain.train.models import Model, policy_model
from truegain.train.online import facts_of

# Small sizes and limits, so that the limit is often met exactly.
ROWS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=0, max_size=20)
LIMIT = st.integers(1, 24)


def cut(rows: list[tuple[int, int]], limit: int, whole: bool) -> tuple[list[list[int]], Tensor, Tensor]:
    sizes, group = (torch.tensor([row[i] for row in rows], dtype=torch.long) for i in (0, 1))
    return [part.tolist() for part in cut_micro(sizes, limit, group, whole)], sizes, group


# Micro-batches


@given(ROWS, LIMIT, st.booleans())
def test_every_row_is_in_exactly_one_micro_batch(rows: list[tuple[int, int]], limit: int, whole: bool) -> None:
    parts, _, _ = cut(rows, limit, whole)
    assert sorted(i for part in parts for i in part) == list(range(len(rows)))
    assert all(parts)


@given(ROWS, LIMIT, st.booleans())
def test_the_padded_tokens_keep_to_the_limit_but_for_a_row_or_whole_group_beyond_it(
    rows: list[tuple[int, int]], limit: int, whole: bool
) -> None:
    parts, sizes, group = cut(rows, limit, whole)
    for part in parts:
        padded = len(part) * max(sizes[part].tolist())
        alone = len(set(group[part].tolist())) == 1 if whole else len(part) == 1
        assert padded <= limit or alone


@given(ROWS, LIMIT, st.booleans())
def test_a_group_that_fits_is_never_cut_and_whole_groups_never_are(
    rows: list[tuple[int, int]], limit: int, whole: bool
) -> None:
    parts, sizes, group = cut(rows, limit, whole)
    for g in set(group.tolist()):
        members = (group == g).nonzero().flatten().tolist()
        homes = [n for n, part in enumerate(parts) if set(part) & set(members)]
        if whole or len(members) * max(sizes[members].tolist()) <= limit:
            assert len(homes) == 1


def test_rows_are_cut_by_length_so_that_little_is_padded() -> None:
    # Eight rows of their own, limit 40. By length: 1 2 3 4 6 (5 * 6 = 30), then 8 9 (6 * 8 is too much), then 20.
    sizes = torch.tensor([20, 1, 9, 2, 8, 3, 6, 4])
    parts = cut_micro(sizes, 40, torch.arange(8))
    assert [sizes[part].tolist() for part in parts] == [[1, 2, 3, 4, 6], [8, 9], [20]]


# The learning rate


def rates(**loop: Any) -> list[float]:
    made = Loop(lr=0.8, **loop)
    return [learning_rate(made, step) for step in range(made.steps)]


def test_the_learning_rate_rises_over_the_warm_up_then_does_what_decay_says() -> None:
    assert rates(steps=6, warmup=4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert rates(steps=6, warmup=2, decay="linear") == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4, 0.2])
    # (1 + cos(pi k / 4)) / 2 for k = 0..3
    expected = [0.8, 0.8 * 0.853553, 0.8 * 0.5, 0.8 * 0.146447]
    assert rates(steps=4, decay="cosine") == pytest.approx(expected, rel=1e-5)
    assert rates(steps=3) == [0.8, 0.8, 0.8]


def test_a_warm_up_longer_than_the_run_never_reaches_the_peak() -> None:
    assert max(rates(steps=3, warmup=8, decay="linear")) == pytest.approx(0.3)


def test_only_matrices_decay_and_the_optimiser_knows_every_weight_by_name(tmp_path: Any) -> None:
    policy = Policy.load(llama(tmp_path / "model"))
    trained = policy_model(policy, Loop(weight_decay=0.1, beta1=0.8, beta2=0.95))
    assert trained.optimiser is not None
    names, optimiser = trained.names(), trained.optimiser
    assert sorted(names) == sorted(name for name, _ in policy.model.named_parameters())
    matrices, rest = optimiser.param_groups
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert matrices["betas"] == (0.8, 0.95)
    assert [name for name in names if "norm" in name] == names[len(matrices["params"]) :]


# Updates


def moments(models: dict[str, Model]) -> Any:
    optimiser = models["policy"].optimiser
    assert optimiser is not None
    return optimiser.state


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return llama(tmp_path_factory.mktemp("model") / "llama")


def step_of(form: Any, rewards: dict[str, list[float]]) -> tuple[OptimiserStep, list[tuple[int, ...]]]:
    """One optimiser step over rollouts of 1 to 4 tokens with these rewards, problem by problem."""
    rows = [
        rollout(p, sample=7 * i, tokens=1 + (i + ord(p)) % 4, correct=r)
        for p, given in rewards.items()
        for i, r in enumerate(given)
    ]
    facts = facts_of(form, 0)
    batch, _ = arithmetic.reward_stage(form, Batch(**to_columns(rows)), facts)
    advantages, _ = arithmetic.credit_stage(form, batch, facts)
    steps, _ = arithmetic.plan_stage(form, batch, advantages, facts)
    return steps[0], [r.trained_prompt for r in rows]


MIXED = {"a": [1.0, 0.0, 0.0], "b": [1.0, 1.0], "c": [0.0, 1.0], "d": [0.0, 0.0, 0.0]}


def updated(form: Any, model: Any, step: OptimiserStep, prompts: Any) -> tuple[Policy, learner.Updated]:
    policy = Policy.load(model)
    done = update(form, {"policy": policy_model(policy, form.loop)}, step, prompts, facts_of(form, 0))
    return policy, done


def test_rows_without_a_gradient_are_not_passed_and_do_not_change_the_result(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = form_of(lr=1e-3)
    step, prompts = step_of(form, MIXED)
    seen: list[Tensor] = []
    real = learner.token_logp

    def watched(policy: Any, asked: Any, tokens: Tensor, *a: Any, **k: Any) -> Any:
        seen.append(tokens)
        return real(policy, asked, tokens, *a, **k)

    monkeypatch.setattr(learner, "token_logp", watched)
    left_out, few = updated(form, model, step, prompts)
    # Groups b and d agree: rows 3, 4 and 7 to 9 have an advantage of 0.
    assert few.passed["policy"].tolist() == [0, 1, 2, 5, 6] and sum(map(len, seen)) == 5
    kept, every = updated(form, model, replace(step, live={"policy": torch.ones(10, dtype=torch.bool)}), prompts)
    assert every.passed["policy"].tolist() == list(range(10))
    assert few.loss["policy"] == pytest.approx(every.loss["policy"], abs=1e-7) and few.grad_norm[
        "policy"
    ] == pytest.approx(every.grad_norm["policy"], rel=1e-5)
    for name, weight in kept.weights().items():
        torch.testing.assert_close(left_out.weights()[name], weight, rtol=0, atol=2e-6)
    # They still count in the denominator: without them the same gradient is 10 / 5 times as large.
    alone, short = step_of(form, {name: MIXED[name] for name in "ac"})
    assert updated(form, model, alone, short)[1].grad_norm["policy"] == pytest.approx(
        2 * few.grad_norm["policy"], rel=1e-4
    )


def test_with_no_row_to_pass_no_weight_and_no_moment_moves(model: Any) -> None:
    form = form_of(weight_decay=0.5)
    policy = Policy.load(model)
    before, models = policy.weights(), {"policy": policy_model(policy, form.loop)}
    step, prompts = step_of(form, {"a": [1.0, 1.0], "b": [0.0]})
    done = update(form, models, step, prompts, facts_of(form, 0))
    assert (done.loss, done.grad_norm, done.passed["policy"].tolist(), done.logs) == ({"policy": 0.0}, {}, [], {})
    assert equal(policy.weights(), before) and not moments(models)


@pytest.mark.parametrize("micro", [1, 12, 30])
def test_loss_gradient_and_logs_do_not_depend_on_the_micro_batches(model: Any, micro: int) -> None:
    form = form_of(lr=1e-3)
    step, prompts = step_of(form, MIXED)
    _, one = updated(form, model, step, prompts)
    small = replace(form, loop=form.loop.model_copy(update={"micro_tokens": micro}))
    _, many = updated(small, model, step, prompts)
    assert many.loss["policy"] == pytest.approx(one.loss["policy"], abs=1e-6) and many.grad_norm[
        "policy"
    ] == pytest.approx(one.grad_norm["policy"], rel=1e-5)
    assert many.logs.keys() == one.logs.keys()
    for name, (total, count) in one.logs.items():
        assert many.logs[name] == (pytest.approx(total, abs=1e-5), count)


def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_reported(model: Any) -> None:
    form = form_of(grad_clip=1e-3)
    step, prompts = step_of(form, MIXED)
    policy = Policy.load(model)
    # Plain descent, so that the step is the gradient: lr 1 moves the weights by a norm of at most 1e-3.
    models = {"policy": Model("policy", policy, optimiser=torch.optim.SGD(policy.model.parameters(), lr=1.0))}
    before = policy.weights()
    done = update(form, models, step, prompts, facts_of(form, 0))
    moved = math.sqrt(sum(float(((policy.weights()[n] - before[n]) ** 2).sum()) for n in before))
    assert done.grad_norm["policy"] > 1e-2 and moved == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_not_finite_names_its_rows_and_moves_nothing(model: Any) -> None:
    # Rows take 4 to 7 tokens with the prompt: a group of two fits into 14.
    form = form_of(micro_tokens=14)
    step, prompts = step_of(form, {"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [0.0, 1.0]})
    advantage = step.advantages[0]
    assert advantage is not None
    advantage[2] = math.inf
    policy = Policy.load(model)
    before, models = policy.weights(), {"policy": policy_model(policy, form.loop)}
    with pytest.raises(RunError, match=r"the loss of 2 rows is not finite; no weight was touched") as caught:
        update(form, models, step, prompts, facts_of(form, 0))
    assert sorted(caught.value.rows) == [2, 3]  # pyright: ignore[reportAttributeAccessIssue]
    assert equal(policy.weights(), before) and not moments(models)
    assert all(p.grad is None for p in policy.model.parameters()), "nothing is left for the next step"


def test_a_gradient_that_is_not_finite_is_refused_though_the_loss_is_finite(model: Any) -> None:
    form = form_of()
    # A loss near 0 whose gradient, times 1e30, has squares beyond float32.
    form = replace(form, terms=(replace(form.terms[0], scale=1e30),))
    step, prompts = step_of(form, MIXED)
    policy = Policy.load(model)
    before, models = policy.weights(), {"policy": policy_model(policy, form.loop)}
    with pytest.raises(RunError, match=r"the gradient norm \((inf|nan)\) is not finite") as caught:
        update(form, models, step, prompts, facts_of(form, 0))
    assert caught.value.rows == [0, 1, 2, 5, 6]  # pyright: ignore[reportAttributeAccessIssue]
    assert equal(policy.weights(), before) and not moments(models)


def test_log_probs_are_zero_in_the_padding_and_the_same_whatever_the_micro_batches(model: Any) -> None:
    policy = Policy.load(model)
    rows = [rollout("a", sample=i, tokens=1 + i) for i in range(4)] + [rollout("b", sample=9, tokens=2)]
    batch, prompts = Batch(**to_columns(rows)), [r.trained_prompt for r in rows]
    big, small = (logp_pass(policy, prompts, batch, Loop(micro_tokens=size)) for size in (10_000, 1))
    torch.testing.assert_close(small, big, rtol=0, atol=1e-6)
    assert (big[~batch["mask"]] == 0).all() and (big[batch["mask"]] < 0).all()
    warm = logp_pass(policy, prompts, batch, Loop(temperature=2.0))
    torch.testing.assert_close(logp_pass(policy, prompts, batch, Loop(), temperature=2.0), warm)
    assert not torch.allclose(warm, big)
