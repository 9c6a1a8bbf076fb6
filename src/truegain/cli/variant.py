"""``--set`` on a recipe: its knobs first, then any setting of the form it returns."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from truegain.core.errors import SettingError, nearest


def assignments(texts: list[str] | None) -> dict[str, str]:
    """``["lr=1e-4"]`` as ``{"lr": "1e-4"}``; the last of several wins. Raises SettingError for a text without ``=``."""
    found: dict[str, str] = {}
    for text in texts or ():
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise SettingError(f"--set {text!r}: write PATH=VALUE, such as lr=1e-4")
        found[path.strip()] = value.strip()
    return found


def check_recipe(name: str) -> None:
    """Refuse an unknown recipe by the shipped index, without importing torch."""
    from truegain.cli.index import load_index

    legal = {row["name"] for row in load_index()["systems"]}
    if name not in legal:
        raise SettingError(f"unknown recipe {name!r}{nearest(name, legal)}; `truegain list` shows all")


def check_task(spec: str) -> None:
    """Refuse an unknown task, a key that it does not have or a file that is not there, without importing torch."""
    from truegain.tasks.mixture import check_names

    check_names(spec)


def forms(recipe: str, changes: Mapping[str, Any]) -> tuple[Any, ...]:
    """The recipe's forms with the changes made. Raises SettingError for an unknown recipe, knob, setting or value.

    A name that the recipe has as a knob is that knob; any other is a setting of its forms, changed in each that has it,
    or in the N-th alone where it is written ``N.PATH``.
    """
    import truegain.recipes  # noqa: F401  (fills SYSTEMS)
    from truegain.core.system import SYSTEMS, build

    check_recipe(recipe)
    own = SYSTEMS[recipe].knobs
    knobs = {name: _knob(SYSTEMS[recipe].recipe, name, value) for name, value in changes.items() if name in own}
    built = build(recipe, **knobs)
    for path, value in changes.items():
        if path not in own:
            built = _changed(built, path, value, own)
    return built


def _changed(built: tuple[Any, ...], path: str, value: Any, knobs: Mapping[str, Any]) -> tuple[Any, ...]:
    from truegain.core.settings import settings, with_setting

    number, dot, rest = path.partition(".")
    alone = int(number) if dot and number.isdigit() and 1 <= int(number) <= len(built) else None
    path = path if alone is None else rest
    known = [(alone is None or n == alone) and _resolves(form, path) for n, form in enumerate(built, 1)]
    if not any(known):
        legal = {full for form in built for full in settings(form)}
        hint = nearest(path, legal | {full.rpartition(".")[2] for full in legal} | set(knobs))
        raise SettingError(f"unknown setting {path!r}{hint}; `truegain show RECIPE` lists all")
    return tuple(with_setting(form, path, value) if has else form for form, has in zip(built, known, strict=True))


def _resolves(form: Any, path: str) -> bool:
    from truegain.core.settings import resolve

    try:
        resolve(form, path)
    except SettingError as error:
        if "ambiguous" in str(error):
            raise
        return False
    return True


def _knob(recipe: Any, name: str, value: Any) -> Any:
    """A knob's value by the recipe's annotation; a string is read as it, as JSON, or ``none`` as None."""
    from pydantic import TypeAdapter, ValidationError

    default = inspect.signature(recipe).parameters[name].default
    adapter: Any = TypeAdapter(typing.get_type_hints(recipe).get(name, type(default)))
    try:
        return adapter.validate_python(None if isinstance(value, str) and value.lower() == "none" else value)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
    if isinstance(value, str):
        try:
            return adapter.validate_json(value)
        except ValidationError:
            pass
    raise SettingError(f"setting {name} = {value!r}: {why[:1].lower()}{why[1:]}; the default is {default!r}")
