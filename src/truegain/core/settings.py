"""Dotted settings of a form: list them, read them, and make a variant with one changed.

A path is ``loop.NAME``, ``KIND.COMPONENT.KNOB`` (``credit.group_normalise.std``), ``term.N.scale``, ``role.NAME.lr``
and ``role.NAME.source``; ``term.N.KIND.COMPONENT.KNOB`` where several terms hold the same component. A last part
alone is enough when it is unique (``lr``, ``clip_high``). ``--set``, TOML files and controllers share this grammar.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from truegain.core.component import Member, knobs_of, spec_of
from truegain.core.errors import SettingError, nearest
from truegain.core.forms import Decode, Fit, Form, Loop, Measure, Stage, Term, Train, Watch, members

_STAGES: dict[type, tuple[str, ...]] = {
    Train: ("score", "resample", "probe", "reward", "select", "plan", "fold"),
    Fit: ("pair", "edit", "fold"),
    Decode: ("sampler", "search", "score"),
    Watch: ("fold",),
    Measure: ("metric",),
}
_TERM_STAGES = ("credit", "surrogate", "weight")


def settings(form: Form) -> dict[str, Any]:
    """Return every setting of a form by its full path, in reading order."""
    found: dict[str, Any] = {}
    if hasattr(form, "loop"):
        found.update({f"loop.{k}": v for k, v in cast(Loop, getattr(form, "loop")).model_dump().items()})  # noqa: B009
    for kind in _STAGES.get(type(form), ()):
        _list(found, kind, getattr(form, kind))
    if isinstance(form, Train | Decode):
        _list(found, "segment", tuple(form.segment.values()))
    if isinstance(form, Train | Fit):
        for n, term in enumerate(form.terms):
            found[f"term.{n}.scale"] = term.scale
            for kind in _TERM_STAGES:
                for member in members(getattr(term, kind)):
                    _list(found, _place(form, n, kind, member), member)
    if isinstance(form, Train | Fit | Decode):
        found.update({f"role.{name}.lr": role.lr for name, role in form.roles.items() if role.lr is not None})
        found.update({f"role.{name}.source": role.source for name, role in form.roles.items()})
    return found


def _place(form: Train | Fit, number: int, kind: str, member: Member) -> str:
    """``KIND``, or ``term.N.KIND`` for a component that several terms hold at that place."""
    name = spec_of(member).name
    holders = [t for t in form.terms if any(spec_of(m).name == name for m in members(getattr(t, kind)))]
    return kind if len(holders) == 1 else f"term.{number}.{kind}"


def _list(found: dict[str, Any], kind: str, stage: Stage) -> None:
    for member in members(stage):
        for knob, value in knobs_of(member).items():
            found.setdefault(f"{kind}.{spec_of(member).name}.{knob}", value)


def resolve(form: Form, path: str) -> str:
    """Return the full path a short form means. Raises SettingError when it is unknown or ambiguous."""
    legal = settings(form)
    if path in legal:
        return path
    found = [full for full in legal if full.endswith("." + path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingError(f"setting {path!r} is ambiguous: {', '.join(found)}; write one of them in full")
    hint = nearest(path, set(legal)) or nearest(path, {full.rpartition(".")[2] for full in legal})
    raise SettingError(f"unknown setting {path!r}{hint}; `truegain show RECIPE` lists all")


def with_setting(form: Form, path: str, value: Any) -> Form:
    """Return the form with one setting changed; a string is read as the default's type.

    Raises SettingError naming the setting for an unknown path or a value of the wrong type or out of bounds.
    """
    full = resolve(form, path)
    head, _, rest = full.partition(".")
    if head == "loop":
        loop = cast(Loop, getattr(form, "loop"))  # noqa: B009
        return cast(Form, dataclasses.replace(cast(Any, form), loop=_loop(loop, {rest: value})))
    if head == "role":
        name, _, field = rest.rpartition(".")
        roles = dict(cast(Train, form).roles)
        kind = float if field == "lr" else str
        typed = _typed(full, value, kind, getattr(roles[name], field))
        roles[name] = dataclasses.replace(roles[name], **{field: typed})
        return cast(Form, dataclasses.replace(cast(Any, form), roles=roles))
    if head == "term":
        number, _, field = rest.partition(".")
        terms = list(cast(Train, form).terms)
        terms[int(number)] = _term_changed(terms[int(number)], field, full, value)
        return cast(Form, dataclasses.replace(cast(Any, form), terms=tuple(terms)))
    name, _, knob = rest.partition(".")
    if head in _TERM_STAGES:
        changed = tuple(_term_with(term, head, full, name, knob, value) for term in cast(Train, form).terms)
        return cast(Form, dataclasses.replace(cast(Any, form), terms=changed))
    if head == "segment":
        segment = {to: _member_with(m, full, name, knob, value) for to, m in cast(Train, form).segment.items()}
        return cast(Form, dataclasses.replace(cast(Any, form), segment=segment))
    return cast(Form, dataclasses.replace(cast(Any, form), **{head: _stage_with(form, head, full, name, knob, value)}))


def _term_changed(term: Term, field: str, full: str, value: Any) -> Term:
    if field == "scale":
        return dataclasses.replace(term, scale=_typed(full, value, float, 1.0))
    kind, name, knob = field.split(".")
    return _term_with(term, kind, full, name, knob, value)


def _term_with(term: Term, kind: str, full: str, name: str, knob: str, value: Any) -> Term:
    return dataclasses.replace(term, **{kind: _stage_with(term, kind, full, name, knob, value)})


def _stage_with(owner: object, kind: str, full: str, name: str, knob: str, value: Any) -> tuple[Member, ...]:
    return tuple(_member_with(member, full, name, knob, value) for member in members(getattr(owner, kind)))


def _member_with(member: Member, full: str, name: str, knob: str, value: Any) -> Member:
    spec = spec_of(member)
    if spec.name != name:
        return member
    default = spec.knobs[knob]
    kind = typing.get_type_hints(spec.function).get(knob, type(default))
    return functools.partial(member, **{knob: _typed(full, value, kind, default)})


def _typed(full: str, value: Any, kind: Any, default: Any) -> Any:
    """Check a value against the knob's annotation. A string is read as it, as JSON, or ``none`` as None."""
    adapter = TypeAdapter[Any](kind)
    ways = [lambda: adapter.validate_python(value)]
    if isinstance(value, str):
        text = "null" if value.lower() == "none" else value
        ways.append(lambda: adapter.validate_json(text))
    why = ""
    for way in ways:
        try:
            read = way()
        except ValidationError as error:
            why = why or error.errors()[0]["msg"]
            continue
        if not (isinstance(read, float) and math.isnan(read)):
            return read
        why = "it must be a number"
    raise SettingError(f"setting {full} = {value!r}: {why[:1].lower()}{why[1:]}; the default is {default!r}")


def _loop(loop: Loop, changes: Mapping[str, Any]) -> Loop:
    try:
        return Loop.model_validate({**loop.model_dump(exclude_unset=True), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SettingError(f"setting loop.{place} = {first['input']!r}: {first['msg'].lower()}") from None


def loop_with(form: Any, **changes: Any) -> Any:
    """Return the form with loop settings changed; None leaves one as it is."""
    given = {name: value for name, value in changes.items() if value is not None}
    for name in given:
        if name not in Loop.model_fields:
            raise SettingError(f"unknown setting loop.{name}{nearest(name, set(Loop.model_fields))}")
    return dataclasses.replace(form, loop=_loop(form.loop, given))
