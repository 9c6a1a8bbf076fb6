"""Run an audit to its end, small enough for a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from truegain.audit import Plan, Rules, Said, Subject, audit, problems_of
from truegain.audit.subject import Row
from truegain.tasks import make

BROKEN = Path(__file__).with_name("broken_rewards.py")
QUICK = Rules(bound=0.10, deadline=1.0)


class InProcess(Subject):
    """A reward that is called here, without workers: for simulations and for what is not about processes."""

    def __init__(self, reward: Callable[[Sequence[Row]], list[float]]) -> None:
        self.name, self.fact, self.deadline, self.count = "in process", "correct", 1.0, 1
        self.is_task, self.is_model, self.kind, self.pace, self.keys = False, False, "trl", 1e-5, set()
        self.reward = reward

    def fresh(self) -> InProcess:
        return InProcess(self.reward)

    def ask(self, rows, how="batch", *, size=None):
        return [Said(value, seconds=1e-5) for value in self.reward(rows)]

    def close(self) -> None: ...


def finished(work: Any) -> dict[str, Any]:
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def audited(subject: Subject, spec: str, *, problems: int = 40, rules: Rules = QUICK, **more: Any) -> dict[str, Any]:
    """An audit of ``subject`` on a task's problems; ``more`` goes to the plan, ``second`` and evidence to the audit."""
    beside = {name: more.pop(name) for name in ("second", "labelled", "sampled", "draw") if name in more}
    task = make(spec)
    plan = Plan(**{"again": problems, "form": None if subject.is_task else "answer tags", **more})
    with subject:
        return finished(audit(subject, task, problems_of(task, problems, 0), rules, plan, **beside))


@cache
def of_function(name: str, spec: str = "add", **more: Any) -> dict[str, Any]:
    """An audit of one of the broken rewards, in a worker process; the same one is made once."""
    deadline = more.get("rules", QUICK).deadline
    return audited(Subject(f"{BROKEN}:{name}", is_task=False, deadline=deadline, count=1), spec, **more)


def of_task(spec: str, **more: Any) -> dict[str, Any]:
    """An audit of a task's own checker."""
    return audited(Subject(spec, is_task=True, count=1), spec, **more)


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    """The verdict of every check by its id."""
    return {one["id"]: one["verdict"] for one in found["checks"]}


def unfit(found: dict[str, Any]) -> set[str]:
    """Ids of the checks that fail."""
    return {name for name, verdict in verdicts(found).items() if verdict == "unfit"}
