"""Add two whole numbers of as many digits each as the level says. Content: ``47 85``. The trace goes digit by digit.

Levels 1 to 12 draw the digits at random. Level ``100 * digits + columns``, such as 502, also says how far a carry
travels: the longest run of columns whose digits add up to 9 and that are handed a carry is that many columns, from 1
to digits - 1. Sums by head, highest digit first, get harder with every such column, and so do long ones digit by digit.
"""

from __future__ import annotations

import random
import re

from truegain.core.errors import SettingError
from truegain.tasks.generated import Rules, Step, weave, whole_number

MAX_DIGITS = 12


def _terms(content: str) -> tuple[str, str]:
    if not re.fullmatch(r"[0-9]{1,20} [0-9]{1,20}", content):
        raise ValueError("not two numbers")
    left, right = content.split(" ")
    return left, right


def _shape(level: int) -> tuple[int, int | None]:
    """Digits, and how many columns a carry travels through (None: as it comes)."""
    digits, columns = divmod(level, 100)
    if not digits:
        digits, columns = level, None
    if not 1 <= digits <= MAX_DIGITS or not (columns is None or 1 <= columns < digits):
        raise SettingError(
            f"task add: there is no level {level}; it is 1 to {MAX_DIGITS} digits, or 100 * digits + columns that a "
            "carry travels through, such as 502"
        )
    return digits, columns


def _draw(rng: random.Random, level: int) -> str | None:
    digits, columns = _shape(level)
    low = 10 ** (digits - 1) if digits > 1 else 0
    left, right = (str(rng.randrange(low, 10**digits)) for _ in range(2))
    if columns is not None:
        start = rng.randrange(digits - columns)
        nines = "".join(str(9 - int(digit)) for digit in left[start : start + columns])
        right = right[:start] + nines + right[start + columns :]
        if right[0] == "0" or travelled(left, right) != columns:
            return None
    return f"{left} {right}"


def travelled(left: str, right: str) -> int:
    """The longest run of adjacent columns whose digits add up to 9 and that are handed a carry.

    >>> travelled("4873", "1127")  # 3 + 7 carries, through 7 + 2 and 8 + 1
    2
    """
    carry, run, longest = 0, 0, 0
    for a, b in zip(reversed(left), reversed(right), strict=True):
        run = run + 1 if carry and int(a) + int(b) == 9 else 0
        longest = max(longest, run)
        carry = (int(a) + int(b) + carry) // 10
    return longest


def _key(content: str) -> str:
    return " ".join(sorted(content.split(" ")))


def _answer(content: str) -> str:
    left, right = _terms(content)
    return str(int(left) + int(right))


def _correct(content: str, text: str) -> bool:
    return whole_number(text) == int(_answer(content))


def _think(content: str, draw: random.Random) -> str:
    """Lines ``7+5+0=12 2``, ``4+8+1=13 32``: digits, carry, their sum, and the low end of the answer so far."""
    left, right = _terms(content)
    steps: list[Step] = []
    carry, low = 0, ""
    for a, b in zip(reversed(left), reversed(right), strict=True):
        total, before = int(a) + int(b) + carry, low
        low = str(total % 10) + before
        slip = total + draw.choice((-1, 1)) if 0 < total < 19 else total - 1 if total else 1
        says = f"{a}+{b}+{carry}="
        steps.append(Step(f"{says}{total} {low}", f"{says}{slip} {slip % 10}{before}", f"{says}{total}"))
        carry = total // 10
    return weave(steps, draw)


def _longest(level: int, style: str) -> int:
    digits, _ = _shape(level)
    line = 10 + digits
    return digits + 3 + (0 if style == "direct" else digits * line + line + 8 + 18 + 2)


def _instruction(content: str) -> str:
    return f"What is {content.replace(' ', ' + ')}?"


RULES = Rules(
    name="add",
    word="add",
    levels=(1, 100 * MAX_DIGITS + MAX_DIGITS - 1),
    default={"direct": 502, "trace": 705},
    draw=_draw,
    key=_key,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
)
