"""Parts of four systems in one recipe: each component gets what its signature names, and no stage leans on another."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from composition import SYSTEM_FORMS, Composition, Heard, compositions, policy_term, task_for, watched

from truegain.core.columns import COLUMNS
from truegain.core.component import spec_of
from truegain.core.errors import WiringError
from truegain.core.forms import Train, members
from truegain.methods import credit, objective
from truegain.tasks import make
from truegain.train.online import check

COMPOSED = compositions()
every_composition = pytest.mark.parametrize(("made", "task"), COMPOSED.items(), ids=[c.name for c in COMPOSED])
KINDS: dict[str, tuple[torch.dtype, ...]] = {
    "float": (torch.float32, torch.float64),
    "int": (torch.int64, torch.int32),
    "bool": (torch.bool,),
}


def test_there_are_at_least_30_and_every_system_with_a_credit_is_in_one() -> None:
    assert len(COMPOSED) >= 30
    assert {c.credit for c in COMPOSED} == {n for n, f in SYSTEM_FORMS.items() if policy_term(f, credited=True)}
    assert all(len({c.credit, c.objective, c.weight, c.controller}) == 4 for c in COMPOSED)
    assert len({c.objective for c in COMPOSED}) >= 20 and len({c.weight for c in COMPOSED}) >= 20


@every_composition
def test_two_steps_are_finite_and_every_component_gets_what_its_signature_names(
    made: Composition, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = made.form()
    run = watched(form, task, tmp_path / "run", monkeypatch)
    for line, weights in zip(run.lines, run.weights, strict=True):
        assert all(math.isfinite(v) for v in line.values() if isinstance(v, int | float)), line
        assert all(bool(w.isfinite().all()) for w in weights.values())
    for heard in run.steps[0] + run.steps[1]:
        _check_given(heard)
    called = {h.spec.full_name for step in run.steps for h in step}
    stages = [form.score, form.resample, form.probe, form.reward, form.select, form.plan]
    trained = any(line["truegain/trained_rows"] for line in run.lines)
    for term in form.terms:
        stages += [term.credit, term.weight, *([term.surrogate] if trained else [])]
    if not any("reward" in line for line in run.lines):  # a resampler dropped every row of both steps
        stages = [form.score, form.resample]
    dropped = {spec_of(m).full_name for stage in stages for m in members(stage)} - called
    assert not dropped, f"never called: {dropped}"


def _check_given(heard: Heard) -> None:
    """Names as in the signature; each column with the shape and kind of the dictionary."""
    spec = heard.spec
    assert heard.given.keys() == {*spec.inputs, *spec.facts}, spec.full_name
    sizes: dict[str, int] = {}
    for name, value in heard.given.items():
        if name in COLUMNS and isinstance(value, torch.Tensor):
            letters = COLUMNS[name].shape.split(",")
            assert value.dim() == len(letters) and value.dtype in KINDS[COLUMNS[name].kind], (spec.full_name, name)
            for letter, size in zip(letters, value.shape, strict=True):
                if letter in "BT":
                    assert sizes.setdefault(letter, size) == size, (spec.full_name, name)


def _gave(run: Any, kind: str) -> list[Any]:
    return [h.gave for h in run.of(kind)]


def _same(a: list[Any], b: list[Any]) -> bool:
    if len(a) != len(b):
        return False
    return all(_equal(x, y) for x, y in zip(a, b, strict=True))


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, torch.Tensor):
        return x.shape == y.shape and torch.equal(torch.nan_to_num(x, nan=-7.5), torch.nan_to_num(y, nan=-7.5))
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_equal(x[k], y[k]) for k in x)
    return True  # rows to add or drop: the rewards and columns made of them are compared


def _swapped(form: Train, **parts: Any) -> Train:
    first, *rest = form.terms
    return replace(form, terms=(replace(first, **parts), *rest), fold=())


UP_TO_CREDIT = ("score", "resample", "probe", "reward", "select")
FAST = 4  # every fourth composition is swapped in the fast tests, the others by `make test-slow`


@pytest.mark.parametrize(
    ("made", "task"),
    [
        pytest.param(made, task, id=made.name, marks=() if n % FAST == 0 else pytest.mark.slow)
        for n, (made, task) in enumerate(COMPOSED.items())
    ],
)
def test_swapping_one_stage_leaves_what_the_others_give_bit_equal(
    made: Composition, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = replace(made.form(), fold=())  # what a fold sets comes after the step that is compared
    runs = {
        name: watched(changed, task, tmp_path / name, monkeypatch, steps=1)
        for name, changed in {
            "as it is": form,
            "credit": _swapped(form, credit=credit.return_to_go),
            "weight": _swapped(form, weight=objective.limit_mean),
            "surrogate": _swapped(form, surrogate=objective.policy_gradient),
        }.items()
    }
    base = runs.pop("as it is")
    for name, run in runs.items():
        for kind in UP_TO_CREDIT:
            assert _same(_gave(base, kind), _gave(run, kind)), f"another {name} changed what {kind} gives"
    assert _same(_gave(base, "credit"), _gave(runs["weight"], "credit")), "another weight changed the credit"
    assert _same(_gave(base, "credit"), _gave(runs["surrogate"], "credit")), "another surrogate changed the credit"
    steps = [len(run.of("weight")) for run in (base, runs["surrogate"])]
    assert steps[0] == steps[1] and steps[0] > 0
    # A weight sees the same rows whatever the loss; what a renewing plan shows it after its first step is the update's.
    assert _same(_gave(base, "weight")[:1], _gave(runs["surrogate"], "weight")[:1]), "another surrogate changed weights"
    if not any({"advantage"} & set(h.spec.inputs) for h in base.of("weight")):
        assert _same(_gave(base, "weight")[:1], _gave(runs["credit"], "weight")[:1]), "another credit changed weights"


def test_a_composition_that_no_task_can_feed_is_refused_by_column_component_and_supplier() -> None:
    form = Composition("matchtir", "grpo", "grpo", "riskpo").form()
    assert task_for(form) == "calculator"
    with pytest.raises(WiringError, match="needs column 'turn_reward'") as refused:
        check(replace(form, score=()), make("sort"))
    assert "\n" not in str(refused.value) and "does not supply" in str(refused.value)


def test_a_probe_that_draws_from_a_role_that_the_form_lacks_is_refused_before_anything_is_drawn() -> None:
    form = replace(SYSTEM_FORMS["pav"], roles={})
    with pytest.raises(WiringError, match=r"prover_progress draws from role 'prover'.*it has policy"):
        check(form, make("chain,style=trace"))
