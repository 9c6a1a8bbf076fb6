"""The problems of a split that every look is at."""

from __future__ import annotations

from truegain.core.errors import DataError
from truegain.core.types import Problem, Split, Task


def fixed_problems(task: Task, split: Split, count: int) -> list[Problem]:
    """The first ``count`` different problems of a split, the same for every run, seed and arm.

    Fewer when the split has fewer; an unlimited task is searched for at most ``20 * count`` draws.
    """
    size = task.size(split)
    found: dict[str, Problem] = {}
    for index in range(20 * count if size is None else size):
        problem = task.problem(split, index)
        found.setdefault(problem.id, problem)
        if len(found) == count:
            break
    if len(found) < 2:
        raise DataError(
            f"task {task.name!r} has {len(found)} problems in its {split} split; an interval needs 2 or more"
        )
    return list(found.values())
