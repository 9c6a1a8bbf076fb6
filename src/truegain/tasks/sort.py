"""Sort digits. The level is how many. Content: ``5 3 8 1``. The trace inserts one digit per line."""

from __future__ import annotations

import random
import re
from bisect import insort

from truegain.tasks.generated import Rules, Step, weave


def _digits(content: str) -> list[int]:
    if not re.fullmatch(r"[0-9](?: [0-9])*", content):
        raise ValueError("not a list of digits")
    return [int(d) for d in content.split(" ")]


def _draw(rng: random.Random, level: int) -> str:
    return " ".join(str(rng.randrange(10)) for _ in range(level))


def _answer(content: str) -> str:
    return " ".join(map(str, sorted(_digits(content))))


def _correct(content: str, text: str) -> bool:
    return re.sub(r"[ ,\n]+", " ", text) == _answer(content)


def _think(content: str, draw: random.Random) -> str:
    done: list[int] = []
    steps: list[Step] = []
    for digit in _digits(content):
        slip = list(done)
        slip.insert(draw.randrange(len(done) + 1), digit)
        insort(done, digit)
        right = "".join(map(str, done))
        steps.append(Step(f"{digit}:{right}", f"{digit}:{''.join(map(str, slip))}", right))
    return weave(steps, draw)


def _longest(level: int, style: str) -> int:
    answer = 2 * level + 1
    # Lines "d:sorted\n", then one more line of each kind: wrong, "no back", "check ... ok".
    return answer + (0 if style == "direct" else level * (level + 1) // 2 + 3 * level + 2 * level + 23)


def _instruction(content: str) -> str:
    return f"Sort these digits in ascending order, separated by spaces: {content}"


RULES = Rules(
    name="sort",
    word="sort",
    levels=(2, 16),
    default={"direct": 11, "trace": 11},
    draw=_draw,
    key=_answer,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
)
