"""Systems: recipes registered by name, with their place in the catalog and what they depart from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from truegain.core.errors import SettingError, nearest
from truegain.core.forms import FORMS, Form

R = TypeVar("R", bound=Callable[..., Any])


@dataclass(frozen=True)
class System:
    """A published system: its recipe and what `truegain list` and `truegain show` print of it."""

    name: str
    slot: str
    paper: str
    cite: str
    differs: str
    recipe: Callable[..., Form | tuple[Form, ...]]

    @property
    def summary(self) -> str:
        """First line of the recipe's docstring."""
        return (inspect.getdoc(self.recipe) or "").partition("\n")[0]

    @property
    def knobs(self) -> dict[str, Any]:
        """The recipe's parameters and their defaults."""
        return {name: p.default for name, p in inspect.signature(self.recipe).parameters.items()}


SYSTEMS: dict[str, System] = {}
"""Every system by name, filled as `truegain.recipes` is imported."""


def system(slot: str, *, paper: str, cite: str, differs: str = "", name: str = "") -> Callable[[R], R]:
    """Register a recipe. ``slot`` is its room in the catalog; ``paper`` its id; ``differs`` where it departs from it.

    The name is the function's with ``_`` as ``-``, unless given. Every parameter needs a default. Raises SettingError
    for an illegal name, a name that another recipe has, or a parameter without a default.
    """

    def register(recipe: R) -> R:
        label = name or recipe.__name__.replace("_", "-")
        if not re.fullmatch(r"[a-z0-9.-]+", label):
            raise SettingError(f"system name {label!r} must be lower-case letters, digits, '.' and '-'")
        found = System(label, slot, paper, cite, differs, recipe)
        for knob, default in found.knobs.items():
            if default is inspect.Parameter.empty:
                raise SettingError(f"recipe {label!r}: knob {knob!r} needs a default")
        other = SYSTEMS.get(label, found).recipe
        if (other.__module__, other.__qualname__) != (recipe.__module__, recipe.__qualname__):
            raise SettingError(f"system name {label!r} belongs to {other.__module__} already; give another name=")
        SYSTEMS[label] = found
        return recipe

    return register


def build(name: str, **knobs: Any) -> tuple[Form, ...]:
    """Build a recipe's forms. Raises SettingError for an unknown system or knob, with the nearest legal name."""
    if name not in SYSTEMS:
        raise SettingError(f"unknown recipe {name!r}{nearest(name, set(SYSTEMS))}; `truegain list` shows all")
    found = SYSTEMS[name]
    for knob in knobs:
        if knob not in found.knobs:
            has = ", ".join(found.knobs) or "none"
            raise SettingError(f"recipe {name!r} has no knob {knob!r}{nearest(knob, set(found.knobs))}; it has {has}")
    out = found.recipe(**knobs)
    forms = out if isinstance(out, tuple) else (out,)
    for form in forms:
        if not isinstance(form, FORMS):
            raise SettingError(f"recipe {name!r} returned a {type(form).__name__}, none of the six forms")
    return forms
