"""Runs generated Python where it can reach nothing: no files, no network, no other process, bounded in all it uses.

`docs/sandbox.md` says what is promised and what is not.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from truegain.core.errors import SettingError
from truegain.core.types import Abstain
from truegain.runtime.backend import Backend, chosen
from truegain.runtime.box import Box, Call, Limits, NotStarted, Ran, converse, outcome

_T = TypeVar("_T")
_VERDICT = 4096


def _none() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Program:
    """A Python program to run, with what it finds on its standard input and the files in its folder."""

    source: str
    stdin: str = ""
    files: Mapping[str, str] = field(default_factory=_none)


@dataclass(frozen=True)
class Check:
    """A unit test of a program: ``test`` is Python, run apart from the program, whose names are stand-ins there.

    With ``args``, the test is that the function ``entry`` gives ``expected`` for them, tuples being as good as lists.
    ``entry`` is what the test calls ``candidate``; a function ``check`` that the test defines is called with it.
    """

    source: str
    test: str = ""
    entry: str = ""
    args: Sequence[Any] | None = None
    expected: Any = None


@dataclass(frozen=True)
class Verdict:
    """Whether a program passes a unit test, and if not, why."""

    passed: bool
    why: str = ""


class Sandbox:
    """``count`` boxes that run generated programs.

    By default each box keeps one process that forks for each run, kills what the run left and empties its scratch
    space. With ``hostile=True`` every run has a box of its own, started afresh: some ten times slower.
    ``backend`` is ``bubblewrap`` or ``landlock``, by default the first that works here. Under landlock, programs cannot
    start processes and cannot write files. ``read`` names folders of further modules that programs may import.

    Raises SettingError, naming what to install, where no sandbox works: no program is ever run without.

    ``with Sandbox() as box: box.run("print(int(input()) * 2)", stdin="21").stdout`` is ``"42\\n"``.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        count: int = 1,
        hostile: bool = False,
        backend: Backend | None = None,
        read: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        """Choose a backend; boxes start when they are needed."""
        if not 0 < count < 1024:
            raise SettingError(f"sandbox: count={count} is out of bounds; it must be from 1 to 1023")
        self.limits, self.count, self.hostile = limits or Limits(), count, hostile
        self.backend = chosen(backend)
        self._read = tuple(os.path.abspath(path) for path in read)
        for path in self._read:
            if not os.path.isdir(path):
                raise SettingError(f"sandbox: {path!r} in read is no folder")
        self._lock = threading.Condition()
        self._idle: list[int] = list(range(count))
        self._boxes: dict[tuple[int, int], Box] = {}
        self._closed = False

    def run(self, source: str, *, stdin: str = "", files: Mapping[str, str] | None = None) -> Ran | Abstain:
        """Run one program to its end or a limit; an abstention where the sandbox itself failed.

        Raises TypeError for what is no text, SettingError for a file outside of the program's folder.
        """
        return self._run(Program(source, stdin, files or {}))

    def map(self, programs: Iterable[str | Program]) -> list[Ran | Abstain]:
        """`run` of many, ``count`` at a time; answers stand in the programs' order."""
        return self._many(self._run, [Program(p) if isinstance(p, str) else p for p in programs])

    def check(self, check: Check) -> Verdict | Abstain:
        """Carry out one unit test: the program in one box, the test in another, and only values between them.

        The program never sees the test or what it expects, and the verdict is the test's process's. A program that
        fails, ends early or passes a limit fails the test. Abstains where the sandbox failed, or where the test cannot
        be carried out whatever the program does.
        """
        return self._at(lambda number: self._check(number, check))

    def check_all(self, checks: Iterable[Check]) -> list[Verdict | Abstain]:
        """`check` of many, ``count`` at a time."""
        return self._many(self.check, list(checks))

    def each(self, jobs: Iterable[Program | Check]) -> list[Ran | Verdict | Abstain]:
        """`run` or `check` of many, ``count`` at a time."""
        return self._many(lambda job: self._run(job) if isinstance(job, Program) else self.check(job), list(jobs))

    def close(self) -> None:
        """End the boxes. May be called twice."""
        with self._lock:
            self._closed = True
            boxes, self._boxes = list(self._boxes.values()), {}
        for box in boxes:
            box.close()

    def __enter__(self) -> Sandbox:
        """Give the sandbox itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _many(self, one: Callable[[Any], _T], items: list[Any]) -> list[_T]:
        if self.count == 1 or len(items) < 2:
            return [one(item) for item in items]
        with ThreadPoolExecutor(min(self.count, len(items))) as pool:
            return list(pool.map(one, items))

    def _at(self, act: Callable[[int], _T]) -> _T:
        """Call with the number of a place that nobody uses."""
        with self._lock:
            while not self._idle:
                self._lock.wait()
            if self._closed:
                raise RuntimeError("this sandbox is closed")
            number = self._idle.pop()
        try:
            return act(number)
        finally:
            with self._lock:
                self._idle.append(number)
                self._lock.notify()

    def _box(self, number: int, side: int) -> Box:
        """The box of a place, started if there is none. Side 0 runs programs, side 1 unit tests."""
        box = self._boxes.get((number, side))
        if box is None or box.owner != os.getpid():  # what a fork of this process finds is not its own
            box = Box(self.backend, 2 * number + side, self.limits, self._read, warm=not self.hostile)
            with self._lock:
                self._boxes[number, side] = box
        return box

    def _used(self, number: int, calls: Mapping[int, Call]) -> None:
        """End the boxes that failed; in hostile mode, all that ran a program."""
        for side, call in calls.items():
            if call.why == "lost" or self.hostile or call.told is None:
                with self._lock:
                    box = self._boxes.pop((number, side), None)
                if box is not None:
                    box.close()

    def _run(self, program: Program) -> Ran | Abstain:
        work = {"kind": "run", "source": program.source, "files": _within(program.files)}
        call = Call(work, program.stdin.encode(errors="surrogatepass"))
        return self._at(lambda number: self._carried(number, {0: call}, lambda: outcome(call, self.limits)))

    def _carried(self, number: int, calls: Mapping[int, Call], result: Callable[[], _T]) -> _T | Abstain:
        """Run the calls in the boxes of a place; the last of them leads."""
        try:
            pairs = [(self._box(number, side), call) for side, call in calls.items()]
            converse(pairs, self.limits.seconds, leader=len(pairs) - 1)
        except NotStarted as error:
            return Abstain(f"the sandbox could not be started: {error}")
        finally:
            self._used(number, calls)
        return result()

    def _check(self, number: int, check: Check) -> Verdict | Abstain:
        asked, asks = os.pipe()
        answered, answers = os.pipe()
        heard, tells = os.pipe()
        suspect = Call({"kind": "answer", "source": check.source}, extra=[asked, answers])
        work: dict[str, Any] = {"kind": "ask", "source": check.test, "entry": check.entry}
        if check.args is not None:
            work.update(args=list(check.args), expected=check.expected)
        examiner = Call(work, extra=[answered, asks, tells])
        try:
            calls = {0: suspect, 1: examiner}
            return self._carried(number, calls, lambda: self._verdict(heard, suspect, examiner))
        finally:
            for fd in (heard, *suspect.extra, *examiner.extra):
                os.close(fd)

    def _verdict(self, heard: int, suspect: Call, examiner: Call) -> Verdict | Abstain:
        """What the test's process said; where it said nothing, why."""
        ended, tried = outcome(suspect, self.limits), outcome(examiner, self.limits)
        if isinstance(tried, Abstain):
            return tried
        os.set_blocking(heard, False)
        try:
            told = json.loads(os.read(heard, _VERDICT))
        except (BlockingIOError, ValueError):
            told = {}
        if "broken" in told:
            return Abstain(f"the test cannot be carried out: {told['broken']}")
        if isinstance(ended, Abstain):
            return ended
        if told.get("passed") is True:
            return Verdict(True)
        if ended.stopped:
            return Verdict(False, f"the program was stopped: {ended.stopped}")
        last = ended.stderr.strip().splitlines()[-1:] if ended.exit > 0 else []
        return Verdict(False, *last or [told.get("why") or f"the test was stopped: {tried.stopped or 'it ended'}"])


def _within(files: Mapping[str, str]) -> dict[str, str]:
    """The files, checked to lie in the program's folder."""
    for name in files:
        if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise SettingError(f"sandbox: {name!r} is no name of a file inside the program's folder")
    return dict(files)
