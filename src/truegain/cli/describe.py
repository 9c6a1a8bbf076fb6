"""What `truegain show` says of a recipe, a component or a task, as JSON-able data."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from truegain.cli.index import jsonable, load_index
from truegain.cli.variant import forms
from truegain.core.errors import SettingError, nearest


def describe(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about what ``name`` names; ``what`` says which of recipe, component and task it is.

    Raises SettingError for an unknown name, an ambiguous component, or ``changes`` to what is no recipe.
    """
    from truegain.tasks import TASKS

    index = load_index()
    systems = {row["name"] for row in index["systems"]}
    if name in systems:
        return recipe(name, changes)
    components = {row["name"] for row in index["components"]}
    found = sorted(full for full in components if name in (full, full.partition(".")[2]))
    if changes and (found or name in TASKS):
        raise SettingError(f"--set changes recipes, and {name!r} is none")
    if len(found) == 1:
        return component(found[0])
    if found:
        raise SettingError(f"{name!r} is ambiguous: {', '.join(found)}; write one of them in full")
    if name.partition(",")[0] in TASKS:
        return task(name)
    legal = systems | components | {full.partition(".")[2] for full in components} | set(TASKS)
    raise SettingError(f"nothing is called {name!r}{nearest(name, legal)}; `truegain list` shows the recipes")


def recipe(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A system: where it is from, its knobs as changed, and each form with its stages, columns and loop."""
    built = forms(name, changes)
    from truegain.core.system import SYSTEMS

    found = SYSTEMS[name]
    given = {knob: changes.get(knob, default) for knob, default in found.knobs.items()}
    return {
        "what": "recipe",
        "name": name,
        "paper": found.paper,
        "room": found.slot,
        "cite": found.cite,
        "differs": found.differs,
        "summary": found.summary,
        "doc": _prose(found.recipe),
        "knobs": jsonable(given),
        "forms": [form(one) for one in built],
        "command": command(name, built, changes),
    }


def command(name: str, built: Sequence[Any], changes: Mapping[str, Any]) -> str:
    """The command line that runs a system, with a task that has what its components ask for, where one is known."""
    import shlex

    kinds = [type(one).__name__ for one in built]
    words = ["truegain", "train" if kinds == ["Train"] else "run", name]
    if kinds[0] == "Fit" and built[0].pair:
        words += ["--data", "FILE"]
    if {"Train", "Decode"} & set(kinds) or (kinds[0] == "Fit" and not built[0].pair):
        words += ["--task", _suited(built) or "TASK"]
    if {"Measure", "Watch"} & set(kinds):
        words += ["--records", "FILE"]
    for path, value in changes.items():
        words += ["--set", f"{path}={value}"]
    return shlex.join(words)


def _suited(built: Sequence[Any]) -> str | None:
    """The first embedded task that every form can run on; one whose steps can be judged where steps are named."""
    from truegain.core.errors import TruegainError
    from truegain.tasks import make
    from truegain.train.chain import check_form

    specs = ["sort", "chain,style=trace", "calculator", "search,style=trace", "program", "calculation", "bandit"]
    if any(getattr(one, "segment", ()) for one in built):
        specs = [specs[1], specs[0], *specs[2:]]
    for spec in specs:
        try:
            made, dataset, roles = make(spec), bool(getattr(built[0], "pair", ())), set[str]()
            for one in built:
                dataset, roles = check_form(one, made, (), dataset, roles)
        except TruegainError:
            continue
        return spec
    return None


def form(one: Any) -> dict[str, Any]:
    """A form: every component by stage, the columns that flow, all settings by their full path, roles and loop."""
    from truegain.core.forms import Loop
    from truegain.core.settings import settings

    members = list(_members(one))
    loop: Any = getattr(one, "loop", None)
    return {
        "form": type(one).__name__,
        "stages": [{"stage": stage, **_component(member)} for stage, member in members],
        "roles": {role: vars(facts) for role, facts in getattr(one, "roles", {}).items()},
        "columns": _columns(members),
        "settings": jsonable(settings(one)),
        "loop": {
            field: {"value": getattr(loop, field), "means": info.description}
            for field, info in (Loop.model_fields.items() if loop is not None else ())
        },
    }


def _members(one: Any) -> Iterator[tuple[str, Any]]:
    """(stage, member) in the order in which they run."""
    from truegain.core.forms import members

    for kind in ("sampler", "search", "score", "resample"):
        yield from ((kind, member) for member in members(getattr(one, kind, ())))
    yield from ((f"segment {to}", member) for to, member in getattr(one, "segment", {}).items())
    for kind in ("probe", "reward", "select"):
        yield from ((kind, member) for member in members(getattr(one, kind, ())))
    terms = getattr(one, "terms", ())
    for n, term in enumerate(terms):
        label = f"term {n} " if len(terms) > 1 else ""
        label += "" if term.role == "policy" else f"of {term.role} "
        for kind in ("credit", "weight", "surrogate"):
            yield from ((label + kind, member) for member in members(getattr(term, kind)))
    for kind in ("pair", "plan", "fold", "metric"):
        yield from ((kind, member) for member in members(getattr(one, kind, ())))


def _component(member: Any) -> dict[str, Any]:
    from truegain.core.component import knobs_of, spec_of

    spec = spec_of(member)
    return {
        "component": spec.full_name,
        "kind": spec.kind,
        "inputs": list(spec.inputs),
        "facts": list(spec.facts),
        "knobs": jsonable(knobs_of(member)),
        "cite": list(spec.cite),
        "doc": _prose(spec.function),
    }


def _columns(members: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Every column that a component names, who provides it and who reads it."""
    from truegain.core.columns import COLUMNS
    from truegain.core.component import spec_of

    readers: dict[str, list[str]] = {}
    for _, member in members:
        spec = spec_of(member)
        for name in spec.inputs:
            if name in COLUMNS:
                readers.setdefault(name, []).append(spec.full_name)
    return [
        {
            "name": c.name,
            "shape": c.shape,
            "kind": c.kind,
            "means": c.meaning,
            "from": c.provider,
            "read_by": readers[c.name],
        }
        for c in COLUMNS.values()
        if c.name in readers
    ]


def component(full_name: str) -> dict[str, Any]:
    """A component: its signature as columns, facts and knobs, its formula and its sources."""
    import truegain.recipes  # noqa: F401  (imports the rooms that recipes use)
    from truegain.cli.index import build_index
    from truegain.core.columns import COLUMNS
    from truegain.core.component import KINDS, REGISTRY

    if full_name not in REGISTRY:
        build_index()
    spec = REGISTRY[full_name]
    return {
        "what": "component",
        "name": full_name,
        "takes_gives": KINDS[spec.kind],
        **_component(spec.function),
        "columns": [COLUMNS[name].line() for name in spec.inputs if name in COLUMNS],
    }


def task(name: str) -> dict[str, Any]:
    """An embedded task: its keys, two problems with their answers, and a reference completion."""
    import random

    from truegain.tasks import STYLES, TASKS, make_one

    made = make_one(name)
    rules = TASKS[made.name]
    problems = [made.problem("train", i) for i in range(2)]
    return {
        "what": "task",
        "name": made.name,
        "level": made.level,
        "levels": list(rules.levels),
        "style": made.style,
        "styles": list(STYLES),
        "tool": rules.world is not None,
        "max_tokens": made.max_tokens,
        "doc": (inspect.getdoc(inspect.getmodule(rules.answer)) or "").strip(),
        "problems": [
            {
                "id": p.id,
                "prompt": p.prompt,
                "answer": p.answer,
                "demonstration": made.demonstration(p, random.Random(0)),
            }
            for p in problems
        ],
    }


def _prose(function: Any) -> str:
    """The docstring without its doctest."""
    return (inspect.getdoc(function) or "").partition("\n>>>")[0].strip()
