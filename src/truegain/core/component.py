"""Components: plain functions whose parameter names are their wiring, their schema and their documentation.

`@component(kind, cite=...)` checks a signature when it is imported and returns the function unchanged. Parameters
before ``*`` are names of columns; after it stand knobs with defaults and loop facts (`truegain.core.columns.FACTS`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from truegain.core.columns import COLUMNS, COSTLY, FACTS, GRADIENT
from truegain.core.errors import WiringError, nearest

Member = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])

KINDS: dict[str, str] = {
    "score": "(problem, rollout) -> the facts it fills, or an abstention",
    "resample": "(roles, draw, rollouts, state) -> rows to add, numbers of rows to drop, state",
    "segment": "(text, spans) -> an id per token: steps, turns or parts",
    "probe": "(roles, draw, rollouts, columns) -> the columns it fills, by forcing or continuing from a prefix",
    "reward": "columns -> [B], one named reward; naming `reward`, the sum so far, or `reward_parts` modifies it",
    "select": "columns -> keep[B], 0 or 1",
    "credit": "columns -> [B,T]; naming `advantage` makes it a modifier",
    "weight": "columns -> [B,T], the numbers that sum a per-token loss to the scalar",
    "surrogate": "columns -> [B,T], the loss of each token",
    "plan": "columns -> [N,B,T] bool, ordered parts, each one optimiser step",
    "pair": "columns of both completions, `chosen_NAME` and `rejected_NAME`, a row per pair -> [N]",
    "edit": "(text, rng) -> text, a completion to learn, anew each time it is used",
    "sampler": "logits (and history[B,t], drawn so far) -> logits; with `layer`, hidden states and a state -> both",
    "search": "(roles, draw, problems, rollouts) -> Tree, or a list of rollouts and pairs",
    "fold": "init() -> state; update(state, *, line, columns) -> (state, settings for the next step)",
    "metric": "arrays -> numbers",
}

# Column kinds: what the value so far is called, when a member that names it is a modifier.
_OWN_OUTPUT = {"reward": "reward", "credit": "advantage"} | dict.fromkeys(("select", "weight", "surrogate", "plan"))
# Kinds that work on text, models or records: what their parameters may be called beside columns.
_OFFERED: dict[str, frozenset[str]] = {
    "score": frozenset({"problem", "rollout"}),
    "resample": frozenset({"roles", "draw", "rollouts", "state"}),
    "segment": frozenset({"text", "spans"}),
    "probe": frozenset({"roles", "draw", "rollouts"}) | frozenset(COLUMNS),
    "edit": frozenset({"text", "rng"}),
    "sampler": frozenset({"logits", "history", "hidden", "peak", "text", "state"}),
    "search": frozenset({"roles", "draw", "problems", "rollouts"}),
    "fold": frozenset({"line"}) | frozenset(COLUMNS),
    "pair": frozenset(f"{side}_{name}" for side in ("chosen", "rejected") for name in COLUMNS),
}
_FILLING = ("score", "probe")
_LATER = {
    "reward": GRADIENT | {"advantage", "target", "keep"},
    "select": GRADIENT | {"advantage", "target", "keep"},
    "credit": GRADIENT | {"target"},
    "weight": GRADIENT,
    "surrogate": frozenset[str](),
    "plan": GRADIENT,
}


@dataclass(frozen=True)
class Spec:
    """What the registry knows of a component, all of it read off its signature and docstring."""

    name: str
    kind: str
    room: str
    inputs: tuple[str, ...]
    knobs: Mapping[str, Any]
    facts: tuple[str, ...]
    cite: tuple[str, ...]
    function: Member
    modifies: str | None = None
    fills: tuple[str, ...] = ()
    renew: bool = False

    @property
    def full_name(self) -> str:
        """``room.name``, as listings show it."""
        return f"{self.room}.{self.name}"

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


REGISTRY: dict[str, Spec] = {}
"""Every component by ``room.name``, filled as the rooms are imported."""

_BY_FUNCTION: dict[int, Spec] = {}


def component(
    kind: str, *, cite: str | tuple[str, ...], fills: str | tuple[str, ...] = (), renew: bool = False
) -> Callable[[F], F]:
    """Register a function as a component. Raises WiringError for an illegal signature.

    ``cite`` names the source: a paper id (``arXiv:2402.03300``), a library file, or ``truegain`` for our own.
    ``fills`` names the columns that a score or a probe provides. A plan with ``renew`` has ``old_logp`` computed anew
    before each of its steps, and ``shift`` says what the earlier ones did. A fold is a frozen dataclass with
    keyword-only knobs and the methods ``init()`` and ``update(state, *, ...)``, whose keywords name columns, loop facts
    and ``line``, the step's metrics.

    >>> @component("reward", cite="truegain")
    ... def doctest_reward(correct, *, scale=1.0):
    ...     "Scaled outcome."
    ...     return correct * scale
    >>> spec_of(doctest_reward).inputs, dict(spec_of(doctest_reward).knobs)
    (('correct',), {'scale': 1.0})
    >>> del REGISTRY[spec_of(doctest_reward).full_name]
    """

    def register(function: F) -> F:
        sources, filled = (cite,) if isinstance(cite, str) else cite, (fills,) if isinstance(fills, str) else fills
        spec = _read(kind, function, sources, filled, renew)
        REGISTRY[spec.full_name] = spec
        _BY_FUNCTION[id(function)] = spec
        return function

    return register


def _read(kind: str, function: Member, cite: tuple[str, ...], fills: tuple[str, ...], renew: bool) -> Spec:
    name = getattr(function, "__name__", repr(function))
    where = f"component {name!r}"
    if kind not in KINDS:
        raise WiringError(f"{where}: unknown kind {kind!r}{nearest(kind, set(KINDS))}")
    module = function.__module__.split(".")
    room = module[2] if module[:2] == ["truegain", "methods"] else module[1] if len(module) > 1 else module[0]
    if not cite or not all(cite):
        raise WiringError(f"{where}: cite is empty; name a paper, a library's file, or 'truegain' for our own")
    if bool(fills) != (kind in _FILLING):
        raise WiringError(f"{where}: a {kind} {'must name' if kind in _FILLING else 'has no'} columns that it fills")
    if renew and kind != "plan":
        raise WiringError(f"{where}: only a plan can renew, not a {kind}")
    inputs, knobs, facts = _signature(kind, function, where)
    for column in (*inputs, *fills):
        legal = _OFFERED.get(kind, frozenset(COLUMNS)) if column in inputs else frozenset(COLUMNS)
        if kind != "metric" and kind in (*_OWN_OUTPUT, *_OFFERED) and column not in legal:
            raise WiringError(f"{where}: {column!r} is no column{nearest(column, set(legal))}; knobs stand after *")
        # A sampler's `hidden` is not the column: it is what a block hands on while a token is read.
        if column in COSTLY and kind not in ("weight", "metric", "sampler"):
            raise WiringError(f"{where}: {column!r} is made for one optimiser step; only a weight can name it")
        if column in _LATER.get(kind, ()):
            raise WiringError(f"{where}: a {kind} cannot name {column!r}, which exists only later")
    modifies = _OWN_OUTPUT[kind] if kind in _OWN_OUTPUT and _OWN_OUTPUT[kind] in inputs else None
    if kind == "reward" and "reward_parts" in inputs:
        modifies = "reward"
    return Spec(name, kind, room, inputs, knobs, facts, cite, function, modifies, fills, renew)


def _signature(kind: str, function: Member, where: str) -> tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]:
    """Inputs, knobs and loop facts, read off the parameters; a fold's inputs and facts are those of ``update``."""
    inputs: list[str] = []
    knobs: dict[str, Any] = {}
    facts: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            inputs.append(parameter.name)
        elif parameter.name in FACTS:
            facts.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty:
            raise WiringError(
                f"{where}: knob {parameter.name!r} has no default and is no loop fact ({', '.join(FACTS)})"
            )
        else:
            knobs[parameter.name] = parameter.default
    if kind == "fold":
        if inputs or not (hasattr(function, "init") and hasattr(function, "update")):
            raise WiringError(f"{where}: a fold is a class with keyword-only knobs and the methods init and update")
        for parameter in inspect.signature(cast(Any, function).update).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                (facts if parameter.name in FACTS else inputs).append(parameter.name)
    return tuple(inputs), knobs, tuple(facts)


def spec_of(member: Member) -> Spec:
    """Return the spec behind a component or a `functools.partial` of one. Raises WiringError for anything else."""
    function: Any = member
    while isinstance(function, functools.partial):
        function = cast("functools.partial[Any]", function).func
    if id(function) not in _BY_FUNCTION:
        name = getattr(function, "__name__", repr(function))
        raise WiringError(f"{name!r} is not a registered component; decorate it with @component(kind, cite=...)")
    return _BY_FUNCTION[id(function)]


def knobs_of(member: Member) -> dict[str, Any]:
    """Return the knobs as they stand: the defaults, overlaid by the partial's keywords."""
    return {**spec_of(member).knobs, **given_knobs(member)}


def given_knobs(member: Member) -> dict[str, Any]:
    """Return the knobs that a partial sets; none for a bare component."""
    return dict(cast("functools.partial[Any]", member).keywords) if isinstance(member, functools.partial) else {}


def check_member(member: Member, kind: str, where: str) -> Spec:
    """Check that a form's field holds a component of the right kind with known knobs. Raises WiringError."""
    spec = spec_of(member)
    if spec.kind != kind:
        raise WiringError(f"{where}: {spec.full_name} is a {spec.kind}, not a {kind}")
    if cast("tuple[Any, ...]", getattr(member, "args", ())):
        raise WiringError(f"{where}: {spec.full_name} is given positional arguments; name its knobs")
    for knob in given_knobs(member):
        if knob not in spec.knobs:
            hint = nearest(knob, set(spec.knobs))
            has = ", ".join(spec.knobs) or "none"
            raise WiringError(f"{where}: {spec.full_name} has no knob {knob!r}{hint}; it has {has}")
    return spec


def call(member: Member, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Call a component with the columns and facts that its signature names.

    Returns its value and its logs. Raises WiringError naming the first missing column, the component, and who provides
    the column.
    """
    spec = spec_of(member)
    for name in spec.inputs:
        if name not in columns:
            own = name.removeprefix("chosen_").removeprefix("rejected_") if spec.kind == "pair" else name
            provider = COLUMNS[own].provider if own in COLUMNS else "nobody"
            raise WiringError(f"{spec.full_name} needs column {name!r}, which comes from {provider}; it is not there")
    for name in spec.facts:
        if name not in facts:
            raise WiringError(f"{spec.full_name} needs the loop fact {name!r}, which this host does not offer")
    out = member(**{n: columns[n] for n in spec.inputs}, **{n: facts[n] for n in spec.facts})
    if isinstance(out, tuple):
        value, logs = cast("tuple[Any, dict[str, Any]]", out)
        return value, logs
    return out, {}
