"""Worker processes that callers on many threads borrow one by one."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from truegain.core.types import Abstain
from truegain.runtime import Result, Workers


@dataclass
class Pool:
    """Single workers that callers on any thread borrow; started when all that there are are busy."""

    start: Callable[[], Workers]
    most: int
    free: queue.SimpleQueue[Workers] = field(default_factory=queue.SimpleQueue)
    made: list[Workers] = field(default_factory=list)
    starting: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, payloads: Sequence[Any], deadline: float) -> list[Result | Abstain]:
        """One answer per payload, in order; many are dealt out over the workers."""
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
        worker: Workers | None = None
        with contextlib.suppress(queue.Empty):
            worker = self.free.get_nowait()
        if worker is None:
            worker = self._new() or self.free.get()
        try:
            yield worker
        finally:
            if worker in self.made:
                self.free.put(worker)

    def _new(self) -> Workers | None:
        """One more, if there may be: others start theirs meanwhile."""
        with self.lock:
            if len(self.made) + self.starting >= self.most:
                return None
            self.starting += 1
        try:
            made = self.start()
            self.made.append(made)
        finally:
            with self.lock:
                self.starting -= 1
        return made

    def close(self) -> None:
        """End them all; the next call starts new ones."""
        with self.lock:
            for worker in self.made:
                worker.close()
            self.made.clear()
            self.free = queue.SimpleQueue()
