"""The contract suite over the registry: whoever adds a component is covered by these tests without writing a line."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import json
import pkgutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import contract_checks as checks
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_columns import facts, random_batch

import truegain.methods
from truegain.cli.index import jsonable
from truegain.core.columns import COLUMNS, FACTS
from truegain.core.component import REGISTRY, Member, Spec, component, spec_of

ROOMS = [
    importlib.import_module(f"truegain.methods.{module.name}")
    for module in pkgutil.iter_modules(truegain.methods.__path__)
    if module.ispkg
]
OURS = [s for _, s in sorted(REGISTRY.items()) if s.function.__module__.startswith("truegain.")]
TENSOR = {name: m for s in OURS if s.kind in checks.TENSOR_KINDS for name, m in checks.variants(s).items()}

every_component = pytest.mark.parametrize("spec", OURS, ids=lambda s: s.full_name)
every_tensor_component = pytest.mark.parametrize("member", TENSOR.values(), ids=TENSOR.keys())
SEEDS = st.integers(0, 50)


def test_the_registry_is_not_empty() -> None:
    kinds = {spec.kind for spec in OURS}
    assert {"reward", "credit", "weight", "surrogate", "metric"} <= kinds


@every_component
def test_a_component_stands_in_its_room_under_its_own_name(spec: Spec) -> None:
    # The segmenters of the rollout room share a file; every other component has one of its own.
    together = spec.room == "rollout"
    room = sys.modules[spec.function.__module__ if together else spec.function.__module__.rpartition(".")[0]]
    assert together or spec.function.__module__.endswith(f"._{spec.name}") or spec.kind == "metric"
    assert getattr(room, spec.name) is spec.function
    assert spec_of(spec.function) is spec
    assert REGISTRY[spec.full_name] is spec


@every_component
def test_a_component_says_what_it_does_and_where_it_is_from(spec: Spec) -> None:
    assert all(source.strip() for source in spec.cite)
    assert spec.cite
    assert spec.summary.strip()
    assert len(spec.summary) <= 120


@every_component
def test_the_example_of_a_component_runs(spec: Spec) -> None:
    module = importlib.import_module(spec.function.__module__)
    found = doctest.DocTestParser().get_doctest(
        inspect.getdoc(spec.function) or "", dict(vars(module)), spec.full_name, inspect.getsourcefile(module), 0
    )
    assert found.examples, f"{spec.full_name} has no example"
    said = io.StringIO()
    with redirect_stdout(said):
        failed, tried = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found)
    assert (failed, tried) == (0, len(found.examples)), said.getvalue()


@every_component
def test_knobs_can_be_written_down(spec: Spec) -> None:
    json.dumps(jsonable(dict(spec.knobs)), allow_nan=False)
    assert not set(spec.knobs) & (set(FACTS) | set(spec.inputs))


@every_tensor_component
def test_the_signature_resolves_to_columns(member: Member) -> None:
    spec = spec_of(member)
    assert set(spec.inputs) <= set(COLUMNS)
    assert set(spec.facts) <= set(FACTS)
    assert spec.inputs, "a tensor component names at least one column"


@every_tensor_component
@pytest.mark.parametrize("check", checks.SEEDED, ids=lambda c: c.__name__.removeprefix("check_"))
def test_the_contract_holds(check: Callable[[Any, int], None], member: Member) -> None:
    for seed in (0, 1, 2):
        check(member, seed)


@every_tensor_component
@settings(max_examples=8)
@given(seed=SEEDS, rows=st.integers(1, 8), tokens=st.integers(1, 9), extra=st.integers(1, 5))
def test_padding_is_inert(member: Member, seed: int, rows: int, tokens: int, extra: int) -> None:
    checks.check_padding_is_inert(member, checks.named_by(member, random_batch(seed, rows, tokens)), extra)


@every_tensor_component
@settings(max_examples=8)
@given(seed=SEEDS, rows=st.integers(1, 8), tokens=st.integers(1, 9))
def test_row_order_and_group_numbers_are_inert(member: Member, seed: int, rows: int, tokens: int) -> None:
    batch = checks.named_by(member, random_batch(seed, rows, tokens))
    checks.check_row_order_is_inert(member, batch, seed)
    checks.check_group_numbers_are_inert(member, batch)


def test_the_random_batch_offers_every_column_as_the_dictionary_describes_it() -> None:
    for seed in range(5):
        batch = random_batch(seed, rows=6, tokens=8)
        assert set(batch) == set(COLUMNS)
        assert batch["mask"].any()
        assert (batch["turn"][batch["mask"]] >= 0).all()
    assert any((random_batch(s)["turn"] == 2).any() for s in range(5)), "no row has a turn after a tool's"
    assert set(facts(4)) == set(FACTS)


# Each clause must be able to fail: a component that breaks it, and the check that says so.


def forgets_the_mask(logp, *, scale=1.0):
    return logp * scale / logp.sum(dim=1, keepdim=True)


def leans_on_the_row_before(advantage, logp):
    return -advantage * logp.roll(1, dims=0)


def downcasts(logp, advantage):
    return -(advantage.float() * logp.float())


def loses_precision(correct):
    return (correct * 1e-3 + 1e6) - 1e6


def writes_into_its_input(reward, mask):
    return reward.mul_(2.0)[:, None].expand(mask.shape).clone()


def answers_at_random(correct):
    return torch.rand_like(correct)


def divides_by_the_deviation(reward, group, mask):
    own = group[:, None] == group
    size = own.sum(dim=1)
    mean = (own * reward).sum(dim=1) / size
    spread = (own * (reward - mean[:, None]) ** 2).sum(dim=1) / (size - 1)
    return ((reward - mean) / spread.sqrt())[:, None].expand(mask.shape)


def keeps_equal_rewards(reward, group, mask):
    return reward[:, None].expand(mask.shape).clone()


def divides_by_the_length(mask):
    return mask.float() / mask.sum(dim=1, keepdim=True)


def counts_empty_rows(mask):
    return mask.float() / mask.shape[0]


def pays_without_advantage(logp, advantage):
    return -(advantage + 0.1) * logp


def has_no_gradient(logp, advantage):
    return advantage * logp.detach()


def averages_over_its_neighbours(logp, advantage):
    return -advantage * (logp - logp.mean())


def keeps_by_halves(correct):
    return correct * 0.5


def knows_group_numbers(reward, group, mask):
    return (reward * group)[:, None].expand(mask.shape).clone()


def with_padding(member: Member, seed: int) -> None:
    checks.check_padding_is_inert(member, random_batch(seed), 3)


def with_order(member: Member, seed: int) -> None:
    checks.check_row_order_is_inert(member, random_batch(seed), seed)


def with_group_numbers(member: Member, seed: int) -> None:
    checks.check_group_numbers_are_inert(member, random_batch(seed))


BREACHES: tuple[tuple[str, Member, Callable[[Any, int], None]], ...] = (
    ("surrogate", forgets_the_mask, with_padding),
    ("surrogate", forgets_the_mask, checks.check_surrogates_have_a_finite_gradient),
    ("surrogate", leans_on_the_row_before, with_order),
    ("surrogate", leans_on_the_row_before, checks.check_surrogates_do_not_mix_micro_batches),
    ("surrogate", downcasts, checks.check_shape_and_dtype),
    ("reward", loses_precision, checks.check_float32_agrees_with_float64),
    ("credit", writes_into_its_input, checks.check_the_answer_repeats),
    ("reward", answers_at_random, checks.check_the_answer_repeats),
    ("credit", divides_by_the_deviation, checks.check_groups_of_one_are_finite),
    ("credit", keeps_equal_rewards, checks.check_equal_rewards_give_no_advantage),
    ("weight", divides_by_the_length, checks.check_an_all_masked_row_is_harmless),
    ("weight", counts_empty_rows, checks.check_an_all_masked_row_is_harmless),
    ("surrogate", pays_without_advantage, checks.check_no_advantage_gives_no_gradient),
    ("surrogate", has_no_gradient, checks.check_surrogates_have_a_finite_gradient),
    ("surrogate", averages_over_its_neighbours, checks.check_surrogates_do_not_mix_micro_batches),
    ("select", keeps_by_halves, checks.check_select_keeps_or_drops),
    ("credit", knows_group_numbers, with_group_numbers),
)


@pytest.mark.parametrize(("kind", "member", "check"), BREACHES, ids=[f"{m.__name__}" for _, m, _ in BREACHES])
def test_a_breach_of_the_contract_is_found(kind: str, member: Member, check: Callable[[Any, int], None]) -> None:
    component(kind, cite="truegain")(member)
    try:
        with pytest.raises(AssertionError):
            check(member, 1)
    finally:
        del REGISTRY[spec_of(member).full_name]
