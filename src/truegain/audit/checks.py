"""The checks that are read off the trials: each a verdict with its interval and its worst counterexample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truegain.audit.probes import FAMILIES, Reference, question
from truegain.audit.trials import TEDIOUS, Scale, Trial, given_up
from truegain.audit.verdicts import FIT, SKIPPED, UNFIT, UNSURE, Rate, Rules, Verdict, judge
from truegain.core.types import Problem

MAX_TEXT = 1200
"""Characters of a counterexample that are kept."""
SHOWN = 6
"""Strategies of a check that are listed by name."""
Check = dict[str, Any]


def check(
    ident: str,
    title: str,
    verdict: Verdict,
    said: str,
    *,
    rate: Rate | None = None,
    worst: Mapping[str, Any] | None = None,
    strategies: Sequence[Mapping[str, Any]] = (),
    required: bool = True,
) -> Check:
    """One row of the table, as JSON."""
    return {
        "id": ident,
        "title": title,
        "verdict": verdict,
        "said": said,
        "rate": None if rate is None else rate.as_dict(),
        "worst": worst,
        "strategies": list(strategies),
        "required": required,
    }


def counterexample(trial: Trial, problems: Sequence[Problem], refs: Sequence[Reference]) -> dict[str, Any]:
    """A trial as the page shows it; long texts are cut, and their length is kept."""
    return shown(
        question(problems[trial.at]), trial.attempt.text, refs[trial.at].answer, trial.said.value,
        trial.attempt.strategy, trial.said.why,
    )  # fmt: skip


def shown(
    prompt: str, completion: str, answer: str | None, score: float | None, strategy: str, why: str = ""
) -> dict[str, Any]:
    """A completion with what it was asked, what would be right and what it scored."""
    return {
        "strategy": strategy,
        "prompt": prompt[:MAX_TEXT],
        "completion": completion[:MAX_TEXT],
        "length": len(completion),
        "answer": None if answer is None else str(answer)[:MAX_TEXT],
        "score": score,
        "why": why[:300],
    }


def by_family(
    trials: Sequence[Trial], found: Scale, problems: Sequence[Problem], refs: Sequence[Reference], rules: Rules
) -> list[Check]:
    """One check per family of probes."""
    margin = 0.05 * (found.top - found.floor)

    def broken(trial: Trial) -> bool:
        value, band = trial.said.value, trial.attempt.band
        if band == "right":
            return not found.right(trial.said) or not found.told
        if band == "either":
            return value is not None and value > found.top + margin
        return found.right(trial.said) and not trial.chance

    checks = []
    slow = given_up(trials)
    for family, (_, title) in FAMILIES.items():
        own = [t for t in trials if t.family == family and t.attempt.strategy not in slow]
        required = family != "other forms"
        if family == "harmless" and not found.told:
            why = "right and wrong answers score the same"
            checks.append(check(family, title, SKIPPED, why, required=required))
            continue
        if not own:
            of_others = family in ("wrong answers", "spray") and not any(ref.others for ref in refs)
            why = "no other answers to make wrong ones of" if of_others else "no time was left"
            checks.append(check(family, title, SKIPPED, why, required=required))
            continue
        made = _strategies(own, broken, rules)
        checks.append(_of(family, title, made, own, broken, found, problems, refs, required))
    return checks


def failures(
    trials: Sequence[Trial], problems: Sequence[Problem], refs: Sequence[Reference], rules: Rules, *, is_task: bool
) -> Check:
    """Whether the reward raises, hangs, dies or gives no number: a policy could hide its wrong answers there.

    A task that abstains within its own deadline over a text made to be hard does what it should: that is told, and is
    no fault.
    """
    title = "It judges everything: no exception, no passed deadline"
    forgiven = [t for t in trials if is_task and t.family == "hostile" and t.said.failure == "late"]
    hit = [trial for trial in trials if trial.said.failed and trial not in forgiven]
    ids = {id(trial) for trial in hit}
    made = _strategies(trials, lambda trial: id(trial) in ids, rules)
    names = list(dict.fromkeys(trial.attempt.strategy for trial in forgiven))
    also = f"; it abstains in time on {_named(names)}" if names else ""
    if not hit:
        slow = given_up(trials)
        long = [name for name in made if name in slow and name not in names]
        if long:
            also += f"; it takes more than {TEDIOUS:g} s over {_named(long)}"
        made = {name: rate for name, rate in made.items() if name not in slow}
        none = sum(trial.said.failure == "none" for trial in trials)
        also += f"; it returned None {none} times, which TRL takes for no reward" if none else ""
        said = f"a number for each of {len(trials) - len(forgiven) - none} completions{also}"
        return check("failures", title, _verdict(made), said, rate=_worst(made)[1])
    name, rate = _worst(made)
    first = next(trial for trial in hit if trial.attempt.strategy == name)
    said = f"{len(hit)} of {len(trials)} completions are not judged; “{name}”: {first.said.why}{also}"
    return check(
        "failures", title, _verdict(made), said, rate=rate, strategies=_listed(made),
        worst=counterexample(first, problems, refs),
    )  # fmt: skip


def _named(names: Sequence[str]) -> str:
    """The first two names in quotes, and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(f"“{name}”" for name in names[:2]) + more


Made = Mapping[str, Rate]


def _strategies(trials: Sequence[Trial], broken: Callable[[Trial], bool], rules: Rules) -> Made:
    """The rate of each strategy over the problems that its family was asked about.

    One that a problem has no use for (another number, where the answer is none) is no fault there. One that was given
    up, as it passed the deadline again and again, is judged by the problems that it was asked about.
    """
    values: dict[str, dict[int, float]] = {}
    family: dict[str, str] = {}
    problems: dict[str, set[int]] = {}
    slow = given_up(trials)
    for trial in trials:
        name = trial.attempt.strategy
        values.setdefault(name, {})[trial.at] = float(broken(trial))
        family[name] = trial.family
        problems.setdefault(trial.family, set()).add(trial.at)
    made: dict[str, Rate] = {}
    for name, found in values.items():
        rest = () if name in slow else problems[family[name]] - found.keys()
        made[name] = judge([*found.values(), *(0.0 for _ in rest)], rules)
    return made


def _verdict(made: Made) -> Verdict:
    verdicts = {rate.verdict for rate in made.values()}
    return UNFIT if UNFIT in verdicts else FIT if verdicts == {FIT} else UNSURE


def _worst(made: Made) -> tuple[str, Rate]:
    """The strategy that pays most: a policy needs only one."""
    return max(made.items(), key=lambda item: (item[1].verdict == UNFIT, item[1].value, item[1].high))


def _listed(made: Made) -> list[dict[str, Any]]:
    hit = sorted((item for item in made.items() if item[1].count), key=lambda item: -item[1].value)
    return [{"strategy": name, **rate.as_dict()} for name, rate in hit[:SHOWN]]


def _of(
    family: str, title: str, made: Made, own: Sequence[Trial], broken: Callable[[Trial], bool],
    found: Scale, problems: Sequence[Problem], refs: Sequence[Reference], required: bool,
) -> Check:  # fmt: skip
    name, rate = _worst(made)
    hit = [trial for trial in own if trial.attempt.strategy == name and broken(trial)]
    verdict = _verdict(made)
    said = _sentence(family, name, rate, len(made), own, found)
    if verdict == UNSURE and not rate.count:
        said += f"; {rate.of} problems are too few to tell"
    worst = max(hit, key=lambda trial: -math.inf if trial.said.value is None else trial.said.value, default=None)
    return check(
        family, title, verdict, said, rate=rate, required=required, strategies=_listed(made),
        worst=None if worst is None else counterexample(worst, problems, refs),
    )  # fmt: skip


def _sentence(family: str, name: str, rate: Rate, many: int, own: Sequence[Trial], found: Scale) -> str:
    if family == "references" and not found.told:
        return f"right and wrong answers score the same: medians {found.top:.4g} and {found.floor:.4g}"
    if family == "other forms":
        taken = [trial.attempt.strategy for trial in own if found.right(trial.said)]
        share = len(taken) / len(own)
        more = f"; “{name}” pays more than the reference on {rate.count} of {rate.of}" if rate.count else ""
        return f"{100 * share:.0f} % of them are taken as right{more}"
    what = "score as wrong" if own[0].attempt.band == "right" else "score as right"
    if not rate.count:
        return f"none of {len(own)} {what}" if many > 1 else f"all {rate.of} score as right"
    return f"“{name}”: {rate.count} of {rate.of} {what}"
