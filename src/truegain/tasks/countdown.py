"""Reach a target with given numbers, each used exactly once. Content: ``3 5 2 = 17``.

Levels 2 to 6 give that many numbers. Levels 7 and 8 give three and four from a wider range, on which the embedded model
was not fitted.

Any right expression counts. Targets are made from left-to-right expressions of ``+ - *`` whose intermediate results
stay positive, so every problem has a solution; the reference is the first one that `solve` finds. Half of the numbers
are at most 9, the others at most 20: with three numbers up to 9 there are only some 6000 prompts, few enough to
learn by heart; up to 20 there are 53000.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import lru_cache

from truegain.tasks.arithmetic import numbers, parse, value
from truegain.tasks.generated import Rules

SMALL, HIGH, TARGET, MIDDLE = 9, 20, 50, 99
WIDE = {7: 3, 8: 4}
WIDE_HIGH, WIDE_TARGET = 50, 99
Fold = tuple[tuple[int, ...], str]  # numbers in the order used, and the operators between them


def _read(content: str) -> tuple[tuple[int, ...], int]:
    if not re.fullmatch(r"[0-9]{1,4}(?: [0-9]{1,4}){0,5} = [0-9]{1,6}", content):
        raise ValueError("not a countdown")
    given, target = content.split(" = ")
    return tuple(map(int, given.split(" "))), int(target)


def _apply(op: str, x: int, y: int) -> int:
    return x + y if op == "+" else x - y if op == "-" else x * y


def _draw(rng: random.Random, level: int) -> str | None:
    count, high, limit = (WIDE[level], WIDE_HIGH, WIDE_TARGET) if level in WIDE else (level, HIGH, TARGET)
    given = [rng.randint(1, rng.choice((SMALL, high))) for _ in range(count)]
    order = rng.sample(given, count)
    total = order[0]
    for number in order[1:]:
        total = _apply(rng.choice("++--*"), total, number)
        if not 0 < total <= MIDDLE:
            return None
    return f"{' '.join(map(str, given))} = {total}" if total <= limit else None


def _key(content: str) -> str:
    given, target = _read(content)
    return f"{' '.join(map(str, sorted(given)))} = {target}"


def _folds(given: tuple[int, ...], target: int) -> Iterator[Fold]:
    """Left-to-right solutions in a fixed order: numbers as given, + before - before *."""

    def grow(used: tuple[int, ...], ops: str, total: int, rest: tuple[int, ...]) -> Iterator[Fold]:
        if not rest:
            if total == target:
                yield used, ops
            return
        for i, number in enumerate(rest):
            for op in "+-*":
                after = _apply(op, total, number)
                if 0 < after <= MIDDLE:
                    yield from grow((*used, number), ops + op, after, rest[:i] + rest[i + 1 :])

    for i, first in enumerate(given):
        yield from grow((first,), "", first, given[:i] + given[i + 1 :])


@lru_cache(maxsize=65536)
def solve(given: tuple[int, ...], target: int) -> Fold:
    """The first left-to-right solution; raises ValueError when there is none."""
    for found in _folds(given, target):
        return found
    raise ValueError("no solution")


def _text(fold: Fold) -> str:
    """The fold as an expression, with parentheses only where a sum is multiplied: ``(3+5)*2``."""
    used, ops = fold
    out, loose = str(used[0]), False
    for op, number in zip(ops, used[1:], strict=True):
        out = f"({out})*{number}" if op == "*" and loose else f"{out}{op}{number}"
        loose = op != "*"
    return out


def _answer(content: str) -> str:
    return _text(solve(*_read(content)))


def _correct(content: str, text: str) -> bool:
    given, target = _read(content)
    try:
        tree = parse(text)
        return sorted(numbers(tree)) == sorted(given) and value(tree) == target
    except ValueError:
        return False


def _try(fold: Fold, target: int) -> str:
    """One line of the trace: ``3+5=8,8*2=16 ok`` or ``... no``."""
    used, ops = fold
    total, said = used[0], []
    for op, number in zip(ops, used[1:], strict=True):
        after = _apply(op, total, number)
        said.append(f"{total}{op}{number}={after}")
        total = after
    return f"{','.join(said)} {'ok' if total == target else 'no'}"


def _miss(given: tuple[int, ...], target: int, draw: random.Random) -> Fold | None:
    """A random left-to-right expression with another value; None when none comes up soon."""
    for _ in range(50):
        used, ops = tuple(draw.sample(given, len(given))), "".join(draw.choice("+-*") for _ in given[1:])
        total, low = used[0], used[0]
        for op, number in zip(ops, used[1:], strict=True):
            total = _apply(op, total, number)
            low = min(low, total if total <= MIDDLE else -1)
        if low > 0 and total != target:
            return used, ops
    return None


def _think(content: str, draw: random.Random) -> str:
    given, target = _read(content)
    misses = (_miss(given, target, draw) for _ in range(draw.choices((0, 1, 2), (0.5, 0.3, 0.2))[0]))
    lines = [_try(fold, target) for fold in misses if fold is not None]
    if lines and draw.random() < 0.5:
        lines.insert(1, "back")
    fold = solve(given, target)
    lines.append(_try(fold, target))
    if draw.random() < 0.2:
        lines.append(f"check {_text(fold)}={target} ok")
    return "<think>" + "\n".join(lines) + "</think>"


def _longest(level: int, style: str) -> int:
    count = WIDE.get(level, level)
    answer = 3 * count - 1 + 2 * max(count - 2, 0) + 2
    line = 9 * (count - 1) + 3
    return answer + (0 if style == "direct" else 3 * line + 5 + answer + 12 + 2)


def _instruction(content: str) -> str:
    given, target = content.split(" = ")
    return (
        f"Write an expression that equals {target}, using each of the numbers {given.replace(' ', ', ')} exactly once, "
        "with + - * / and parentheses."
    )


RULES = Rules(
    name="countdown",
    word="count",
    levels=(2, 8),
    default={"direct": 7, "trace": 4},
    draw=_draw,
    key=_key,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
)
