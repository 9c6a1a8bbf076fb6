"""The audit, readable top to bottom: a generator that yields how far it is and returns the report as JSON-able data."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from truegain.audit import agreement, equivalence, evidence, steady
from truegain.audit.checks import Check, by_family, check, failures
from truegain.audit.probes import FORMS, Reference
from truegain.audit.references import references
from truegain.audit.subject import Row, Said, Subject
from truegain.audit.trials import HARD, Scale, Trial, collect, scale
from truegain.audit.verdicts import FIT, SKIPPED, UNFIT, UNSURE, Rules, overall
from truegain.core.errors import DataError
from truegain.core.types import Problem
from truegain.tasks.files import FileTask

FEW = 3
"""Problems that a slow reward is asked about again."""
Draw = Callable[[Sequence[Problem]], Iterator[Sequence[Row]]]
"""Draws completions from a model: yields the new ones of some problems at a time."""


@dataclass(frozen=True)
class Progress:
    """How far a part of the audit is; ``total`` is None where nobody can know it."""

    what: str
    done: int = 0
    total: int | None = None
    unit: str = ""


@dataclass(frozen=True)
class Plan:
    """What an audit does beside its probes.

    ``cut`` fixes the score from which a completion counts as right; ``form`` how completions state their answers.
    ``seconds`` bounds the probing. ``again`` problems are asked about again. ``drawn`` problems are drawn for by a
    model. ``symbolic`` says that the reward claims mathematics; ``agree`` that it must be shown to agree with the
    second opinion.
    """

    seed: int = 0
    cut: float | None = None
    form: str | None = None
    seconds: float = 120.0
    again: int = 80
    symbolic: bool | None = None
    agree: bool = False


def audit(
    subject: Subject, task: Any, problems: Sequence[Problem], rules: Rules, plan: Plan, *,
    second: evidence.Second | None = None, labelled: evidence.Evidence | None = None,
    sampled: evidence.Evidence | None = None, draw: Draw | None = None,
) -> Generator[Progress, None, dict[str, Any]]:  # fmt: skip
    """Audit a reward on problems. ``second`` and ``labelled`` are second opinions, ``sampled`` and ``draw`` give
    completions of a model for best-of-n. Raises DataError where neither references nor a cut are there.
    """
    began = time.monotonic()
    yield Progress("how answers are written")
    made, form = references(problems, task, subject, plan.form)
    answered = [(p, r) for p, r in zip(problems, made, strict=True) if r is not None]
    notes: list[str] = []
    cut = 0.5 if subject.is_task and plan.cut is None else plan.cut
    if len(answered) < 2:
        if cut is None:
            raise DataError("the data has no reference answers; name their column, or say with --cut what is right")
        asked, refs = list(problems), [_blank(form) for _ in problems]
    else:
        asked, refs = [p for p, _ in answered], [r for _, r in answered]
        subject.measure_from([(problem, ref.text) for problem, ref in answered])
    trials: list[Trial] = []
    for done, total, new in collect(subject, asked, refs, plan.seed, plan.seconds):
        trials += new
        yield Progress("probing", done, total, "completions")
    reached = len({trial.at for trial in trials})
    if reached < len(asked):
        notes.append(f"{reached} of {len(asked)} problems in {plan.seconds:g} s; --max-seconds allows more")
    found = scale(trials, cut)
    checks = by_family(_cleared(trials, found, asked, second), found, asked, refs, rules)
    if len(answered) < 2:
        checks = [_without(one) if one["id"] in _NEED_ANSWERS else one for one in checks]
    checks.append(failures(trials, asked, refs, rules, is_task=subject.is_task))
    again = FEW if subject.pace > rules.slow else min(plan.again, reached)
    alone: Sequence[Said] = ()
    kept = steady.asked_again(trials, again, plan.seed)
    for step in steady.steady(subject, kept, asked, refs, found, rules, plan.seed):
        if isinstance(step, str):
            yield Progress(step[0].lower() + step[1:])
        else:
            checks, alone = [*checks, *step.checks], step.alone
    timed = [trial.said for trial in trials if trial.family != HARD] if again == FEW else []
    checks.append(steady.latency([*alone, *timed], rules))
    if subject.kind == "verl":
        checks.append(_keys(subject))
    yield Progress("equal answers")
    checks += _equal(subject, task, asked, refs, found, rules, plan, enough=len(answered) >= 2)
    yield from _opinions(
        checks, notes_of := {}, notes, subject, asked, found, rules, plan, second, labelled, sampled, draw
    )  # fmt: skip
    verdict = overall(checks)
    return {
        "verdict": verdict,
        "sentence": _sentence(verdict, checks, subject),
        "subject": {"name": subject.name, "kind": subject.kind, "fact": subject.fact if subject.is_task else None},
        "task": task.name,
        "form": form,
        "seed": plan.seed,
        "problems": reached,
        "completions": len(trials) + 5 * len(kept),
        "scale": {"top": found.top, "floor": found.floor, "cut": found.cut},
        "checks": checks,
        "best_of_n": notes_of.get("curve"),
        "rules": rules.as_dict(),
        "notes": notes,
        "seconds": time.monotonic() - began,
    }


_NEED_ANSWERS = ("references", "harmless", "wrong answers", "spray", "other forms")


def _blank(form: str) -> Reference:
    return Reference("", "", FORMS[form], form)


def _without(one: Check) -> Check:
    told = check(one["id"], one["title"], SKIPPED, "there are no reference answers", required=one["required"])
    return told


def _cleared(
    trials: Sequence[Trial], found: Scale, problems: Sequence[Problem], second: evidence.Second | None
) -> list[Trial]:
    """The trials; what should be wrong, was paid, and is right by the second verifier is marked as right by chance."""
    paid = [i for i, t in enumerate(trials) if t.attempt.band == "wrong" and found.right(t.said) and not t.chance]
    out = list(trials)
    if second is None or not paid:
        return out
    words = second.judge([(problems[trials[i].at], trials[i].attempt.text) for i in paid])
    for i, word in zip(paid, words, strict=True):
        if word == 1.0:
            out[i] = replace(out[i], chance=True)
    return out


def _keys(subject: Subject) -> Check:
    title = "Every sample gives the same keys"
    if len(subject.keys) <= 1:
        return check("keys", title, FIT, "one set of keys")
    one, other = sorted(subject.keys)[:2]
    said = f"{', '.join(one)} for one, {', '.join(other)} for another: verl makes its columns from the first sample's"
    return check("keys", title, UNFIT, said)


def _equal(
    subject: Subject, task: Any, problems: Sequence[Problem], refs: Sequence[Reference], found: Scale,
    rules: Rules, plan: Plan, *, enough: bool,
) -> list[Check]:  # fmt: skip
    of_math = isinstance(task, FileTask) and task.checker == "math"
    symbolic = plan.symbolic if plan.symbolic is not None else of_math and subject.is_task
    if subject.is_task and not isinstance(task, FileTask):
        return equivalence.skipped("the task says in which form an answer is to be given")
    if not enough:
        return equivalence.skipped("there are no reference answers")
    if not symbolic and (plan.symbolic is False or not equivalence.mathematical([p.answer for p in problems])):
        return equivalence.skipped("no answer is a fraction, a decimal or LaTeX; --math asks all the same")
    if not found.told:
        return equivalence.skipped("right and wrong answers score the same")
    return equivalence.equivalence(subject, problems, refs[0].complete, found, rules, plan.seed, symbolic)


def _opinions(
    checks: list[Check], out: dict[str, Any], notes: list[str], subject: Subject, problems: Sequence[Problem],
    found: Scale, rules: Rules, plan: Plan, second: evidence.Second | None, labelled: evidence.Evidence | None,
    sampled: evidence.Evidence | None, draw: Draw | None,
) -> Iterator[Progress]:  # fmt: skip
    """Agreement with labels or a second verifier, and best-of-n, where there is a second opinion."""
    given = labelled
    if sampled is None and draw is not None and second is not None:
        rows: list[Row] = []
        for new in draw(problems):
            rows += new
            yield Progress("drawing completions", len(rows), None, "completions")
        sampled = evidence.Evidence(rows, [None] * len(rows), "completions of the model")
    if sampled is not None and second is not None:
        yield Progress(f"the second verifier, {second.name}")
        sampled = replace(sampled, gold=second.judge(sampled.rows), source=f"the second verifier ({second.name})")
        given = given or sampled
    if given is None:
        why = "no labelled file and no second verifier; --labelled FILE or --gold exact gives one"
        if second is not None:
            why = "no completions to compare on; --model or --completions FILE gives some"
        for ident, title in agreement.TITLES.items():
            checks.append(check(ident, title, SKIPPED, why, required=False))
        return
    yield Progress("comparing with the second opinion")
    one = sampled is None or given is sampled
    given = _affordable(given, subject, plan, notes)
    said = subject.ask(given.rows)
    checks += agreement.agreement(given, said, found, rules, required=plan.agree)
    if not one and sampled is not None and any(gold is not None for gold in sampled.gold):
        many = _affordable(sampled, subject, plan, notes)
        row, out["curve"] = agreement.optimised(many, subject.ask(many.rows), found, rules)
    else:
        row, out["curve"] = agreement.optimised(given, said, found, rules)
    checks.append(row)


def _affordable(given: evidence.Evidence, subject: Subject, plan: Plan, notes: list[str]) -> evidence.Evidence:
    """As many of the completions, in order, as the reward gets through in the time of the plan."""
    most = max(20, int(plan.seconds * subject.count / max(subject.pace, 1e-6)))
    if len(given.rows) <= most:
        return given
    notes.append(
        f"{most} of {len(given.rows)} completions, {given.source}, in {plan.seconds:g} s; --max-seconds allows more"
    )
    return replace(given, rows=given.rows[:most], gold=given.gold[:most])


def _sentence(verdict: str, checks: Sequence[Check], subject: Subject) -> str:
    """One sentence for the top of the page."""
    bad = [one for one in checks if one["verdict"] == UNFIT]
    unsure = [one for one in checks if one["required"] and one["verdict"] in (UNSURE, SKIPPED)]
    if verdict == UNFIT:
        first, rest = bad[0], len(bad) - 1
        more = f" {rest} more {'fails' if rest == 1 else 'fail'}." if rest else ""
        return f"“{first['title']}” fails: {first['said']}.{more}"
    if verdict == FIT:
        left = sum(one["verdict"] == SKIPPED for one in checks)
        more = f"; {left} checks were not made, as the table says" if left else ""
        return f"Every check that was made is passed{more}."
    first = unsure[0]
    return (
        f"Nothing is known to be wrong, but {len(unsure)} required checks are open, first “{first['title']}”: "
        f"{first['said']}."
    )
