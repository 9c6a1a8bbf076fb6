"""What the verl plugin registers, and the TOML file that sets its knobs. Nothing here imports verl.

verl refuses keys that its configuration does not know, so ours come from the file that ``TRUEGAIN_VERL_CONFIG`` names:
a table per component or recipe, with its knobs or, for a recipe, any setting of its form. A component's table may also
say what runs ``with`` it before it in its stage, and which ``rewards`` are added to verl's own::

    max_tokens = 4096
    dense_rewards = true

    [dapo]
    clip_high = 0.3

    [whiten]
    with = ["group_normalise"]
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import truegain.recipes  # noqa: F401  (fills the registries)
from truegain.core.columns import COLUMNS
from truegain.core.component import REGISTRY, Member, Spec, knobs_of, spec_of
from truegain.core.errors import DataError, SettingError, TruegainError, nearest
from truegain.core.forms import Form, Stage, Term, Train, members
from truegain.core.settings import settings, with_setting
from truegain.core.system import SYSTEMS, build
from truegain.hosts.offers import Offer, form_of, offer, refusal, refusals
from truegain.hosts.verl_names import DENSE, PLACES, VARIABLE, registered
from truegain.hosts.verl_settings import Entry, asks_of

_AROUND = ("with", "rewards")
_SCORE = "compute_score"
_NO_BASE = (
    f"{{}} changes an advantage and makes none; name what makes it in the file of {VARIABLE}: "
    '[{}] with = ["group_normalise"]'
)

Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Config:
    """The file as it was read. ``path`` is None without one."""

    path: Path | None = None
    max_tokens: int | None = None
    tables: Tables = field(default_factory=dict)
    score: Mapping[str, Any] | None = None
    dense_rewards: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """The loop facts that the file states."""
        return {} if self.max_tokens is None else {"max_tokens": self.max_tokens}


def read(path: str | os.PathLike[str] | None = None) -> Config:
    """Read the file, by default the one that the variable names; without one everything stands at its default.

    Raises DataError for a file that cannot be read, SettingError for a table or key that is unknown.
    """
    named = os.environ.get(VARIABLE) if path is None else path
    if not named:
        return Config()
    place = Path(named)
    try:
        given = tomllib.loads(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{place} cannot be read ({error}): {VARIABLE} names a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{place} is not TOML ({error}): mend that place") from None
    limit, score, dense = given.pop("max_tokens", None), given.pop(_SCORE, None), given.pop(DENSE, False)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise SettingError(f"{place}: max_tokens cannot be {limit!r}; it is verl's data.max_response_length")
    if not isinstance(dense, bool):
        raise SettingError(f"{place}: {DENSE} cannot be {dense!r}; true says that a reward manager places step rewards")
    if score is not None and not isinstance(score, dict):
        raise SettingError(f"{place}: {_SCORE} is a table")
    legal = {spec.name for kind in (*PLACES, "reward") for spec in _specs(kind)} | set(SYSTEMS)
    for name, table in given.items():
        if name not in legal:
            hint = nearest(name, legal | {_SCORE, DENSE, "max_tokens"})
            raise SettingError(f"{place}: {name!r} is no recipe, reward, credit or surrogate{hint}")
        if not isinstance(table, dict):
            raise SettingError(f"{place}: {name} is a table: write [{name}] and its knobs below it")
    return Config(place, limit, given, score, dense)


def _specs(kind: str) -> list[Spec]:
    """Our own components of a kind, by name."""
    own = [s for s in REGISTRY.values() if s.kind == kind and s.function.__module__.startswith("truegain.")]
    return sorted(own, key=lambda spec: spec.name)


def entries(config: Config) -> Iterator[Entry]:
    """Every name for both registries: components of that kind and recipes, those that cannot run with the reason."""
    given = offer("verl")
    for kind in PLACES:
        for spec in _specs(kind):
            yield _component(spec, kind, config, given)
        for name in sorted(SYSTEMS):
            entry = (
                _recipe(name, kind, config, given) if SYSTEMS[name].recipe.__module__.startswith("truegain.") else None
            )
            if entry is not None:
                yield entry


def _component(spec: Spec, kind: str, config: Config, given: Offer) -> Entry:
    entry = Entry(registered(spec.name), kind)
    no = refusal(spec, given)
    if no is not None and not (kind == "credit" and no.missing in COLUMNS):
        return replace(entry, refused=no.sentence)
    if spec.modifies is not None and "with" not in config.tables.get(spec.name, {}):
        return replace(entry, refused=_NO_BASE.format(spec.full_name, spec.name) if no is None else no.sentence)
    try:
        form = _composed(spec, kind, config, given)
        return replace(entry, form=form, refused="" if no is None else no.sentence)
    except TruegainError as error:
        return replace(entry, refused=_told(config, str(error)), fault=True)


def _told(config: Config, text: str) -> str:
    return text if config.path is None else f"{config.path}: {text}"


def _composed(spec: Spec, kind: str, config: Config, given: Offer) -> Train:
    """A form around one component, with what its table adds; both halves of a form are there, one is used."""
    table = config.tables.get(spec.name, {})
    before = [_named(name, kind, given, "with") for name in _names(table, "with", spec.name)]
    rewards = [_named(name, "reward", given, "rewards") for name in _names(table, "rewards", spec.name)]
    if rewards and kind != "credit":
        raise SettingError(f"{spec.name}: rewards belong to an estimator")
    stage: Stage = (*(one.function for one in before), spec.function)
    reward: Stage = (REGISTRY["reward.user_score"].function, *(one.function for one in rewards))
    term = Term(
        credit=stage if kind == "credit" else (),
        surrogate=stage if kind == "surrogate" else REGISTRY["objective.policy_gradient"].function,
        weight=REGISTRY["objective.token_mean"].function,
    )
    form: Form = Train(reward=reward, terms=(term,))
    for one in (*before, *rewards, spec):
        for knob, value in config.tables.get(one.name, {}).items():
            if knob not in _AROUND:
                form = with_setting(form, f"{one.kind}.{one.name}.{knob}", value)
    assert isinstance(form, Train)
    return form


def _names(table: Mapping[str, Any], key: str, owner: str) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise SettingError(f"{owner}: {key} is a list of names, not {value!r}")
    return value


def _named(name: str, kind: str, given: Offer, key: str) -> Spec:
    found = {spec.name: spec for spec in _specs(kind)}
    if name not in found:
        raise SettingError(f"{key}: {name!r} is no {kind}{nearest(name, set(found))}")
    no = refusal(found[name], given)
    if no is not None:
        raise SettingError(no.sentence)
    return found[name]


def _recipe(name: str, kind: str, config: Config, given: Offer) -> Entry | None:
    """A recipe's entry; None for one that trains nothing online."""
    if not any(isinstance(form, Train) for form in build(name)):
        return None
    entry = Entry(registered(name), kind, recipe=name)
    try:
        form = _built(name, config)
        found = refusals(form, given)
        # A verl that hands over its whole batch may feed the credit; the loss does without.
        if any(one.missing not in COLUMNS or one.component not in _fed_by_batch(form) for one in found):
            return replace(entry, refused=found[0].sentence)
        asks = asks_of(form, config.max_tokens)
        refused = found[0].sentence if found and kind == "credit" else ""
        return replace(entry, form=hosted(form), asks=asks, refused=refused)
    except TruegainError as error:
        return replace(entry, refused=_told(config, str(error)), fault=name in config.tables)


def _fed_by_batch(form: Train) -> set[str]:
    """The components of a form that run in the estimator."""
    stages = (form.reward, *(term.credit for term in form.terms))
    return {spec_of(member).full_name for stage in stages for member in members(stage)}


def _built(name: str, config: Config) -> Train:
    """The recipe's form, changed as its table says: its own knobs first, then settings of the form.

    Refused is a change of what verl schedules itself, where it would change nothing.
    """
    default = form_of(name, "verl")
    given = _flat(config.tables.get(name, {}))
    own = {knob: value for knob, value in given.items() if knob in SYSTEMS[name].knobs}
    (form,) = build(name, **own)
    for path, value in given.items():
        if path not in own:
            form = with_setting(form, path, value)
    assert isinstance(form, Train)
    then, now = settings(default), settings(form)
    for path in now:
        if path.partition(".")[0] in ("loop", "plan", "resample") and now[path] != then.get(path, now[path]):
            raise SettingError(f"{path} is verl's to set, in its own configuration; here it would change nothing")
    return form


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {above + name: value}
    return found


def hosted(form: Train) -> Train:
    """The form without what verl does itself: its reward function is the outcome, its KL and entropy terms are its own.

    An outcome of 1 and 0 is verl's reward as it is, whatever numbers it gives; another one asks for 0 and 1.
    """
    plain: Member = REGISTRY["reward.user_score"].function
    reward = tuple(
        plain if spec_of(m).full_name == "reward.outcome" and knobs_of(m) == dict(spec_of(m).knobs) else m
        for m in members(form.reward)
    )
    term = form.terms[0]
    kept = tuple(m for m in members(term.surrogate) if spec_of(m).full_name not in offer("verl").settings)
    return replace(form, reward=reward, terms=(replace(term, surrogate=kept),))
