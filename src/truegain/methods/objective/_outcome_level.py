from __future__ import annotations

from truegain.core.component import component
from truegain.core.types import Problem, Rollout


@component("score", cite="arXiv:2504.04524", fills="level")
def outcome_level(problem: Problem, rollout: Rollout) -> float:
    """Rank of a completion by rule: 1 right, 2 a wrong answer, 3 no answer that can be read, 4 cut off before its end.

    From the facts ``correct`` and ``answered`` of the task's checker, and from why the completion ended. A task that
    does not say what it could read has no level 3; partial credit (``correct`` at most 0.5) is wrong. A right answer is
    right even when it was cut off. Source: the levels of Su et al. 2025, whose format errors are cut-off answers here.

    >>> rows = [Rollout(Problem("a", "a"), (), (1,), (0.0,), "x", stop, (), facts=facts) for stop, facts in (
    ...     ("eos", {"correct": 1.0}), ("eos", {"correct": 0.0}), ("eos", {"correct": 0.0, "answered": 0.0}),
    ...     ("length", {"correct": 0.0}))]
    >>> [outcome_level(row.problem, row) for row in rows]
    [1.0, 2.0, 3.0, 4.0]
    """
    if float(rollout.facts.get("correct", 0.0)) > 0.5:
        return 1.0
    if rollout.stop == "length":
        return 4.0
    return 2.0 if float(rollout.facts.get("answered", 1.0)) > 0.5 else 3.0
