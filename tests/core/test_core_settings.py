"""Dotted settings: short forms, types, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from core_checks import own_registry, refused

from truegain.core.component import component, knobs_of
from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Measure, Role, Term, Train, members
from truegain.core.settings import loop_with, resolve, settings, with_setting
from truegain.methods import credit, evaluation, objective, reward


@pytest.fixture
def form() -> Train:
    surrogate = (partial(objective.ppo_clip, clip_high=0.28), objective.kl_to_reference)
    terms = (
        Term(credit=credit.group_normalise, surrogate=surrogate, weight=objective.sequence_sum),
        Term(surrogate=objective.entropy_bonus, weight=objective.token_mean, scale=0.5),
    )
    return Train(reward=(reward.outcome, reward.user_score), terms=terms)


@pytest.fixture
def _forget() -> Iterator[None]:
    with own_registry():
        yield


def test_every_setting_is_listed_with_its_value_as_it_stands(form: Train) -> None:
    found = settings(form)
    assert found["loop.lr"] == 1e-4
    assert found["surrogate.ppo_clip.clip_high"] == 0.28
    assert found["surrogate.ppo_clip.clip_low"] == 0.2
    assert found["credit.group_normalise.std"] == "group"
    assert (found["term.0.scale"], found["term.1.scale"]) == (1.0, 0.5)
    assert found["weight.sequence_sum.length"] == 1.0
    assert {f"loop.{name}" for name in Loop.model_fields} <= set(found)


def test_a_short_form_is_enough_when_it_is_unique(form: Train) -> None:
    assert resolve(form, "lr") == "loop.lr"
    assert resolve(form, "clip_high") == "surrogate.ppo_clip.clip_high"
    assert resolve(form, "ppo_clip.clip_high") == "surrogate.ppo_clip.clip_high"
    assert resolve(form, "1.scale") == "term.1.scale"
    assert resolve(form, "loop.lr") == "loop.lr"


def test_a_component_that_two_terms_hold_is_set_in_each_by_the_terms_number(form: Train) -> None:
    twice = Term(credit=credit.group_normalise, surrogate=objective.ppo_clip, weight=objective.token_mean)
    form = Train(reward=form.reward, terms=(*form.terms, twice))
    found = settings(form)
    assert "surrogate.ppo_clip.clip_high" not in found
    assert (found["term.0.surrogate.ppo_clip.clip_high"], found["term.2.surrogate.ppo_clip.clip_high"]) == (0.28, 0.2)
    changed = settings(with_setting(form, "term.2.surrogate.ppo_clip.clip_high", "0.5"))
    assert changed == {**found, "term.2.surrogate.ppo_clip.clip_high": 0.5}
    with refused(SettingError, "'clip_high'", "ambiguous", "term.0.surrogate", "term.2.surrogate"):
        resolve(form, "clip_high")


def test_the_source_of_every_role_and_the_learning_rate_of_a_trained_one_are_settings(form: Train) -> None:
    roles = {"critic": Role("init", "value", head=True, lr=1e-3), "reference": Role("init", "ref_logp")}
    form = Train(reward=form.reward, terms=form.terms, roles=roles)
    paths = [path for path in settings(form) if path.startswith("role.")]
    assert paths == ["role.critic.lr", "role.critic.source", "role.reference.source"]
    changed = with_setting(with_setting(form, "critic.lr", "2e-3"), "reference.source", "runs/other")
    assert isinstance(changed, Train) and changed.roles["critic"] == Role("init", "value", head=True, lr=2e-3)
    assert changed.roles["reference"] == Role("runs/other", "ref_logp")


def test_every_full_path_means_itself(form: Train) -> None:
    for path in settings(form):
        assert resolve(form, path) == path


def test_an_ambiguous_short_form_is_refused_with_all_it_could_mean(form: Train) -> None:
    with refused(SettingError, "'scale'", "ambiguous", "term.0.scale", "term.1.scale", "reward.user_score.scale"):
        resolve(form, "scale")
    with refused(SettingError, "'log_ratio_bound'", "ppo_clip", "kl_to_reference"):
        with_setting(form, "log_ratio_bound", 3.0)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("clip_hihg", "did you mean 'clip_high'"),
        ("loop.lrr", "did you mean 'loop.lr'"),
        ("surrogate.ppo_clip.clip_hi", "did you mean 'surrogate.ppo_clip.clip_hi"),
        ("igh", "unknown setting 'igh'"),
        ("", "unknown setting ''"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(form: Train, path: str, hint: str) -> None:
    with refused(SettingError, "unknown setting", hint, "truegain show"):
        resolve(form, path)


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("lr", "3e-5", 3e-5),
        ("steps", "7", 7),
        ("decay", "cosine", "cosine"),
        ("clip_high", "0.3", 0.3),
        ("clip_high", 1, 1.0),
        ("kl_to_reference.log_ratio_bound", "inf", float("inf")),
        ("ddof", "0", 0),
        ("std", "batch", "batch"),
        ("std", "none", "none"),
        ("term.1.scale", "0.25", 0.25),
        ("outcome.wrong", "-1", -1.0),
    ],
)
def test_a_setting_is_read_as_its_type_and_nothing_else_changes(
    form: Train, path: str, value: Any, wanted: Any
) -> None:
    full = resolve(form, path)
    after = settings(with_setting(form, path, value))
    assert after[full] == wanted
    assert type(after[full]) is type(wanted)
    assert {k: v for k, v in after.items() if k != full} == {k: v for k, v in settings(form).items() if k != full}
    assert settings(form)[full] != wanted


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("lr", "fast", ("loop.lr", "'fast'", "number")),
        ("lr", "2", ("loop.lr", "less than or equal to 1")),
        ("steps", "1.5", ("loop.steps", "'1.5'")),
        ("decay", "sine", ("loop.decay", "'sine'", "cosine")),
        ("clip_high", "wide", ("surrogate.ppo_clip.clip_high", "'wide'", "the default is 0.2")),
        ("clip_high", [0.1], ("surrogate.ppo_clip.clip_high", "[0.1]")),
        ("clip_high", "nan", ("surrogate.ppo_clip.clip_high", "must be a number")),
        ("ddof", "1.5", ("credit.group_normalise.ddof", "'1.5'", "integer")),
        ("std", "groups", ("credit.group_normalise.std", "'groups'", "'batch'", "the default is 'group'")),
        ("term.0.scale", "much", ("term.0.scale", "'much'")),
        ("clip_high", "none", ("surrogate.ppo_clip.clip_high", "'none'")),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_bounds_is_refused(
    form: Train, path: str, value: Any, words: tuple[str, ...]
) -> None:
    with refused(SettingError, *words):
        with_setting(form, path, value)


@pytest.mark.usefixtures("_forget")
def test_lists_switches_and_absent_values_can_be_set() -> None:
    def shaped(correct, *, levels: tuple[float, ...] = (0.5,), cap: float | None = None, hard: bool = False):
        return correct

    component("reward", cite="truegain")(shaped)
    form = Train(reward=shaped, terms=(Term(surrogate=objective.negative_logp, weight=objective.token_mean),))
    for path, text, wanted in (
        ("levels", "[0.1, 0.2]", (0.1, 0.2)),
        ("cap", "3", 3.0),
        ("cap", "none", None),
        ("hard", "true", True),
    ):
        form = with_setting(form, path, text)
        assert isinstance(form, Train)
        assert knobs_of(members(form.reward)[0])[path] == wanted
    with refused(SettingError, "reward.shaped.hard", "'perhaps'"):
        with_setting(form, "hard", "perhaps")


@pytest.mark.usefixtures("_forget")
def test_segment_knobs_are_settings_too() -> None:
    def by_length(text, spans, *, size: int = 8):
        return spans

    component("segment", cite="truegain")(by_length)
    term = Term(surrogate=objective.negative_logp, weight=objective.token_mean)
    form = Train(reward=reward.outcome, terms=(term,), segment={"step": by_length})
    changed = with_setting(form, "size", "4")
    assert isinstance(changed, Train)
    assert settings(changed)["segment.by_length.size"] == 4
    assert knobs_of(form.segment["step"]) == {"size": 8}


def test_forms_without_a_loop_have_their_knobs_only() -> None:
    form = Measure(metric=evaluation.calibration)
    assert settings(form)["metric.calibration.bins"] == 10
    assert not [path for path in settings(form) if path.startswith("loop.")]
    assert settings(with_setting(form, "bins", "5"))["metric.calibration.bins"] == 5


def test_loop_settings_can_be_given_by_name(form: Train) -> None:
    changed = loop_with(form, lr=2e-4, steps=None)
    assert (changed.loop.lr, changed.loop.steps) == (2e-4, form.loop.steps)
    with refused(SettingError, "loop.stepps", "did you mean 'steps'"):
        loop_with(form, stepps=3)
    with refused(SettingError, "loop.lr", "-1"):
        loop_with(form, lr=-1)
