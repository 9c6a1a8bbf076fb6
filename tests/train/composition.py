"""Recipes taken apart and put together anew: the credit of one system, the objective of another, and so on."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core import arithmetic, component
from truegain.core.component import Member, knobs_of, spec_of
from truegain.core.errors import WiringError
from truegain.core.forms import Loop, Term, Train, members
from truegain.core.system import SYSTEMS, build
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train import drawing, shaping
from truegain.train.folder import RunFolder
from truegain.train.folds import begin_folds
from truegain.train.models import load_models
from truegain.train.online import check, one_step
from truegain.train.run import fitted
from truegain.train.setup import Setup, State, form_now

TASKS = ("chain,level=2,style=trace", "calculator", "program")
SMALL = Loop(steps=4, prompts=2, samples=4, temperature=1.3, lr=1e-4, micro_tokens=1 << 20)
_BEFORE_CREDIT = ("score", "resample", "probe", "reward", "select")


def trained_systems() -> dict[str, Train]:
    """Every recipe that is one online form, but for those that ask for a folder that another command made."""
    found: dict[str, Train] = {}
    for name in sorted(SYSTEMS):
        if SYSTEMS[name].recipe.__module__.startswith("truegain."):
            forms = build(name)
            if len(forms) == 1 and isinstance(forms[0], Train) and not _of_folders(forms[0]):
                found[name] = forms[0]
    return found


def _of_folders(form: Train) -> bool:
    return any(role.source not in ("init", "policy") for role in form.roles.values())


def by_parts(form: Train) -> bool:
    """Whether weights or multipliers, one per named reward, tie the form to its own rewards."""
    members_ = [*members(form.fold), *members(form.reward), *(m for t in form.terms for m in members(t.credit))]
    return any("reward_parts" in spec_of(m).inputs for m in members_)


SYSTEM_FORMS = trained_systems()


def policy_term(form: Train, *, credited: bool = False) -> Term | None:
    """The form's first term of the policy; with ``credited``, the first that has a credit."""
    return next((t for t in form.terms if t.role == "policy" and (t.credit or not credited)), None)


@dataclass(frozen=True)
class Composition:
    """Whose parts: ``credit`` gives everything up to the credit, ``controller`` the plan and the folds."""

    credit: str
    objective: str
    weight: str
    controller: str

    @property
    def name(self) -> str:
        return f"{self.credit}+{self.objective}+{self.weight}+{self.controller}"

    def form(self) -> Train:
        """The parts in one form, with what they name from the systems that they come from."""
        giver, loser, weigher, steerer = (
            SYSTEM_FORMS[n] for n in (self.credit, self.objective, self.weight, self.controller)
        )
        credited, lossy, weighed = policy_term(giver, credited=True), policy_term(loser), policy_term(weigher)
        assert credited and lossy and weighed
        # Multipliers are one per named reward: who steers them says which rewards there are.
        by_reward = by_parts(steerer)
        needs_shift = any("shift" in spec_of(m).inputs for m in members(weighed.weight))
        form = replace(
            giver,
            terms=(Term(credit=credited.credit, surrogate=lossy.surrogate, weight=weighed.weight),),
            plan=weigher.plan if needs_shift else steerer.plan,
            fold=steerer.fold,
            reward=steerer.reward if by_reward else giver.reward,
            roles={},
            loop=SMALL.model_copy(update={"samples": 1}) if _alone(giver) else SMALL,
        )
        form = _with_steered(form, steerer)
        for source in (giver, loser, weigher, steerer):
            form = _with_named(form, source)
        return form


def _alone(form: Train) -> bool:
    """Whether a resampler makes each group of one sample's forks."""
    return any(spec_of(m).name == "early_exits" for m in members(form.resample))


def _with_steered(form: Train, steerer: Train) -> Train:
    """Add the components that the steerer's folds set: a controller without what it controls is refused."""
    text = " ".join(str(value) for fold in members(steerer.fold) for value in knobs_of(fold).values())
    text += " ".join(str(getattr(fold(), "settings", "")) for fold in members(steerer.fold))
    asked = set(re.findall(r"[a-z_]+", text))
    for kind in _BEFORE_CREDIT:
        more = tuple(m for m in members(getattr(steerer, kind)) if spec_of(m).name in asked)
        form = _adding(form, kind, more)
    term = policy_term(steerer)
    assert term is not None
    (own,) = form.terms
    for kind in ("credit", "surrogate", "weight"):
        more = tuple(m for m in members(getattr(term, kind)) if spec_of(m).name in asked)
        had = members(getattr(own, kind))
        names = {spec_of(m).name for m in had}
        own = replace(own, **{kind: (*(m for m in more if spec_of(m).name not in names), *had)})
    return replace(form, terms=(own,))


def _adding(form: Train, kind: str, more: Sequence[Member]) -> Train:
    had = members(getattr(form, kind))
    names = {spec_of(m).full_name for m in had}
    new = tuple(m for m in more if spec_of(m).full_name not in names)
    # What a component that is there already names has to come before it.
    return replace(form, **{kind: (*new, *had) if kind == "probe" else (*had, *new)})


def _with_named(form: Train, source: Train) -> Train:
    """Add the source's segments, scores, probes and roles that fill a column which the form names and lacks."""
    for _ in range(2):  # a probe may itself name a segment
        there = shaping.available(replace(form, segment=form.segment))
        wanted = arithmetic.named_columns(form) - there
        form = replace(form, segment={**{k: m for k, m in source.segment.items() if k in wanted}, **form.segment})
        for kind in ("score", "probe"):
            stage = members(getattr(source, kind))
            form = _adding(form, kind, [m for m in stage if set(spec_of(m).fills) & wanted])
        drawn = {knobs_of(m).get("role") for stage in (form.probe, form.resample) for m in members(stage)}
        roles = {n: r for n, r in source.roles.items() if n in drawn or ({r.fills} | _with_value(r.fills)) & wanted}
        extra = tuple(t for t in source.terms if t.role in roles)
        if not set(roles) <= set(form.roles):
            # The terms of a role that trains come with it.
            form = replace(form, roles={**roles, **form.roles}, terms=(*form.terms, *extra))
    return form


def _with_value(column: str) -> set[str]:
    return {"old_value", "old_values"} if column == "value" else set()


made_task = functools.cache(make)


def task_for(form: Train) -> str | None:
    """The first task that supplies what the form names; None where no single one does."""
    # Calls are matched on any task, but only one with tools has some.
    tools = "turn_reward" in arithmetic.named_columns(form)
    for task in TASKS[1:2] if tools else TASKS:
        with contextlib.suppress(WiringError):
            check(form, made_task(task))
            return task
    return None


def compositions() -> dict[Composition, str]:
    """Every system once as the giver of credit, with parts of three others, on a task that can feed them."""
    givers = [n for n, f in SYSTEM_FORMS.items() if policy_term(f, credited=True)]
    steerers = [n for n, f in SYSTEM_FORMS.items() if members(f.fold)]
    every = list(SYSTEM_FORMS)
    found: dict[Composition, str] = {}
    for i, giver in enumerate(givers):
        for shift in range(len(every)):
            objective, weight = every[(i + 7 + shift) % len(every)], every[(i + 19 + shift) % len(every)]
            steerer = steerers[(i + shift) % len(steerers)]
            if _clash(SYSTEM_FORMS[giver], SYSTEM_FORMS[steerer]):
                continue
            one = Composition(giver, objective, weight, steerer)
            if len({giver, objective, weight, steerer}) == 4 and (task := task_for(one.form())):
                found[one] = task
                break
    return found


def _clash(giver: Train, steerer: Train) -> bool:
    """Parts that say so themselves when they are put together: two that own the rewards or the groups, or a resampler
    that wants rewards before the probes that they need."""
    if by_parts(giver) and _steers_rewards(steerer):
        return True
    filled = {name for m in members(giver.probe) for name in spec_of(m).fills}
    early = any(set(spec_of(m).inputs) & filled for m in members(giver.reward))
    return bool(members(steerer.resample)) and (early or _alone(giver))


def _steers_rewards(form: Train) -> bool:
    text = " ".join(str(v) for fold in members(form.fold) for v in knobs_of(fold).values())
    return by_parts(form) or any(spec_of(m).name in text for m in members(form.reward))


# Watching a run


@dataclass
class Heard:
    """One call of a component: what it was given by name, and what it gave."""

    spec: component.Spec
    given: dict[str, Any]
    gave: Any


@dataclass
class Run:
    """Two steps: their lines, and the calls of each."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    steps: list[list[Heard]] = field(default_factory=list)
    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def of(self, kind: str, step: int = 0) -> list[Heard]:
        return [h for h in self.steps[step] if h.spec.kind == kind]


@contextlib.contextmanager
def listening(heard: list[Heard], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Note every call of a component at the component itself, behind the wiring."""

    def spy(member: Member, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        spec = spec_of(member)

        def recorded(*args: Any, **given: Any) -> Any:
            assert not args, "components are called by keyword alone"
            gave = member(**given)
            heard.append(Heard(spec, given, gave[0] if isinstance(gave, tuple) else gave))
            return gave

        component._BY_FUNCTION[id(recorded)] = spec
        try:
            return component.call(recorded, columns, facts)
        finally:
            del component._BY_FUNCTION[id(recorded)]

    with patch.context() as patched:
        for module in (arithmetic, shaping, drawing):
            patched.setattr(module, "call", spy)
        yield


def watched(form: Train, task: str, folder: Any, patch: pytest.MonkeyPatch, steps: int = 2) -> Run:
    """So many real steps of the loop on the embedded model."""
    made, run = made_task(task), Run()
    form = fitted(form, made)
    with RunFolder(folder) as held:
        setup = Setup(form, Policy.load("tiny"), made, held)
        check(form, made)
        models = load_models(form, setup.policy, setup.policy.reference())
        state = State(resample=[None] * len(members(form.resample)), fold=begin_folds(form))
        for _ in range(steps):
            heard: list[Heard] = []
            with listening(heard, patch):
                run.lines.append(one_step(replace(setup, form=form_now(setup, state)), models, state))
            run.steps.append(heard)
            run.weights.append({n: p.detach().clone() for n, p in setup.policy.model.named_parameters()})
    return run
