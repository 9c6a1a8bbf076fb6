"""A bounded parser for arithmetic on whole numbers: no eval, exact rationals, every size limited."""

from __future__ import annotations

from fractions import Fraction

MAX_CHARS, MAX_DEPTH, MAX_DIGITS, MAX_BITS = 200, 16, 12, 256
DIGITS = frozenset("0123456789")
Tree = int | tuple[str, "Tree", "Tree"]


class _Reader:
    """A cursor over the characters of one expression."""

    def __init__(self, text: str, unary: bool) -> None:
        self.text, self.unary, self.at = text, unary, 0

    def peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at] == " ":
            self.at += 1
        return self.text[self.at] if self.at < len(self.text) else ""

    def take(self) -> str:
        found = self.peek()
        self.at += 1
        return found


def parse(text: str, unary: bool = False) -> Tree:
    """The tree of an expression of whole numbers, ``+ - * /``, parentheses and spaces; ``*`` and ``/`` bind tighter.

    A tree is a number or ``(operator, left, right)``. ``unary`` allows a minus sign before a number or parenthesis.

    Raises:
        ValueError: not such an expression, or longer than 200 characters, deeper than 16, numbers over 12 digits.

    >>> parse("2*(3+4)")
    ('*', 2, ('+', 3, 4))
    """
    if len(text) > MAX_CHARS:
        raise ValueError("too long")
    reader = _Reader(text, unary)
    tree = _sum(reader, 0)
    if reader.peek():
        raise ValueError("not arithmetic")
    return tree


def _sum(reader: _Reader, depth: int) -> Tree:
    tree = _product(reader, depth)
    while reader.peek() in ("+", "-"):
        tree = (reader.take(), tree, _product(reader, depth))
    return tree


def _product(reader: _Reader, depth: int) -> Tree:
    tree = _atom(reader, depth)
    while reader.peek() in ("*", "/"):
        tree = (reader.take(), tree, _atom(reader, depth))
    return tree


def _atom(reader: _Reader, depth: int) -> Tree:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    first = reader.take()
    if first == "(":
        tree = _sum(reader, depth + 1)
        if reader.take() != ")":
            raise ValueError("unbalanced")
        return tree
    if first == "-" and reader.unary:
        inner = _atom(reader, depth + 1)
        return -inner if isinstance(inner, int) else ("-", 0, inner)
    start = reader.at - 1
    while reader.at < len(reader.text) and reader.text[reader.at] in DIGITS:
        reader.at += 1
    if first not in DIGITS or reader.at - start > MAX_DIGITS:
        raise ValueError("not arithmetic")
    return int(reader.text[start : reader.at])


def value(tree: Tree) -> Fraction:
    """The exact value of a tree.

    Raises:
        ValueError: a division by zero, or a value of more than 256 bits.
    """
    if isinstance(tree, int):
        return Fraction(tree)
    return apply(tree[0], value(tree[1]), value(tree[2]))


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """One operation on exact rationals; raises ValueError as `value` does."""
    if operator == "/" and right == 0:
        raise ValueError("division by zero")
    out = {"+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right, "/": lambda: left / right}
    result = out[operator]()
    if max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
        raise ValueError("too large")
    return result


def numbers(tree: Tree) -> list[int]:
    """The numbers of a tree from left to right."""
    return [tree] if isinstance(tree, int) else numbers(tree[1]) + numbers(tree[2])


def written(number: Fraction) -> str:
    """A rational as text: ``84``, ``-3`` or ``7/2``."""
    return str(number)
