"""Answers questions about a program's names, in the program's own process. Standard library only: read inside.

Nothing here is trusted by the one that asks: the program may put anything in the place of these functions.
"""

from __future__ import annotations

import json
import operator
import os
from typing import Any

from . import guest, wire

_OPERATIONS: dict[str, Any] = {
    "len": len,
    "iter": iter,
    "next": next,
    "item": operator.getitem,
    "put": operator.setitem,
    "has": operator.contains,
    "str": str,
    "repr": repr,
    "bool": bool,
}


class _Answers:
    def __init__(self, names: dict[str, Any]) -> None:
        self.kept: list[Any] = [names]
        self.numbers: dict[int, int] = {}

    def keep(self, value: Any) -> int:
        """The number by which the other side may ask about an object; it lives as long as the process."""
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.kept)
            self.kept.append(value)
        return number

    def to(self, question: dict[str, Any]) -> dict[str, Any]:
        """What came of it: a value, and the arguments where the call changed them; or the exception's name."""
        try:
            of = self.kept[question["of"]]
            args = [wire.unpack(arg, lambda number, _: self.kept[number]) for arg in question["args"]]
            named = {
                key: wire.unpack(arg, lambda number, _: self.kept[number]) for key, arg in question["named"].items()
            }
            value = self._did(question["do"], of, args, named)
            reply: dict[str, Any] = {"value": wire.pack(value, self.keep)}
            after = [wire.pack(arg, self.keep) for arg in args]
            if after != question["args"]:
                reply["args"] = after
            return reply
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            return {"raised": kinds, "text": str(error)[:1000]}

    def _did(self, do: str, of: Any, args: list[Any], named: dict[str, Any]) -> Any:
        if do == "name":
            return of[args[0]]
        if do == "attribute":
            return getattr(of, args[0])
        if do == "call":
            return of(*args, **named)
        return _OPERATIONS[do](of, *args)


def answer(work: dict[str, Any]) -> None:
    """Run the program, then answer until nobody asks any more."""
    questions, replies = os.fdopen(4, "rb"), os.fdopen(5, "wb")
    answers = _Answers(guest.run(work["source"], "solution"))
    while line := questions.readline():
        replies.write(json.dumps(answers.to(json.loads(line))).encode() + b"\n")
        replies.flush()
    os._exit(0)
