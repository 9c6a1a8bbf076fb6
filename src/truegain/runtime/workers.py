"""A pool of worker processes that call one function: a result or an abstention with its reason, within a deadline.

The function is named, not passed: ``pkg.mod:fn`` or ``path/to/file.py:fn``. It is imported in the workers only, so that
its crash, its endless loop or its memory is theirs. Payloads and results are JSON over pipes; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truegain.core.errors import SettingError, nearest
from truegain.core.types import Abstain
from truegain.runtime._worker import MAX_REPLY

_SCRIPT = str(Path(__file__).with_name("_worker.py"))
_GRACE = 0.5
_READ = 1 << 16

Output = Literal["discard", "stderr"]


@dataclass(frozen=True)
class Result:
    """What the function returned, as JSON carries it: tuples are lists, arrays are lists, keys are strings."""

    value: Any


class _Process:
    """One worker: its process, its three pipes, and the call it is busy with."""

    def __init__(self, setup: bytes, output: Output, deadline: float, environment: Mapping[str, str]) -> None:
        ends = [os.pipe() for _ in range(3)]
        (request_read, self.requests), (self.replies, reply_write), (life_read, self.lifeline) = ends
        theirs = (request_read, reply_write, life_read)
        where = 2 if output == "stderr" else subprocess.DEVNULL
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", _SCRIPT, *map(str, theirs)],
                stdin=subprocess.DEVNULL,
                stdout=where,
                stderr=where,
                pass_fds=theirs,
                env={**os.environ, **environment},
                start_new_session=True,  # the terminal's Ctrl-C is the parent's affair
            )
        except BaseException:
            self.close_pipes()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)
        self.ready = False
        self.call: int | None = None
        self.expires = time.monotonic() + deadline
        self.inbox = bytearray()
        self.outbox = memoryview(setup)

    def flush(self) -> bool:
        """Write what the pipe takes; True when nothing is left. A dead reader shows as end of file on the replies."""
        try:
            while self.outbox:
                self.outbox = self.outbox[os.write(self.requests, self.outbox) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self.outbox = memoryview(b"")
        return True

    def receive(self) -> bytes | None:
        """The next complete reply line, b"" when there is none yet, None at the end of the stream."""
        while True:
            try:
                chunk = os.read(self.replies, _READ)
            except BlockingIOError:
                return b""
            self.inbox += chunk
            if chunk.endswith(b"\n"):
                line, self.inbox = bytes(self.inbox), bytearray()
                return line
            if not chunk or len(self.inbox) > MAX_REPLY + 1:
                return None

    def close_pipes(self) -> None:
        for fd in (self.requests, self.replies, self.lifeline):
            with contextlib.suppress(OSError):
                os.close(fd)

    def kill(self) -> int:
        """Kill the process and what it started, reap it, close its pipes; return its exit code."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)  # before the reaping, while the group's number is surely its own
        code = self.popen.wait()
        self.close_pipes()
        return code

    def left(self) -> bool:
        """True when an idle process has closed its end: it is leaving, or has left."""
        return self.receive() is None


def _end(alive: set[_Process], owner: int) -> None:
    """End the processes: idle ones leave when their requests end, the others are killed."""
    if os.getpid() != owner:
        return
    for process in alive:
        if process.ready and process.call is None:
            os.close(process.requests)
            process.requests = -1
    until = time.monotonic() + _GRACE
    for process in alive:
        while process.requests == -1 and not process.left() and time.monotonic() < until:
            time.sleep(0.002)
        process.kill()
    alive.clear()


_POOLS: weakref.WeakSet[Workers] = weakref.WeakSet()


def _disown() -> None:
    """In a forked child: let go of the pipes, which would keep the workers alive after the true parent died."""
    for pool in _POOLS:
        for process in pool._alive:
            process.close_pipes()
            process.popen.returncode = 0  # not this process's child to wait for
        pool._alive.clear()


os.register_at_fork(after_in_child=_disown)


class Workers:
    """``count`` processes that call ``target`` with one JSON-able payload at a time.

    ``target`` is ``pkg.mod:fn``, ``pkg.mod.fn`` or ``path/to/file.py:fn``. ``deadline`` bounds one call, in seconds;
    ``start_deadline`` bounds the import of the target, which no call pays for. ``memory_mb`` bounds the address space
    (MiB) that calls may add to what the loaded target holds. ``adapter`` names a function that is given the loaded
    target and returns the function to call instead. ``output`` says where the target's prints go: ``discard`` or
    ``stderr``. ``environment`` adds variables to those that the processes inherit. What a call starts dies with its
    worker, unless it makes a session of its own.

    Raises SettingError when a number is out of bounds or the target cannot be loaded.

    >>> with Workers("math:sqrt", count=1) as workers:
    ...     workers.map([4, -1, "x"])
    [Result(value=2.0), Abstain(reason='ValueError: math domain error'), \
Abstain(reason='TypeError: must be real number, not str')]
    """

    def __init__(
        self,
        target: str,
        count: int = 2,
        deadline: float = 5.0,
        memory_mb: float | None = None,
        *,
        adapter: str | None = None,
        start_deadline: float = 120.0,
        output: Output = "discard",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the processes and return when the first one has loaded the target."""
        for name, value in (("count", count), ("deadline", deadline), ("start_deadline", start_deadline)):
            if not 0 < value < math.inf:
                raise SettingError(f"workers: {name}={value} is out of bounds; it must be positive and finite")
        if memory_mb is not None and not 0 < memory_mb < math.inf:
            raise SettingError(f"workers: memory_mb={memory_mb} is out of bounds; it must be positive and finite")
        self.target, self.count, self.deadline = target, count, deadline
        self._start_deadline = start_deadline
        self._output: Output = output
        self._environment = dict(environment or {})
        self._setup: dict[str, Any] = {"target": target, "adapter": adapter, "memory_mb": memory_mb}
        self._lock = threading.Lock()
        self._short = False
        self._alive: set[_Process] = set()
        self._finish = weakref.finalize(self, _end, self._alive, os.getpid())
        _POOLS.add(self)
        try:
            self._fill()
            self._await_first()
        except BaseException:
            self.close()
            raise

    def map(self, payloads: Iterable[Any], deadline: float | None = None) -> list[Result | Abstain]:
        """Call the function with every payload; answers stand in the payloads' order.

        A call that raises, passes its ``deadline`` (seconds; None takes the pool's) or kills its worker gives an
        abstention; the others are not touched. Raises TypeError for a payload that JSON cannot hold, RuntimeError
        after `close`.
        """
        lines = [json.dumps(payload).encode() + b"\n" for payload in payloads]
        limit = self.deadline if deadline is None else deadline
        with self._lock:
            if not self._finish.alive:
                raise RuntimeError("these workers are closed")
            try:
                return self._run(lines, limit)
            except BaseException:  # Ctrl-C above all: nobody waits for these answers any more
                for process in [p for p in self._alive if p.call is not None]:
                    self._lose(process)
                raise

    def call(self, payload: Any, deadline: float | None = None) -> Result | Abstain:
        """`map` of one payload."""
        return self.map([payload], deadline)[0]

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers there are now."""
        return tuple(sorted(process.popen.pid for process in self._alive))

    def close(self) -> None:
        """End the workers. May be called twice; also happens when the pool is collected and at exit."""
        self._finish()

    def __enter__(self) -> Workers:
        """Give the pool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pool."""
        self.close()

    def _run(self, lines: list[bytes], limit: float) -> list[Result | Abstain]:
        answers: dict[int, Result | Abstain] = {}
        todo = deque(range(len(lines)))
        self._short = False
        while self._turn({}, deque(), 0.0):  # hear of those that died since the last map before they are given work
            pass
        while len(answers) < len(lines):
            self._fill()
            for process in self._alive:
                if todo and process.ready and process.call is None:
                    process.call = todo.popleft()
                    process.outbox = memoryview(lines[process.call])
                    process.expires = time.monotonic() + limit
            self._turn(answers, todo, None, limit)
        self._fill()
        return [answers[i] for i in range(len(lines))]

    def _turn(
        self, answers: dict[int, Result | Abstain], todo: deque[int], timeout: float | None, limit: float = 0.0
    ) -> bool:
        """Wait for the next event or the nearest deadline, and take in all there is; True when a worker spoke."""
        working = [p for p in self._alive if p.call is not None or not p.ready]
        if timeout is None:
            timeout = max(0.0, min(p.expires for p in working) - time.monotonic())
        with selectors.PollSelector() as selector:
            for process in self._alive:
                selector.register(process.replies, selectors.EVENT_READ, process)
                if not process.flush():
                    selector.register(process.requests, selectors.EVENT_WRITE, None)
            heard = [key.data for key, _ in selector.select(timeout) if key.data is not None]
        for process in heard:
            self._hear(process, answers, todo)
        now = time.monotonic()
        for process in [p for p in working if p in self._alive and now >= p.expires]:
            if process.call is not None:
                answers[process.call] = Abstain(f"no answer within {limit:g} s")
            elif not process.ready:
                self._give_up(answers, todo, f"no worker started within {self._start_deadline:g} s")
            else:
                continue
            self._lose(process)
        return bool(heard)

    def _hear(self, process: _Process, answers: dict[int, Result | Abstain], todo: deque[int]) -> None:
        """Take in what one worker says: that it is ready, an answer, or its end."""
        line = process.receive()
        if line == b"":
            return
        message = _decoded(line)
        if process.call is not None and isinstance(message, list | str):
            answers[process.call] = Result(message[0]) if isinstance(message, list) else Abstain(message)
            process.call = None
        elif not process.ready and message == {}:
            process.ready = True
        else:
            call, ready = process.call, process.ready
            code = self._lose(process)
            reason = f"worker died (exit code {code})" if line is None else "worker sent no valid answer"
            if call is not None:
                answers[call] = Abstain(reason)
            elif not ready:
                self._give_up(answers, todo, _unloadable(self.target, message, reason))

    def _await_first(self) -> None:
        """Return when one worker is ready; raise SettingError when one cannot start."""
        answers: dict[int, Result | Abstain] = {}
        while not any(process.ready for process in self._alive):
            self._turn(answers, deque([0]), None)
            if answers:
                raise SettingError(getattr(answers[0], "reason", "no worker started"))

    def _fill(self) -> None:
        """Start processes until there are ``count``; after a failed start in this map, until one is ready."""
        while len(self._alive) < self.count and not (self._short and any(p.ready for p in self._alive)):
            folder = os.getcwd()
            path = sys.path if folder in sys.path or "" in sys.path else [*sys.path, folder]
            setup = json.dumps({**self._setup, "path": [entry or folder for entry in path]}).encode() + b"\n"
            self._alive.add(_Process(setup, self._output, self._start_deadline, self._environment))

    def _give_up(self, answers: dict[int, Result | Abstain], todo: deque[int], reason: str) -> None:
        """A worker could not start: go on with those there are, or else give one call up, so that `map` ends."""
        self._short = True
        if todo and not any(process.ready for process in self._alive):
            answers[todo.popleft()] = Abstain(reason)

    def _lose(self, process: _Process) -> int:
        self._alive.discard(process)
        return process.kill()


def _decoded(line: bytes | None) -> Any:
    try:
        return json.loads(line) if line else None
    except (ValueError, RecursionError):
        return None


def _unloadable(target: str, message: Any, died: str) -> str:
    """Why the target could not be loaded, with the nearest name there is."""
    if not isinstance(message, dict) or "reason" not in message:
        return f"{died} while it loaded {target!r}"
    return f"{message['reason']}{nearest(message['name'], message['legal'])}"
