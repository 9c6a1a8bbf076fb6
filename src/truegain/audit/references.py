"""Problems with their reference answers, written in the form that the reward under audit reads."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from truegain.audit.probes import FORMS, Reference, equal
from truegain.audit.subject import Row, Subject
from truegain.core.errors import DataError
from truegain.core.types import SPLITS, Problem
from truegain.tasks.files import FileTask
from truegain.tasks.mixture import Mixture

ASKED = 12
"""Problems on which the form is found out."""
FEW, SLOW = 2, 0.3
"""Problems that do for a reward of so many seconds a completion."""
OTHERS = 8
MANY_RIGHT = frozenset({"gym:graph_color", "gym:n_queens", "gym:time_intervals"})
"""Tasks in which the answer to one problem can be right for another."""


def problems_of(task: Any, count: int, seed: int) -> list[Problem]:
    """Different problems of a task, of train and, where a file has too few, of dev; the test split is left alone.

    Raises DataError where there are fewer than two.
    """
    found: dict[str, Problem] = {}
    for split in (name for name in SPLITS if name != "test"):
        size = task.size(split)
        order = list(range(20 * count if size is None else size))
        if size is not None:
            random.Random(seed).shuffle(order)
        for index in order:
            if len(found) == count:
                break
            try:
                problem = task.problem(split, index)
            except DataError:
                break  # as many as the task can make
            found.setdefault(problem.id, problem)
    if len(found) < 2:
        raise DataError(f"task {task.name!r} has {len(found)} problems to audit with; an interval needs 2 or more")
    return [_keyed(problem) for problem in found.values()]


def _keyed(problem: Problem) -> Problem:
    """The problem with verl's ground truth as its answer, where the row has that and no other."""
    told = problem.meta.get("reward_model")
    truth = told.get("ground_truth") if isinstance(told, Mapping) else None
    if problem.answer is not None or truth is None:
        return problem
    return Problem(problem.id, problem.prompt, str(truth), problem.meta)


def others_of(problems: Sequence[Problem], at: int) -> list[str]:
    """Answers to the problems that follow this one, different ones, none of them its own."""
    own, found = str(problems[at].answer), list[str]()
    for step in range(1, len(problems)):
        other = problems[(at + step) % len(problems)].answer
        if other and not equal(other, own) and not any(equal(other, known) for known in found):
            found.append(other)
        if len(found) == OTHERS:
            break
    return found


def references(
    problems: Sequence[Problem], task: Any, subject: Subject, form: str | None = None
) -> tuple[list[Reference | None], str]:
    """A reference for each problem, None where it has no answer, and the name of the form that completions take.

    Generated tasks and those of reasoning-gym say how an answer is given; for files and functions, the form is the one
    of `FORMS` in which right answers earn most more than wrong ones.
    """
    of_file = isinstance(task, FileTask) or (
        isinstance(task, Mixture) and any(isinstance(m, FileTask) for m in task.members)
    )
    # A reward model was fitted on completions of the task, in the task's own form.
    told = (subject.is_task or subject.is_model) and not of_file
    if form is None:
        form = "answer tags" if told else found_form(problems, subject)
    complete = FORMS[form]
    written = getattr(task, "demonstration", None) if told else None
    made: list[Reference | None] = []
    for at, problem in enumerate(problems):
        if problem.answer is None:
            made.append(None)
            continue
        text = written(problem, random.Random(0)) if written is not None else complete(problem.answer)
        others = () if problem.meta.get("task") in MANY_RIGHT else others_of(problems, at)
        made.append(
            Reference(problem.answer, text, complete, form, others, value_counts=of_file or not subject.is_task)
        )
    return made, form


def found_form(problems: Sequence[Problem], subject: Subject) -> str:
    """The form in which the reward tells right answers from wrong ones best; the first one where all are equal."""
    answered = [(at, p) for at, p in enumerate(problems) if p.answer is not None]
    subject.ask([(problem, FORMS["boxed"](str(problem.answer))) for _, problem in answered[:2]])  # how fast it is
    asked = answered[: FEW if subject.pace > SLOW else ASKED]
    rows: list[Row] = []
    signs: list[tuple[str, float]] = []
    for name, form in FORMS.items():
        for at, problem in asked:
            for answer, sign in [(str(problem.answer), 1.0), *[(text, -1.0) for text in others_of(problems, at)[:1]]]:
                rows.append((problem, form(answer)))
                signs.append((name, sign))
    margin = dict.fromkeys(FORMS, 0.0)
    for (name, sign), said in zip(signs, subject.ask(rows), strict=True):
        margin[name] += sign * (said.value or 0.0)
    return max(FORMS, key=lambda name: margin[name])
