"""Arithmetic with a calculator at hand, at a cost per call. The level is the most operations. Content: ``47*83+5``."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

from truegain.tasks.arithmetic import MAX_CHARS, Tree, parse, value, written
from truegain.tasks.generated import RECHECK, WRONG_TURN, Rules, Tool, whole_number

CALL_COST = 0.05
LARGEST = 10**6


class Calculator:
    """The world of the calculator task: one tool, and the record of its calls, ``{"name", "parameters", "result"}``."""

    def __init__(self) -> None:  # noqa: D107
        self.calls: list[dict[str, Any]] = []

    def reset(self, **row: Any) -> str | None:
        """Begin a problem; the prompt says everything, so nothing is added to it."""
        self.calls = []
        return None

    def snapshot(self) -> dict[str, Any]:
        """A copy of the record."""
        return {"calls": deepcopy(self.calls)}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a state that `snapshot` gave."""
        self.calls = deepcopy(state["calls"])

    def calculate(self, expression: str) -> str:
        """Evaluate an arithmetic expression of whole numbers, + - * / and parentheses, exactly.

        Args:
            expression: what to evaluate, for example 12*7+5; at most 200 characters.

        Returns:
            The result, or a text that starts with "error".
        """
        try:
            said = written(value(parse(expression, unary=True)))
        except ValueError as bad:
            said = f"error {bad}"
        # What is too long to be read is not worth keeping whole.
        self.calls.append({"name": "calculate", "parameters": {"expression": expression[:MAX_CHARS]}, "result": said})
        return said


def _draw(rng: random.Random, level: int) -> str | None:
    count = rng.randint(1, level)
    terms = [str(rng.randrange(1, 10) if rng.random() < 0.5 else rng.randrange(10, 100)) for _ in range(count + 1)]
    ops = [rng.choice("+-*") for _ in range(count)]
    if count > 1 and rng.random() < 0.25:
        terms[0], terms[1] = "(" + terms[0], terms[1] + ")"
    content = terms[0] + "".join(op + term for op, term in zip(ops, terms[1:], strict=True))
    return content if abs(value(parse(content))) < LARGEST else None


def _key(content: str) -> str:
    """One key for ``7+5`` and ``5+7``."""
    tree = parse(content)
    if isinstance(tree, int) or tree[0] == "-" or not all(isinstance(side, int) for side in tree[1:]):
        return content
    return tree[0].join(sorted(map(str, tree[1:])))


def _answer(content: str) -> str:
    return written(value(parse(content)))


def _correct(content: str, text: str) -> bool:
    found = whole_number(text)
    return found is not None and found == value(parse(content))


def _parts(tree: Tree) -> list[str]:
    """The operations of a tree in the order they are done, on plain numbers: ``47*83`` then ``3901+5``."""
    if isinstance(tree, int):
        return []
    left, right = (written(value(side)) for side in tree[1:])
    right = f"({right})" if right.startswith("-") else right
    return [*_parts(tree[1]), *_parts(tree[2]), f"{left}{tree[0]}{right}"]


def _call(expression: str) -> str:
    return f"<tool>{expression}</tool><result>{written(value(parse(expression, unary=True)))}</result>"


def _slip(expression: str, draw: random.Random) -> str:
    """The expression with one operator miscopied."""
    at = draw.choice([i for i, c in enumerate(expression) if c in "+-*" and i and expression[i - 1] not in "(+-*"])
    return expression[:at] + draw.choice([op for op in "+-*" if op != expression[at]]) + expression[at + 1 :]


def _think(content: str, draw: random.Random) -> str:
    """Easy expressions are half the time done by head; others in one call or operation by operation."""
    tree, answer = parse(content), _answer(content)
    if _easy(content) and draw.random() < 0.5:
        lines = [f"{content}={answer}"]
    else:
        asked = [content] if draw.random() < 0.6 else _parts(tree)
        lines = [_call(expression) for expression in asked]
        if draw.random() < WRONG_TURN:
            lines = [_call(_slip(asked[0], draw)), "no back", *lines]
    if draw.random() < RECHECK:
        lines.append(_call(content) if draw.random() < 0.3 else f"check {answer} ok")
    return "<think>" + "\n".join(lines) + "</think>"


def _gold(content: str) -> list[str]:
    """One call of the whole expression, or none where it is easily done by head: two digits and an operator."""
    return [] if _easy(content) else [content]


def _easy(content: str) -> bool:
    return len(content) == 3


def _longest(level: int, style: str) -> int:
    # A call is an expression, a result of at most nine characters, four marks and a line end. The whole expression
    # may be called twice (a wrong turn, a re-check) beside one call per operation, the first on numbers of two digits.
    whole, first, later = 3 * level + 4 + 14, 5 + 14, 12 + 14
    return 9 + (0 if style == "direct" else 2 * whole + 8 + first + (level - 1) * later + 2)


def _instruction(content: str) -> str:
    return f"What is {content}?"


def _run(world: Any, text: str) -> str:
    return world.calculate(text)


RULES = Rules(
    name="calculator",
    word="calc",
    levels=(1, 4),
    default={"direct": 2, "trace": 4},
    draw=_draw,
    key=_key,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
    call_cost=CALL_COST,
    tool=Tool(
        world=Calculator,
        call=_run,
        gold=_gold,
        help="To use the calculator, write <tool>expression</tool>; its result follows in <result></result>.",
    ),
)
