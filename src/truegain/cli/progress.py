"""Progress of work that may take long: a bar on a terminal, a plain line every few seconds elsewhere. On stderr."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from truegain.cli.out import console, duration, printable, say

FIRST_LINE, BETWEEN_LINES = 2.0, 10.0
"""Seconds: work that ends sooner prints nothing where there is no terminal."""

Item = TypeVar("Item")


class Progress:
    """How far some work is; made by `progress`. ``total`` counts ``unit``; None where nobody can know it."""

    def __init__(self, what: str, total: float | None, unit: str, *, clock: Callable[[], float] = time.monotonic):
        """``clock`` tells seconds."""
        self.what, self.total, self.unit = printable(what), total, unit
        self.done, self.note, self.quiet = 0.0, "", False
        self.show: Callable[[str], None] = say
        self._clock = clock
        self._began = clock()
        self._from = 0.0

    def at(self, done: float, note: str | None = None) -> None:
        """So many units are done in all; ``note`` replaces the words behind the figures."""
        self.done = done
        self.note = self.note if note is None else printable(note)[:200]

    def begin(self, what: str, total: float | None = None, unit: str = "", done: float = 0.0) -> None:
        """A new phase with a count and clock of its own. ``done`` units were there before; the rate leaves them out."""
        self.what, self.total, self.unit, self.done, self.note = printable(what), total, unit, done, ""
        self._began, self._from, self.quiet = self._clock(), done, False

    def say(self, text: str) -> None:
        """A line that stays, above the bar where there is one."""
        self.show(text)

    def used(self) -> float:
        """Seconds since this phase began."""
        return max(self._clock() - self._began, 0.0)

    def line(self) -> str:
        """``eval: 40 of 200 problems, 12.3 problems per second, 13 s left``; without a total, the seconds so far."""
        used = self.used()
        parts = [f"{self.done:g} of {self.total:g} {self.unit}"] if self.total is not None else []
        made = self.done - self._from
        if made > 0 and used > 0:
            parts.append(_rate(made / used, self.unit))
        if self.total is not None and made > 0:
            parts.append(f"{duration(max(self.total - self.done, 0.0) * used / made)} left")
        else:
            parts.append(f"{duration(used)} so far")
        return f"{self.what}: {', '.join(part for part in (*parts, self.note) if part)}"

    def __rich__(self) -> Any:
        """The line with a bar before it."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        if self.total:
            grid.add_row(ProgressBar(total=self.total, completed=self.done, width=20), Text(self.line(), no_wrap=True))
        else:
            grid.add_row(
                ProgressBar(pulse=True, animation_time=self._clock(), width=20), Text(self.line(), no_wrap=True)
            )
        return grid


def _rate(per_second: float, unit: str) -> str:
    """``12.3 problems per second``, or ``4.2 s per problem`` for what is slow."""
    if per_second >= 1:
        return f"{per_second:.1f} {unit} per second"
    return f"{1 / per_second:.1f} s per {unit.removesuffix('s')}"


@contextlib.contextmanager
def progress(what: str, total: float | None = None, unit: str = "", *, quiet: bool = False) -> Iterator[Progress]:
    """Show how far the work of the block is. The bar leaves nothing behind; results are for the caller to print.

    ``quiet`` keeps the plain lines back until `Progress.begin`: torch's import is worth a bar, but no line in a log.
    """
    made = Progress(what, total, unit)
    made.quiet = quiet
    to = console(stderr=True)
    if to.is_terminal and not to.is_dumb_terminal:
        from rich.live import Live

        made.show = lambda text: to.print(printable(text))
        view = Live(
            made, console=to, refresh_per_second=4, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        with view:
            yield made
        return
    over = threading.Event()
    thread = threading.Thread(target=_lines, args=(made, over), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        over.set()
        thread.join()


def _lines(made: Progress, over: threading.Event) -> None:
    wait = FIRST_LINE
    while not over.wait(wait):
        if not made.quiet and made.used() >= FIRST_LINE:
            say(made.line())
        wait = FIRST_LINE if made.quiet else BETWEEN_LINES


def in_blocks(items: Sequence[Item], size: int) -> Iterable[Sequence[Item]]:
    """The items in blocks of at most ``size``, in order: fixed, so that no draw depends on how fast a machine is."""
    return (items[i : i + size] for i in range(0, len(items), size))
