"""Programs of one expression on whole numbers, parsed and run with every size limited: text, depth, steps, bits.

Nothing of Python is evaluated. The language: numbers, the input ``x``, ``+ - * / %`` (division rounds down), a minus
sign, comparisons ``< > =`` (1 or 0), parentheses, and the functions

- ``if(c,a,b)``: a where c is not 0, else b; the other one is not run
- ``max(a,b)``, ``min(a,b)``, ``abs(a)``
- ``rep(n,start,body)``: body n times; in it ``a`` is the value so far and ``i`` counts from 1
- ``while(c,start,body)``: body as long as c is not 0; ``a`` and ``i`` in both
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_CHARS, MAX_DEPTH, MAX_DIGITS, MAX_BITS, MAX_STEPS = 200, 24, 12, 256, 1000
ARGUMENTS = {"if": 3, "max": 2, "min": 2, "abs": 1, "rep": 3, "while": 3}
LOOPS = ("rep", "while")

Program = int | str | tuple[str, tuple["Program", ...]]
"""A number, a name, or an operator or function with what it is applied to."""

_TOKEN = re.compile(r"[0-9]+|[a-z]+|[-+*/%<>=(),]")


class _Reader:
    """A cursor over the tokens of one program."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        if "".join(self.tokens) != text.replace(" ", ""):
            raise ValueError("not a program")
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        found = self.peek()
        self.at += 1
        return found

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise ValueError("unbalanced")


def parse(text: str) -> Program:
    """The program that a text writes.

    Raises:
        ValueError: not a program, a name that means nothing where it stands, or more than 200 characters, a nesting of
            24, numbers of 12 digits.

    >>> parse("2*x+1")
    ('+', (('*', (2, 'x')), 1))
    """
    if len(text) > MAX_CHARS:
        raise ValueError("too long")
    reader = _Reader(text)
    found = _comparison(reader, 0, frozenset("x"))
    if reader.peek():
        raise ValueError("not a program")
    return found


def _comparison(reader: _Reader, depth: int, names: frozenset[str]) -> Program:
    left = _sum(reader, depth, names)
    if reader.peek() in ("<", ">", "="):
        return (reader.take(), (left, _sum(reader, depth, names)))
    return left


def _sum(reader: _Reader, depth: int, names: frozenset[str]) -> Program:
    found = _product(reader, depth, names)
    while reader.peek() in ("+", "-"):
        found = (reader.take(), (found, _product(reader, depth, names)))
    return found


def _product(reader: _Reader, depth: int, names: frozenset[str]) -> Program:
    found = _atom(reader, depth, names)
    while reader.peek() in ("*", "/", "%"):
        found = (reader.take(), (found, _atom(reader, depth, names)))
    return found


def _atom(reader: _Reader, depth: int, names: frozenset[str]) -> Program:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    first = reader.take()
    if first == "(":
        found = _comparison(reader, depth + 1, names)
        reader.expect(")")
        return found
    if first == "-":
        return ("-", (0, _atom(reader, depth + 1, names)))
    if first in ARGUMENTS:
        return first, _arguments(reader, first, depth + 1, names)
    if first in names:
        return first
    if not first.isdigit() or len(first) > MAX_DIGITS:
        raise ValueError("not a program")
    return int(first)


def _arguments(reader: _Reader, function: str, depth: int, names: frozenset[str]) -> tuple[Program, ...]:
    found: list[Program] = []
    for place in range(ARGUMENTS[function]):
        reader.expect("," if place else "(")
        # What a loop repeats sees the value so far and the counter: the body, and the condition of a while.
        inner = function in LOOPS and (place == 2 or (place == 0 and function == "while"))
        found.append(_comparison(reader, depth, names | {"a", "i"} if inner else names))
    reader.expect(")")
    return tuple(found)


@dataclass
class _Fuel:
    """What is left of a run's steps."""

    steps: int
    bits: int

    def burn(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise ValueError("too many steps")


def run(program: Program, x: int, *, steps: int = MAX_STEPS, bits: int = MAX_BITS) -> int:
    """What a program gives for an input.

    Every number, name, operator and turn of a loop is a step. ``bits`` bounds every value, and with it memory: no more
    values are alive at a time than the program has characters.

    Raises:
        ValueError: a division by zero, more than ``steps`` steps, or a value of more than ``bits`` bits.

    >>> run(parse("rep(x,1,a*i)"), 5)
    120
    """
    return _run(program, {"x": x}, _Fuel(steps, bits))


def _run(program: Program, names: Mapping[str, int], fuel: _Fuel) -> int:
    fuel.burn()
    if isinstance(program, int):
        return program
    if isinstance(program, str):
        return names[program]
    head, given = program
    if head == "if":
        return _run(given[1] if _run(given[0], names, fuel) else given[2], names, fuel)
    if head in LOOPS:
        return _loop(head, given, names, fuel)
    out = _apply(head, [_run(one, names, fuel) for one in given])
    if out.bit_length() > fuel.bits:
        raise ValueError("too large")
    return out


def _loop(head: str, given: tuple[Program, ...], names: Mapping[str, int], fuel: _Fuel) -> int:
    often = _run(given[0], names, fuel) if head == "rep" else 0
    value, count = _run(given[1], names, fuel), 1
    while True:
        fuel.burn()
        inside = {**names, "a": value, "i": count}
        if count > often if head == "rep" else not _run(given[0], inside, fuel):
            return value
        value, count = _run(given[2], inside, fuel), count + 1


def _apply(head: str, given: list[int]) -> int:
    if head in ("/", "%") and given[1] == 0:
        raise ValueError("division by zero")
    match head, given:
        case "+", (a, b):
            return a + b
        case "-", (a, b):
            return a - b
        case "*", (a, b):
            return a * b
        case "/", (a, b):
            return a // b
        case "%", (a, b):
            return a % b
        case "<", (a, b):
            return int(a < b)
        case ">", (a, b):
            return int(a > b)
        case "=", (a, b):
            return int(a == b)
        case _:
            return {"max": max, "min": min, "abs": lambda values: abs(values[0])}[head](given)
