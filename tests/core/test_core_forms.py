"""The forms refuse a wrong composition when the recipe is built, not when it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
from core_checks import refused

from truegain.core.errors import WiringError
from truegain.core.forms import Decode, Fit, Loop, Measure, Role, Term, Train, Watch, members
from truegain.methods import credit, evaluation, objective, reward


def term(**changes: object) -> Term:
    return Term(**{"surrogate": objective.ppo_clip, "weight": objective.token_mean, **changes})  # type: ignore[arg-type]


def test_single_members_become_tuples() -> None:
    form = Train(reward=reward.outcome, terms=(term(credit=credit.group_normalise),))
    assert form.reward == (reward.outcome,)
    assert form.terms[0].credit == (credit.group_normalise,)
    assert form.score == form.plan == ()
    assert members(reward.outcome) == (reward.outcome,) == members((reward.outcome,))


def test_forms_are_frozen_and_variants_are_replacements() -> None:
    form = Train(reward=reward.outcome, terms=(term(),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        form.reward = ()  # type: ignore[misc]
    other = dataclasses.replace(form, loop=Loop(lr=3e-5))
    assert (form.loop.lr, other.loop.lr) == (1e-4, 3e-5)
    assert other.terms is form.terms


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: term(surrogate=partial(objective.ppo_clip, clip=0.1)), ("surrogate", "'clip'", "did you mean 'clip_")),
        (lambda: term(weight=objective.ppo_clip), ("field 'weight'", "objective.ppo_clip", "surrogate, not a weight")),
        (lambda: term(credit=(credit.group_normalise, reward.outcome)), ("reward.outcome is a reward, not a credit",)),
        (lambda: term(surrogate=()), ("surrogate and a weight",)),
        (lambda: term(weight=()), ("surrogate and a weight",)),
        (lambda: Train(reward=partial(reward.outcome, rite=1.0), terms=(term(),)), ("'rite'", "did you mean 'right'")),
        (lambda: Train(reward=partial(reward.outcome, None), terms=(term(),)), ("positional", "name its knobs")),
        (lambda: Train(reward=len, terms=(term(),)), ("'len'", "not a registered component")),
        (lambda: Train(reward=(), terms=(term(),)), ("at least one reward",)),
        (lambda: Train(reward=reward.outcome, terms=()), ("one term",)),
        (lambda: Train(reward=reward.outcome, terms=(term(),), select=reward.outcome), ("'select'", "not a select")),
        (lambda: Train(reward=reward.outcome, terms=(term(role="critic"),)), ("'critic'", "does not have")),
        (
            lambda: Train(reward=reward.outcome, terms=(term(),), roles={"policy": Role("init", "ref_logp")}),
            ("'policy'", "always there"),
        ),
        (
            lambda: Train(reward=reward.outcome, terms=(term(),), roles={"old": Role("init", "ref_logpp")}),
            ("'old'", "did you mean 'ref_logp'"),
        ),
        (
            lambda: Train(reward=reward.outcome, terms=(term(),), segment={"step": reward.outcome}),
            ("'step'", "not a segment"),
        ),
        (lambda: Fit(terms=()), ("Fit", "one term or a pair")),
        (lambda: Fit(terms=(term(),), pair=reward.outcome), ("'pair'", "not a pair")),
        (lambda: Decode(sampler=reward.outcome), ("'sampler'", "not a sampler")),
        (lambda: Decode(search=evaluation.pass_at_k), ("'search'", "not a search")),
        (lambda: Watch(fold=reward.outcome), ("'fold'", "not a fold")),
        (lambda: Measure(metric=partial(evaluation.brier_score, bins=3)), ("evaluation.brier_score", "'bins'")),
    ],
)
def test_a_wrong_composition_is_refused_when_it_is_built(make: Callable[[], object], words: tuple[str, ...]) -> None:
    with refused(WiringError, *words):
        make()


def test_a_right_composition_of_each_form_is_taken() -> None:
    roles = {"reference": Role("init", "ref_logp")}
    both = term(surrogate=(objective.ppo_clip, partial(objective.kl_to_reference, beta=0.1)))
    assert Train(reward=(reward.outcome, reward.user_score), terms=(both,), roles=roles).roles == roles
    assert Fit(terms=(term(surrogate=objective.negative_logp),)).pair == ()
    assert Measure(metric=evaluation.brier_score).metric == (evaluation.brier_score,)
    assert Decode().sampler == ()


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"lr": float("nan")}, {"steps": -1}, {"top_p": 0.0}, {"decay": "sine"}])
def test_loop_settings_out_of_bounds_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Loop(**bad)  # type: ignore[arg-type]


def test_every_loop_setting_is_described() -> None:
    assert all(field.description for field in Loop.model_fields.values())
