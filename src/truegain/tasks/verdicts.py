r"""An exact judge of the steps of a completion, for the generated tasks whose trace is one of a kind.

A step is a line inside ``<think>``, or what follows ``</think>``: the pieces that the segment component ``by_step``
counts. `step_verdicts` says of each one whether it is right, by the task's own arithmetic.
"""

from __future__ import annotations

import functools
import random
import re

from truegain.core.types import Problem
from truegain.tasks.add import RULES as ADD
from truegain.tasks.chain import RULES as CHAIN
from truegain.tasks.generated import Rules, answer_of
from truegain.tasks.sort import RULES as SORT

JUDGED: dict[str, Rules] = {rules.name: rules for rules in (CHAIN, SORT, ADD)}
"""Tasks in which every right line is known beforehand; a countdown has many ways to its end."""

_PIECES = re.compile(r".*?(?:\n|</think>|\Z)", re.DOTALL)
_CHECK = re.compile(r"check (.+) ok")


class _Straight(random.Random):
    """Draws under which a reference trace takes no wrong turn and re-checks nothing."""

    # Defined here, as a class that brings its own random() would draw whole numbers from that, and never be done.
    getrandbits = random.Random.getrandbits

    def random(self) -> float:
        return 1.0


def pieces(text: str) -> list[str]:
    r"""The steps of a completion; a blank one belongs to the one before it, or to the first.

    >>> pieces("<think>a=3\n\nb=5</think><answer>5</answer>")
    ['<think>a=3\n\n', 'b=5</think>', '<answer>5</answer>']
    """
    found: list[str] = []
    lead = ""
    for match in _PIECES.findall(text):
        if match.removesuffix("</think>").strip():
            found.append(lead + match)
            lead = ""
        elif found:
            found[-1] += match
        else:
            lead += match
    return found or ([lead] if lead else [])


@functools.lru_cache(maxsize=4096)
def _right_lines(task: str, content: str) -> frozenset[str]:
    trace = JUDGED[task].think(content, _Straight(0))
    return frozenset(trace.removeprefix("<think>").removesuffix("</think>").split("\n"))


def step_verdicts(problem: Problem, text: str) -> list[float] | None:
    r"""1.0 for each right step of a completion and 0.0 for each wrong one; None where the task has no such judge.

    A line is right if the reference trace holds it, wherever it stands and however often it is repeated;
    ``check LINE ok`` if that line is; ``no back`` after a wrong line. What follows ``</think>`` is right if its answer
    is. Judged are chain, sort and add problems of the trace style whose content can be read; anything else gets None.

    >>> problem = Problem("p", "", "7", {"task": "chain", "style": "trace", "content": "a=3 b=a+4"})
    >>> step_verdicts(problem, "<think>a=3\nb=3+4=8\nno back\nb=3+4=7</think><answer>7</answer>")
    [1.0, 0.0, 1.0, 1.0, 1.0]
    """
    task, content = problem.meta.get("task"), problem.meta.get("content")
    if task not in JUDGED or not isinstance(content, str) or problem.meta.get("style") != "trace":
        return None
    try:
        right = _right_lines(task, content)
    except ValueError:
        return None
    verdicts: list[float] = []
    for piece in pieces(text):
        verdicts.append(float(_is_right(piece, right, JUDGED[task], content, verdicts)))
    return verdicts


def _is_right(piece: str, right: frozenset[str], rules: Rules, content: str, before: list[float]) -> bool:
    if "<answer>" in piece:
        found = answer_of(piece.removeprefix("</think>"))
        return found is not None and rules.correct(content, found)
    line = piece.removesuffix("\n").removesuffix("</think>").removeprefix("<think>").strip()
    if line == "no back":
        return bool(before) and before[-1] == 0.0
    checked = _CHECK.fullmatch(line)
    if checked is not None:
        # sort re-checks what stands behind the colon, add what stands before the blank, chain the line
        return any(checked[1] in (r, r.partition(":")[2], r.partition(" ")[0]) for r in right)
    return line in right
