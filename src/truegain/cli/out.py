"""Where output goes: results on stdout, everything else on stderr, and text from models made harmless."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PIPE_WIDTH = 160
"""Columns of a table when stdout is no terminal: other programs want whole lines."""


def console(*, stderr: bool = False) -> Console:
    """A console that reads no markup and no emoji codes out of what it prints."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=not stream.isatty())


def say(text: str) -> None:
    """One line for the user on stderr, whatever stdout is used for."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    print(indent + printable(text), file=sys.stderr, flush=True)


def quiet_libraries() -> None:
    """No progress bars from transformers: they would be drawn over ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def printable(text: str) -> str:
    r"""The text on one line: line breaks and tabs become spaces, what does not print is escaped.

    >>> printable("a\n  b\x1b[31m")
    'a b\\x1b[31m'
    """
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def duration(seconds: float) -> str:
    """``7 s``, ``3 min 20 s``, ``1 h 05 min``.

    >>> duration(200), duration(3900)
    ('3 min 20 s', '1 h 05 min')
    """
    whole = int(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def untrusted(text: str, style: str = "", *, limit: int = 2000) -> Text:
    """Text of a model or a file for the terminal: bounded, no control characters, never read as markup."""
    from rich.text import Text

    from truegain.report.escape import visible

    return Text(visible(text, limit=limit), style=style)


def strict(value: Any) -> Any:
    """The value as strict JSON holds it: numbers that are not finite become null, tuples lists, the unknown text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [strict(item) for item in value]
    return str(value)


def print_json(value: Any) -> None:
    """The one JSON document of a command, in ASCII, so that neither the terminal nor a lone surrogate can break it."""
    print(json.dumps(strict(value), indent=2, allow_nan=False))


@contextlib.contextmanager
def json_lines(active: bool) -> Iterator[Callable[[Any], None]]:
    """A function that writes one JSON line in ASCII to stdout; meanwhile every other print goes to stderr.

    When not ``active`` nothing is redirected and the function does nothing.
    """
    if not active:
        yield lambda value: None
        return
    stdout = sys.stdout

    def write(value: Any) -> None:
        stdout.write(json.dumps(strict(value), allow_nan=False) + "\n")
        stdout.flush()

    with contextlib.redirect_stdout(sys.stderr):
        yield write
