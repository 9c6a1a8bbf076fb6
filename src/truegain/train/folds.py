"""Folds: what reads a run step by step, and may set the knobs of the next one."""

from __future__ import annotations

import inspect
from typing import Any

from truegain.core.batch import Batch
from truegain.core.component import Member, spec_of
from truegain.core.errors import WiringError
from truegain.core.forms import Train, members
from truegain.core.settings import resolve
from truegain.train.setup import Setup, State, facts_of


def begin_folds(form: Train) -> list[Any]:
    """The first state of every fold, in the form's order."""
    return [member().init() for member in members(form.fold)]


def run_folds(setup: Setup, state: State, batch: Batch | None, line: dict[str, Any]) -> None:
    """Show every fold the step's columns and metrics; keep its state and the settings that it sets.

    A step that trained on nothing has no columns: folds that name some do not see it. What a fold sets stands in the
    line as ``set/PATH``.
    """
    facts = facts_of(setup.form, state.step)
    for n, member in enumerate(members(setup.form.fold)):
        offered = {**({} if batch is None else batch), **facts, "line": line}
        given = _offer(member, offered, batch is None)
        if given is None:
            continue
        state.fold[n], out = member().update(state.fold[n], **given)
        for path, value in out.items():
            full = resolve(setup.form, path)
            state.changed[full] = line[f"set/{full}"] = value


def _offer(member: Member, offered: dict[str, Any], empty: bool) -> dict[str, Any] | None:
    spec = spec_of(member)
    missing = [name for name in (*spec.inputs, *spec.facts) if name not in offered]
    if missing and empty:
        return None
    if missing:
        raise WiringError(f"{spec.full_name} names {missing[0]!r}, which this step does not have")
    named = inspect.signature(member().update).parameters
    return {name: offered[name] for name in (*spec.inputs, *spec.facts) if name in named}
