"""Worker processes that callers on many threads borrow one by one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from truegain.core.errors import RunError
from truegain.core.types import Abstain
from truegain.runtime import Result, Workers


@dataclass
class Pool:
    """Single workers that callers on any thread borrow; started when all that there are are busy.

    Who waits for one is woken when one is free, when a start fails, with its error where none is left to wait for, and
    by `close`. ``failed`` and ``closed`` count what happened, so that a waiter sees what came while it waited.
    """

    start: Callable[[], Workers]
    most: int
    free: list[Workers] = field(default_factory=list)
    made: list[Workers] = field(default_factory=list)
    starting: int = 0
    failed: int = 0
    closed: int = 0
    failure: Exception | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def ask(self, payloads: Sequence[Any], deadline: float) -> list[Result | Abstain]:
        """One answer per payload, in order; many are dealt out over the workers.

        Raises what starting a worker raises, and RunError where `close` came before a worker was free.
        """
        lanes = min(self.most, len(payloads))
        if lanes <= 1:
            return self._on_one(payloads, deadline)
        answers: list[Any] = [None] * len(payloads)
        with ThreadPoolExecutor(lanes) as threads:
            dealt = [payloads[lane::lanes] for lane in range(lanes)]
            for lane, said in enumerate(threads.map(lambda part: self._on_one(part, deadline), dealt)):
                answers[lane::lanes] = said
        return answers

    def _on_one(self, payloads: Sequence[Any], deadline: float) -> list[Result | Abstain]:
        with self._borrowed() as worker:
            return worker.map(payloads, deadline)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Workers]:
        worker = self._waited() or self._new()
        try:
            yield worker
        finally:
            with self.changed:
                if any(worker is one for one in self.made):
                    self.free.append(worker)
                    self.changed.notify_all()

    def _waited(self) -> Workers | None:
        """A free worker, waited for where there may be no more; None counts the caller as starting another one."""
        with self.changed:
            failed, closed = self.failed, self.closed
            while not self.free:
                if self.closed != closed:
                    raise RunError("the workers were closed while a call waited for one; call again to start new ones")
                if self.failed != failed and self.failure is not None and not self.made and not self.starting:
                    raise self.failure
                if len(self.made) + self.starting < self.most:
                    self.starting += 1
                    return None
                self.changed.wait()
            return self.free.pop()

    def _new(self) -> Workers:
        """One more; others start theirs meanwhile."""
        closed = self.closed
        try:
            made = self.start()
        except BaseException as error:
            with self.changed:
                self.starting -= 1
                if isinstance(error, Exception):  # Ctrl-C is its own thread's
                    self.failed, self.failure = self.failed + 1, error
                self.changed.notify_all()
            raise
        with self.changed:
            self.starting -= 1
            if kept := self.closed == closed:
                self.made.append(made)
            self.changed.notify_all()
        if not kept:
            made.close()
            raise RunError("the workers were closed while one was started; call again to start new ones")
        return made

    def close(self) -> None:
        """End them all; who waits for one is told, and the next call starts new ones."""
        with self.changed:
            ended = [*self.made]
            self.made.clear()
            self.free.clear()
            self.closed += 1
            self.changed.notify_all()
        for worker in ended:
            worker.close()
