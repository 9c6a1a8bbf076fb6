"""What each host can hand to a component, and so which components run in it.

A component says in its signature what it takes (`truegain.core.component`). An `Offer` says what a host has: for every
column what it takes to be there, the loop facts, and the kinds of components it has a place for. The rest is
comparison; a component that a host cannot feed is refused in one sentence that names the column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from truegain.core.columns import COLUMNS
from truegain.core.component import Member, Spec, spec_of
from truegain.core.errors import SettingError, WiringError, nearest
from truegain.core.forms import Train, members

STAGES = ("score", "resample", "probe", "reward", "select", "plan", "fold")


@dataclass(frozen=True)
class Offer:
    """What a host has for components. ``package`` is its name on PyPI, ``tested`` the version this was read from.

    ``columns`` maps a column to what has to be set for it to be there, an empty string where nothing has to be; ``why``
    says of some absent columns and kinds why the host cannot have them. ``kinds`` maps a kind to where it runs.
    """

    host: str
    package: str
    tested: str
    kinds: Mapping[str, str]
    columns: Mapping[str, str]
    facts: frozenset[str] = frozenset()
    why: Mapping[str, str] = field(default_factory=dict)

    def installed(self) -> str | None:
        """The version that is installed here, None without one."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Refusal:
    """A component that a host cannot run: ``missing`` is the column, fact or kind that it lacks."""

    component: str
    missing: str
    sentence: str


def offer(host: str) -> Offer:
    """The offer of a host. Raises SettingError naming the nearest one.

    >>> offer("verl").package
    'verl'
    """
    if host not in OFFERS:
        raise SettingError(f"unknown host {host!r}{nearest(host, set(OFFERS))}; there are {', '.join(OFFERS)}")
    return OFFERS[host]


def refusal(spec: Spec, given: Offer, more: frozenset[str] = frozenset()) -> Refusal | None:
    """Why the host cannot run the component, None if it can. ``more`` are columns that a form fills by itself.

    >>> from truegain.methods import objective
    >>> refusal(spec_of(objective.ppo_clip), offer("verl"))
    >>> print(refusal(spec_of(objective.entropy_bonus), offer("verl")).sentence)
    objective.entropy_bonus needs column 'entropy', which verl 0.9.1 does not supply: it comes from the learner
    """
    name = f"{given.host} {given.tested}"
    if spec.kind not in given.kinds:
        reason = given.why.get(spec.kind, f"it has no place for one; it runs {', '.join(given.kinds)}")
        return Refusal(
            spec.full_name, spec.kind, f"{spec.full_name} is a {spec.kind}, which {name} cannot run: {reason}"
        )
    for column in spec.inputs:
        if column in COLUMNS and column not in given.columns and column not in more:
            reason = given.why.get(column, f"it comes from {COLUMNS[column].provider}")
            sentence = f"{spec.full_name} needs column {column!r}, which {name} does not supply: {reason}"
            return Refusal(spec.full_name, column, sentence)
    for fact in spec.facts:
        if fact not in given.facts:
            return Refusal(
                spec.full_name, fact, f"{spec.full_name} needs the loop fact {fact!r}, which {name} does not offer"
            )
    return None


def conditions(spec: Spec, given: Offer) -> tuple[str, ...]:
    """What has to be set in the host for the columns that the component takes."""
    return tuple(dict.fromkeys(given.columns[name] for name in spec.inputs if given.columns.get(name)))


def form_members(form: Train) -> Iterator[tuple[str, Member]]:
    """Every component of a form with the stage it stands in."""
    for stage in STAGES:
        yield from ((stage, member) for member in members(getattr(form, stage)))
    yield from (("segment", member) for member in form.segment.values())
    for term in form.terms:
        for stage in ("credit", "surrogate", "weight"):
            yield from ((stage, member) for member in members(getattr(term, stage)))


def refusals(form: Train, given: Offer) -> list[Refusal]:
    """Every component of a form that the host cannot run, in the form's order."""
    filled = frozenset(form.segment) | frozenset({"reward", "reward_parts", "advantage"})
    found = [refusal(spec_of(member), given, filled) for _, member in form_members(form)]
    return [one for one in found if one is not None]


def check(form: Train, given: Offer) -> None:
    """Refuse a form that the host cannot run as a whole. Raises WiringError with one line per component."""
    found = refusals(form, given)
    if found:
        raise WiringError("\n".join(one.sentence for one in found))


_ALWAYS = dict.fromkeys(("tokens", "mask", "group", "reward", "reward_parts", "advantage", "logp"), "")

OFFERS: dict[str, Offer] = {
    "trl": Offer(
        host="trl",
        package="trl",
        tested="1.16.0",
        kinds={
            "reward": "_calculate_rewards",
            "segment": "_generate_and_score_completions",
            "credit": "_generate_and_score_completions",
            "weight": "_generate_and_score_completions",
            "surrogate": "_compute_loss",
        },
        columns={
            **_ALWAYS,
            "truncated": "",
            "turn": "",
            "step": "a segment in the recipe",
            "part": "a segment in the recipe",
            "old_logp": "",
            "entropy": "",
            "ref_logp": "",
            "engine_logp": "use_vllm=True",
            "score": "reward_funcs",
            "correct": "reward_funcs",
        },
        facts=frozenset({"progress", "step_index", "max_tokens", "step_size"}),
    ),
    "verl": Offer(
        host="verl",
        package="verl",
        tested="0.9.1",
        kinds={
            "credit": "register_adv_est",
            "surrogate": "register_policy_loss",
        },
        columns={"mask": "", "group": "", "reward": "", "advantage": "", "turn": "", "old_logp": "", "logp": ""},
    ),
    "verifiers": Offer(host="verifiers", package="verifiers", tested="0.4.0", kinds={}, columns={}),
}
"""What was read from each host at its tested version; the contract tests hold these against the installed one."""
