"""Write a program that gives the shown outputs for the shown inputs, and hidden ones. Content: the program ``2*x+1``.

Level 1 is a sum or a product, 2 a line or a square, 3 has a branch, 4 a loop, 5 a loop inside a branch. The prompt
shows four of six unit tests, as ``0:1 3:7 8:17 17:35``; inputs grow from test to test, so that a program that is right
on small numbers alone passes the first ones. Any program that gives the same outputs is right. The language is that of
`truegain.tasks._interpreter`; a program that fails, or runs out of steps or bits, fails the test.

The embedded model was not fitted on this task: it can write programs (every character has its token), but has to find
out how.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from truegain.tasks._interpreter import parse, run
from truegain.tasks.generated import Rules, Step, digest, weave

RANGES = ((0, 0), (1, 1), (2, 4), (5, 9), (10, 14), (15, 19))
"""The inputs of each unit test lie in one of these, both ends included."""
SHOWN = (0, 2, 3, 5)
"""Numbers of the tests that the prompt shows."""
LARGEST = 10**7


@lru_cache(maxsize=65536)
def unit_tests(content: str) -> tuple[tuple[int, int], ...]:
    """The unit tests of a reference program: (input, output), a pure function of the program's text.

    Raises ValueError for a text that is no program, or a program that fails on an input.
    """
    program = parse(content)
    rng = random.Random(digest("program", "inputs", content))
    inputs = [rng.randint(low, high) for low, high in RANGES]
    return tuple((x, run(program, x)) for x in inputs)


def passed(content: str, text: str | None) -> list[float]:
    """Per unit test of the reference program, whether the answer passes it: 1.0 or 0.0."""
    tests = unit_tests(content)
    try:
        program = parse("" if text is None else text)
    except ValueError:
        return [0.0] * len(tests)
    return [float(_gives(program, x, y)) for x, y in tests]


def _gives(program: Any, x: int, y: int) -> bool:
    try:
        return run(program, x) == y
    except ValueError:
        return False


def _draw(rng: random.Random, level: int) -> str | None:
    a, b, c, d = rng.randint(2, 9), rng.randint(2, 50), rng.randint(1, 9), rng.randint(3, 12)
    forms = {
        1: (f"x+{b}", f"x-{b}", f"{b}*x"),
        2: (f"{a}*x+{b}", f"{a}*x-{b}", f"x*x+{b}", f"x*x-{c}*x"),
        3: (f"if(x<{d},{a}*x,x+{b})", f"if(x>{d},{c}*x+{a},x)", f"max({a}*x,x+{b})", f"min({a}*x,x+{b})"),
        4: (f"rep(x,{c},a+i)", f"rep(x,{b},a+{a}*i)", f"rep(x%{d},{c},2*a)", f"rep({a},x,a+{c}*i)"),
        5: (f"if(x<{d},{a}*x,rep(x,{c},a+i))", f"if(x>{d},x+{b},rep(x,{c},a+{a}*i))", f"rep(x,{c},max(a,i*{a}))"),
    }
    content = rng.choice(forms[level])
    outputs = [y for _, y in unit_tests(content)]
    return content if len(set(outputs)) > 3 and max(map(abs, outputs)) < LARGEST else None


@lru_cache(maxsize=65536)
def _key(content: str) -> str:
    """What the program gives from 0 to 19: one key for ``2*x`` and ``x+x``."""
    program = parse(content)
    return " ".join(str(run(program, x)) for x in range(RANGES[-1][1] + 1))


def shown(content: str) -> str:
    """The tests that the prompt shows.

    >>> shown("2*x+1").split(" ")[0]
    '0:1'
    """
    tests = unit_tests(content)
    return " ".join(f"{x}:{y}" for x, y in (tests[n] for n in SHOWN))


def _answer(content: str) -> str:
    unit_tests(content)
    return content


def _correct(content: str, text: str) -> bool:
    return all(passed(content, text))


def _facts(content: str, answer: str | None) -> Mapping[str, Any]:
    return {"test_pass": passed(content, answer)}


def _think(content: str, draw: random.Random) -> str:
    """The program, then a line ``f(3)=7`` for each shown test."""
    steps = [Step(f"f(x)={content}")]
    for x, y in (unit_tests(content)[n] for n in SHOWN):
        steps.append(Step(f"f({x})={y}", f"f({x})={y + draw.choice((-1, 1))}", f"f({x})={y}"))
    return weave(steps, draw)


def _longest(level: int, style: str) -> int:
    program = (4, 8, 18, 15, 29)[level - 1]
    line = 16
    return program + 3 + (0 if style == "direct" else program + 6 + 6 * line + 8 + 12 + 2)


def _instruction(content: str) -> str:
    tests = ", ".join(f"f({x})={y}" for x, y in (unit_tests(content)[n] for n in SHOWN))
    return (
        f"Write a program, one expression in x, that computes a function f with {tests}; it is also run on other "
        "inputs. It may use whole numbers, x, + - * / % (division rounds down), comparisons < > = (1 or 0), "
        "parentheses, if(c,a,b), max(a,b), min(a,b), abs(a), rep(n,start,body), which repeats body n times, and "
        "while(c,start,body); in a body, a is the value so far and i counts from 1."
    )


RULES = Rules(
    name="program",
    word="prog",
    levels=(1, 5),
    default={"direct": 2, "trace": 2},
    draw=_draw,
    key=_key,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
    shown=shown,
    facts=_facts,
    supplies=("test_pass",),
)
