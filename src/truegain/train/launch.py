"""Before and around a run: the process environment, the number of threads, and when to stop.

Importing this module does not import torch: `prepare_environment` has to act before that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from types import FrameType
from typing import Any

from truegain.core.errors import SettingError

# GOMP_SPINCOUNT: waiting OpenMP threads sleep instead of spinning; spinning ones collapse five-fold as soon as a
# neighbour uses one of their cores.
ENVIRONMENT: Mapping[str, str] = {
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare_environment() -> list[str]:
    """Set what torch and transformers read when they are imported; what the user has set stays.

    Call it before torch is imported. Returns notes for the user: one, if torch is there already, and so has read its
    environment without ``GOMP_SPINCOUNT``.
    """
    late = "torch" in sys.modules and "GOMP_SPINCOUNT" not in os.environ
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not late:
        return []
    return ["torch was imported before GOMP_SPINCOUNT=0 was set: set it in the shell if the machine is shared"]


def best_threads(probe_seconds: float = 0.5, cores: int | None = None) -> int:
    """Time a small model's decode and update with 1..cores threads, set the fastest number in torch, and return it.

    ``OMP_NUM_THREADS``, when set, is the user's decision and is taken without a probe. ``cores`` defaults to those
    this process may use. Rounds are interleaved, so that a neighbour's burst hits all candidates, and compared by
    their medians; at least three, then until ``probe_seconds`` (>= 0) have passed. Sums depend on the number of
    threads, so a resumed run must take the recorded number instead of probing again.
    """
    import torch

    if probe_seconds < 0:
        raise SettingError(f"best_threads: probe_seconds={probe_seconds} must be at least 0")
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        torch.set_num_threads(int(wanted))
        return int(wanted)
    candidates = _candidates(cores or _usable_cores())
    chosen = fastest(_time_threads(candidates, probe_seconds)) if len(candidates) > 1 else candidates[0]
    torch.set_num_threads(chosen)
    return chosen


def fastest(seconds: Mapping[int, Sequence[float]], margin: float = 0.05) -> int:
    """The thread count with the least median time; the smallest one within ``margin`` (a fraction) of it.

    Fewer threads suffer less from neighbours, so a tie goes to them.

    >>> fastest({1: [1.00, 1.01, 9.0], 2: [0.99, 0.98, 0.97], 4: [2.0, 2.0, 0.1]})
    1
    """
    medians = {threads: median(times) for threads, times in seconds.items()}
    limit = min(medians.values()) * (1 + margin)
    return min(threads for threads, value in medians.items() if value <= limit)


class StopSignal:
    """Says at step borders whether a run has to end: its time is up, or somebody asked for it.

    As a context manager it takes SIGINT and SIGTERM: the first sets a flag and says so, the second raises
    KeyboardInterrupt. Outside the main thread, where Python allows no handlers, only the time counts. Read `reason`
    between steps.
    """

    def __init__(self, ends: float | None = None, say: Callable[[str], None] | None = None) -> None:
        """``ends``: the `time.monotonic` second at which the time is up; None for never."""
        self.ends = ends
        self._say = say or _to_stderr
        self._asked = ""
        self._owner = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        """Take SIGINT and SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, signal.SIGTERM):
                self._before[which] = signal.signal(which, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to whoever had them."""
        while self._before:
            which, handler = self._before.popitem()
            signal.signal(which, handler)

    def reason(self, next_seconds: float = 0.0) -> str | None:
        """Why to stop now, or None. ``next_seconds``: how long the next step may take; it must end in time too."""
        if self._asked:
            return self._asked
        if self.ends is not None and time.monotonic() + next_seconds >= self.ends:
            return "time is up"
        return None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked worker inherited the handler; there, signals do what they did before it.
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
            return
        if self._asked:
            raise KeyboardInterrupt
        self._asked = "interrupted" if number == signal.SIGINT else "terminated"
        self._say("stopping after this step; press again to stop now")


def stop_at(
    max_seconds: float | None = None, deadline: float | None = None, say: Callable[[str], None] | None = None
) -> StopSignal:
    """A `StopSignal` that ends ``max_seconds`` (> 0) from now or at ``deadline`` (a `time.time` second), the earlier.

    ``say`` tells the user about a signal; by default a line on stderr.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise SettingError(f"max_seconds={max_seconds} must be above 0")
    limits = [max_seconds] if max_seconds is not None else []
    if deadline is not None:
        limits.append(deadline - time.time())
    return StopSignal(time.monotonic() + min(limits) if limits else None, say)


def _to_stderr(text: str) -> None:
    # Not print: a handler may run in the middle of somebody's print, and buffered streams refuse re-entry.
    os.write(2, f"\n{text}\n".encode())


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _candidates(cores: int) -> list[int]:
    """All counts up to 8; beyond that powers of two and the whole machine, to keep the probe short."""
    few = range(1, min(cores, 8) + 1)
    more = (2**power for power in range(4, 20) if 2**power < cores)
    return sorted({*few, *more, cores})


def _time_threads(candidates: Sequence[int], probe_seconds: float) -> dict[int, list[float]]:
    import torch

    work = _probe_work()
    seconds: dict[int, list[float]] = {threads: [] for threads in candidates}
    end = time.perf_counter() + probe_seconds
    while len(seconds[candidates[-1]]) < 3 or time.perf_counter() < end:
        for threads in candidates:
            torch.set_num_threads(threads)
            work()  # the pool is resized here, outside the clock
            begin = time.perf_counter()
            work()
            seconds[threads].append(time.perf_counter() - begin)
    return seconds


def _probe_work() -> Callable[[], None]:
    """One update and a few decode steps of a model of about a million parameters, without building one."""
    import torch

    width, inner = 128, 512
    up, down = torch.ones(width, inner), torch.ones(inner, width)
    decode, update = torch.ones(64, width), torch.ones(2048, width)

    def block(x: torch.Tensor) -> None:
        hidden = torch.nn.functional.silu(x @ up)
        torch.softmax((hidden * hidden) @ down, dim=-1)

    def work() -> None:
        with torch.no_grad():
            block(update)
            for _ in range(8):
                block(decode)

    return work
