"""What the decorator reads, what it refuses, and how a component is called."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from core_checks import own_registry, refused

from truegain.core.columns import FACTS
from truegain.core.component import KINDS, REGISTRY, call, check_member, component, given_knobs, knobs_of, spec_of
from truegain.core.errors import WiringError


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    with own_registry():
        yield


def scaled(correct, reward, *, scale=1.0, step_index):
    """Outcome, scaled.

    More words.
    """
    return scale * correct + reward + step_index


def test_the_signature_is_read_and_the_function_returned_unchanged() -> None:
    assert component("reward", cite="truegain")(scaled) is scaled
    spec = spec_of(scaled)
    assert (spec.name, spec.kind, spec.inputs) == ("scaled", "reward", ("correct", "reward"))
    assert (dict(spec.knobs), spec.facts, spec.cite) == ({"scale": 1.0}, ("step_index",), ("truegain",))
    assert spec.summary == "Outcome, scaled."
    assert spec.modifies == "reward"
    assert REGISTRY[spec.full_name] is spec


def test_the_room_is_read_off_the_module() -> None:
    def somewhere(correct):
        return correct

    for module, room in (
        ("truegain.methods.credit._x", "credit"),
        ("truegain.tasks.sort", "tasks"),
        ("methods", "methods"),
        ("mine.methods", "methods"),
        ("__main__", "__main__"),
    ):
        somewhere.__module__ = module
        component("reward", cite="truegain")(somewhere)
        assert spec_of(somewhere).full_name == f"{room}.somewhere"


def test_naming_its_own_output_makes_a_modifier() -> None:
    def first(reward, mask):
        return reward[:, None] * mask

    def second(advantage):
        return advantage

    def third(advantage):
        return -advantage

    for kind, function, modifies in (
        ("credit", first, None),
        ("credit", second, "advantage"),
        ("surrogate", third, None),
    ):
        component(kind, cite="truegain")(function)
        assert spec_of(function).modifies == modifies


def unknown_column(corect):
    return corect


def knob_before_star(correct, scale=1.0):
    return correct * scale


def knob_without_default(correct, *, scale):
    return correct * scale


def takes_anything(correct, **rest):
    return correct


def names_logp(logp, mask):
    return logp


def names_advantage(advantage):
    return advantage.sum(1)


def names_keep(keep):
    return keep


@pytest.mark.parametrize(
    ("kind", "function", "words"),
    [
        ("rewrad", scaled, ("'scaled'", "'rewrad'", "did you mean 'reward'")),
        ("reward", unknown_column, ("'unknown_column'", "'corect'", "did you mean 'correct'", "knobs stand after *")),
        ("reward", knob_before_star, ("'knob_before_star'", "'scale'", "knobs stand after *")),
        ("reward", knob_without_default, ("'scale'", "no default", "step_index")),
        ("reward", takes_anything, ("'takes_anything'", "'rest'")),
        ("credit", names_logp, ("'names_logp'", "a credit cannot name 'logp'", "only later")),
        ("weight", names_logp, ("a weight cannot name 'logp'",)),
        ("reward", names_advantage, ("a reward cannot name 'advantage'",)),
        ("select", names_keep, ("a select cannot name 'keep'",)),
    ],
)
def test_an_illegal_signature_is_refused_when_it_is_imported(kind: str, function: Any, words: tuple[str, ...]) -> None:
    with refused(WiringError, *words):
        component(kind, cite="truegain")(function)


@pytest.mark.parametrize("cite", ["", (), ("arXiv:1", "")])
def test_a_component_without_a_source_is_refused(cite: Any) -> None:
    with refused(WiringError, "'scaled'", "cite", "truegain"):
        component("reward", cite=cite)(scaled)


def test_kinds_that_take_no_columns_may_name_their_parameters_freely() -> None:
    def accuracy(answers, *, level=0.95):
        return answers

    component("metric", cite="truegain")(accuracy)
    assert spec_of(accuracy).inputs == ("answers",)
    assert set(KINDS) >= {"score", "resample", "segment", "probe", "pair", "sampler", "search", "fold", "metric"}


def test_partials_are_seen_through() -> None:
    component("reward", cite="truegain")(scaled)
    member = functools.partial(functools.partial(scaled, scale=2.0), scale=3.0)
    assert spec_of(member) is spec_of(scaled)
    assert knobs_of(member) == {"scale": 3.0}
    assert given_knobs(member) == {"scale": 3.0}
    assert given_knobs(scaled) == {}


def test_an_unregistered_function_is_refused_by_name() -> None:
    with refused(WiringError, "'unknown_column'", "not a registered component", "@component"):
        spec_of(unknown_column)


def test_a_member_of_the_wrong_kind_with_an_unknown_knob_or_a_position_is_refused() -> None:
    component("reward", cite="truegain")(scaled)
    name = spec_of(scaled).full_name
    with refused(WiringError, "term, field 'credit'", name, "is a reward, not a credit"):
        check_member(scaled, "credit", "term, field 'credit'")
    with refused(WiringError, "Train", name, "'scal'", "did you mean 'scale'", "it has scale"):
        check_member(functools.partial(scaled, scal=1.0), "reward", "Train")
    with refused(WiringError, name, "positional", "name its knobs"):
        check_member(functools.partial(scaled, torch.zeros(1)), "reward", "Train")
    with refused(WiringError, "no knob 'step_index'"):
        check_member(functools.partial(scaled, step_index=3), "reward", "Train")
    assert check_member(functools.partial(scaled, scale=2.0), "reward", "Train") is spec_of(scaled)


def test_a_call_binds_columns_knobs_and_facts_by_name() -> None:
    component("reward", cite="truegain")(scaled)
    columns = {"reward": torch.tensor([10.0]), "correct": torch.tensor([1.0]), "unused": torch.zeros(1)}
    value, logs = call(functools.partial(scaled, scale=2.0), columns, {"step_index": 100, "progress": 0.5})
    assert (value.tolist(), logs) == ([112.0], {})


def test_a_call_passes_logs_on() -> None:
    def counted(correct):
        return correct, {"seen": correct.sum()}

    component("reward", cite="truegain")(counted)
    value, logs = call(counted, {"correct": torch.ones(2)}, {})
    assert value.tolist() == [1.0, 1.0]
    assert float(logs["seen"]) == 2.0


def test_a_missing_column_or_fact_is_named_with_the_component_and_the_provider() -> None:
    component("reward", cite="truegain")(scaled)
    name = spec_of(scaled).full_name
    with refused(WiringError, name, "'correct'", "the task's checker", "not there"):
        call(scaled, {"reward": torch.zeros(1)}, dict.fromkeys(FACTS, 0))
    with refused(WiringError, name, "'step_index'", "this host does not offer"):
        call(scaled, {"reward": torch.zeros(1), "correct": torch.zeros(1)}, {})


def test_a_missing_column_of_a_batch_is_named_with_the_component_too() -> None:
    from truegain.core.batch import Batch

    component("reward", cite="truegain")(scaled)
    with refused(WiringError, spec_of(scaled).full_name, "'correct'"):
        call(scaled, Batch(reward=torch.zeros(1)), {"step_index": 0})
