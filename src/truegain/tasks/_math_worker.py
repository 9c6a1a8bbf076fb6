"""The child's side of `truegain.tasks.math_check`: one answer against one key, by math-verify. Loaded by path.

Math-verify's own time limits need the main thread and answer False when they pass, so they are off here: the alarm
below bounds the whole check and says so. What ignores the alarm is killed by the pool.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import lru_cache
from types import FrameType
from typing import Any, Literal


class Late(BaseException):
    """The time is up. No `Exception`, as the libraries catch these all along the way."""


def check(payload: dict[str, Any]) -> Literal["right", "wrong", "unread", "bad key"]:
    """Whether ``answer`` equals ``key``, both text in which math-verify finds an expression, within ``seconds``.

    ``unread``: no expression in the answer; ``bad key``: none in the key. Raises TimeoutError when the time is up,
    and what the comparison raises.
    """
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, payload["seconds"], 0.1)  # again and again: one may be swallowed
    try:
        return _check(payload["key"], payload["answer"])
    except Late:
        raise TimeoutError(f"no verdict within {payload['seconds']:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _late(number: int, frame: FrameType | None) -> None:
    raise Late


def _check(key: str, answer: str) -> Literal["right", "wrong", "unread", "bad key"]:
    from math_verify import verify

    gold = _read_key(key)
    if not gold:
        return "bad key"
    given = _read(answer)
    if not given:
        return "unread"
    # The key goes first: the comparison is not symmetric.
    return "right" if verify(list(gold), list(given), timeout_seconds=None, raise_on_error=True) else "wrong"


def _read(text: str) -> tuple[Any, ...]:
    """What math-verify finds in a text; nothing when that is no expression but a mere string."""
    from math_verify import parse

    # Errors are not raised: a text that the parser chokes on is a text without an expression.
    found = parse(text, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    return tuple(found) if any(not isinstance(part, str) for part in found) else ()


_read_key = lru_cache(maxsize=256)(_read)


def ready(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, when the grammar and the patterns are built, so that no check pays for it: an adapter."""
    try:
        _check("\\boxed{1}", "\\boxed{\\frac{1}{2}}")
    except ImportError as error:
        raise ImportError("math-verify is not installed; pip install 'truegain[math]'") from error
    return function
