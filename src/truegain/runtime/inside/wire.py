"""Values as JSON that keeps Python's types, between two processes that do not trust each other. Standard library only.

What stands for itself in JSON stands for itself; all else is ``[tag, content]``. What cannot be carried by value, such
as an instance of a class of the code's own, travels as a number by which the other side may ask about it.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import math
from collections.abc import Callable, Iterable
from typing import Any

_SHORT = 10**15


class Uncarried(TypeError):
    """A value that cannot cross."""


def pack(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """The value as JSON; ``keep`` gives the number of an object that is to be asked about, None refuses such.

    >>> pack({(1, 2): {3.5}})
    ['dict', [[['tuple', [1, 2]], ['set', [3.5]]]]]
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_SHORT < number < _SHORT else ["int", hex(number)]
    if isinstance(value, float):
        number = float.__float__(value)
        return number if math.isfinite(number) else ["float", repr(number)]
    for name, kind in _MANY.items():
        if isinstance(value, kind):
            return [name, [pack(part, keep) for part in kind.__iter__(value)]]
    if isinstance(value, dict):
        return ["dict", [[pack(key, keep), pack(part, keep)] for key, part in dict.items(value)]]
    for name, (kind, write, _) in _PLAIN.items():
        if type(value) is kind:
            return [name, write(value)]
    if keep is None:
        raise Uncarried(f"a {type(value).__name__} cannot be handed over")
    return ["object", [keep(value), type(value).__name__]]


def unpack(packed: Any, found: Callable[[int, str], Any]) -> Any:
    """The value again; ``found`` gives what stands for an object of that number and type name.

    Raises ValueError for what `pack` cannot have written: the sender may be anybody.
    """
    if packed is None or type(packed) in (bool, int, float, str):
        return packed
    if type(packed) is not list or len(packed) != 2 or type(packed[0]) is not str:
        raise ValueError("not a packed value")
    tag, content = packed
    if tag in _MANY and type(content) is list:
        return _MANY[tag](unpack(part, found) for part in content)
    if tag == "dict" and type(content) is list:
        return {unpack(key, found): unpack(value, found) for key, value in map(_two, content)}
    if tag == "object":
        number, name = _two(content)
        if type(number) is int and type(name) is str:
            return found(number, name[:100])
    if tag in _PLAIN and type(content) is str and len(content) < 1 << 24:
        return _PLAIN[tag][2](content)
    raise ValueError("not a packed value")


def _two(pair: Any) -> Iterable[Any]:
    if type(pair) is not list or len(pair) != 2:
        raise ValueError("not a pair")
    return pair


_MANY: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
_PLAIN: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "int": (int, hex, lambda text: int(text, 16)),
    "float": (float, repr, float),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "bytearray": (bytearray, bytearray.hex, bytearray.fromhex),
    "complex": (complex, repr, complex),
    "range": (range, lambda r: f"{r.start},{r.stop},{r.step}", lambda text: range(*map(int, text.split(",")))),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "fraction": (fractions.Fraction, lambda f: f"{f.numerator:x}/{f.denominator:x}", lambda text: _fraction(text)),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "timedelta": (
        datetime.timedelta,
        lambda d: f"{d.days},{d.seconds},{d.microseconds}",
        lambda text: datetime.timedelta(*map(int, text.split(","))),
    ),
}


def _fraction(text: str) -> fractions.Fraction:
    over, _, under = text.partition("/")
    return fractions.Fraction(int(over, 16), int(under, 16))
