"""Follow a chain of assignments modulo 10. The level is how many variables. Content: ``a=3 b=a+4 c=b*2``."""

from __future__ import annotations

import random
import re

from truegain.tasks.generated import Rules, Step, weave, whole_number

LETTERS = "abcdefghijklmnop"
_RIGHT = re.compile(r"([a-p])([+*-])([a-p0-9])")


def _lines(content: str) -> list[tuple[str, str, int]]:
    """For each variable its name, its right side with the values put in (empty for the first), and its value."""
    known: dict[str, int] = {}
    lines: list[tuple[str, str, int]] = []
    for name, part in zip(LETTERS, content.split(" "), strict=False):
        head, _, right = part.partition("=")
        found = _RIGHT.fullmatch(right)
        if head != name or (found is None if known else not re.fullmatch("[0-9]", right)):
            raise ValueError("not a chain")
        if found is None:
            known[name] = int(right)
            lines.append((name, "", known[name]))
            continue
        if found[1] not in known or (found[3].isalpha() and found[3] not in known):
            raise ValueError("not a chain")
        x, op = known[found[1]], found[2]
        y = known[found[3]] if found[3].isalpha() else int(found[3])
        known[name] = (x + y if op == "+" else x - y if op == "-" else x * y) % 10
        lines.append((name, f"{x}{op}{y}", known[name]))
    if len(lines) != content.count(" ") + 1:
        raise ValueError("not a chain")
    return lines


def _draw(rng: random.Random, level: int) -> str:
    parts = [f"a={rng.randrange(10)}"]
    for i in range(1, level):
        # Mostly the variable just before, so that the depth grows with the level; *5 and *0 would forget the past.
        source = LETTERS[i - 1] if rng.random() < 0.7 else LETTERS[rng.randrange(i)]
        op = rng.choice("++--*")
        other = str(rng.choice((2, 3, 7, 9))) if op == "*" else str(rng.randrange(1, 10))
        if op != "*" and i > 1 and rng.random() < 0.25:
            other = LETTERS[rng.randrange(i)]
        parts.append(f"{LETTERS[i]}={source}{op}{other}")
    return " ".join(parts)


def _answer(content: str) -> str:
    return str(_lines(content)[-1][2])


def _correct(content: str, text: str) -> bool:
    return whole_number(text) == int(_answer(content))


def _think(content: str, draw: random.Random) -> str:
    steps: list[Step] = []
    for name, sides, result in _lines(content):
        slip = (result + draw.randrange(1, 10)) % 10
        says = f"{name}={sides}=" if sides else f"{name}="
        steps.append(Step(f"{says}{result}", f"{says}{slip}", f"{says}{result}"))
    return weave(steps, draw)


def _longest(level: int, style: str) -> int:
    return 3 + (0 if style == "direct" else 8 * level + 8 + 8 + 17 + 2)


def _instruction(content: str) -> str:
    asked = LETTERS[content.count(" ")]
    return f"All values are digits and every result is taken modulo 10: {content}. What is {asked}?"


RULES = Rules(
    name="chain",
    word="chain",
    levels=(2, 16),
    default={"direct": 3, "trace": 8},
    draw=_draw,
    key=str,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
)
