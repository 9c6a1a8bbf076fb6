"""Add two whole numbers. The level is how many digits each has. Content: ``47 85``. The trace goes digit by digit."""

from __future__ import annotations

import random
import re

from truegain.tasks.generated import Rules, Step, weave, whole_number


def _terms(content: str) -> tuple[str, str]:
    if not re.fullmatch(r"[0-9]{1,20} [0-9]{1,20}", content):
        raise ValueError("not two numbers")
    left, right = content.split(" ")
    return left, right


def _draw(rng: random.Random, level: int) -> str:
    low = 10 ** (level - 1) if level > 1 else 0
    return f"{rng.randrange(low, 10**level)} {rng.randrange(low, 10**level)}"


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
    line = 10 + level
    return level + 3 + (0 if style == "direct" else level * line + line + 8 + 18 + 2)


def _instruction(content: str) -> str:
    return f"What is {content.replace(' ', ' + ')}?"


RULES = Rules(
    name="add",
    word="add",
    levels=(1, 12),
    default={"direct": 5, "trace": 7},
    draw=_draw,
    key=_key,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
)
