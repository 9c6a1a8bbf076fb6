"""Workers that many threads borrow: nobody waits for what will never come. The workers are stand-ins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

import pytest

from truegain.core.errors import RunError, SettingError
from truegain.hosts._pool import Pool

SOON = 20.0
"""Seconds; what is tested takes none. A thread that hangs fails its test after these and is left behind."""


@dataclass
class Stand:
    """A worker that answers when its gate is open."""

    gate: threading.Event = field(default_factory=threading.Event)
    closed: bool = False

    def map(self, payloads: Sequence[Any], deadline: float) -> list[Any]:
        assert self.gate.wait(SOON)
        return [*payloads]

    def close(self) -> None:
        self.closed = True
        self.gate.set()


def asked(pool: Pool, count: int) -> list[Future[Any]]:
    """Calls on as many threads, which a hanging one does not keep from ending."""

    def call(future: Future[Any], payload: int) -> None:
        try:
            future.set_result(pool.ask([payload], 1.0))
        except BaseException as error:
            future.set_exception(error)

    futures: list[Future[Any]] = [Future() for _ in range(count)]
    for payload, future in enumerate(futures):
        threading.Thread(target=call, args=(future, payload), daemon=True).start()
    return futures


def until(true: Callable[[], bool]) -> None:
    for _ in range(int(SOON / 0.01)):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")


def waiters(pool: Pool) -> int:
    return len(pool.changed._waiters)  # type: ignore[attr-defined]


def test_a_start_that_fails_is_told_to_all_who_wait_for_it() -> None:
    gate = threading.Event()

    def start() -> Any:
        assert gate.wait(SOON)
        raise SettingError("cannot be loaded")

    pool = Pool(start, 1)
    calls = asked(pool, 3)
    until(lambda: waiters(pool) == 2)
    gate.set()
    assert not wait(calls, SOON).not_done
    assert [str(call.exception()) for call in calls] == ["cannot be loaded"] * 3
    assert pool.starting == 0


def test_a_call_after_a_failed_start_starts_anew() -> None:
    good = Stand()
    good.gate.set()
    starts = iter([SettingError("not yet"), good])

    def start() -> Any:
        if isinstance(one := next(starts), Exception):
            raise one
        return one

    pool = Pool(start, 1)
    with pytest.raises(SettingError, match="not yet"):
        pool.ask([0], 1.0)
    assert pool.ask([7], 1.0) == [7]


def test_a_second_start_that_fails_leaves_the_worker_that_is_there_to_the_others() -> None:
    first, more = Stand(), threading.Event()
    starts = iter([first])

    def start() -> Any:
        if (one := next(starts, None)) is not None:
            return one
        assert more.wait(SOON)
        raise SettingError("no memory")

    pool = Pool(start, 2)
    (held,) = asked(pool, 1)
    until(lambda: pool.made == [first])
    (refused,) = asked(pool, 1)
    until(lambda: pool.starting == 1)
    (third,) = asked(pool, 1)
    until(lambda: waiters(pool) == 1)
    first.gate.set()  # the third call takes the first one's worker, whatever becomes of the start
    assert third.result(SOON) == held.result(SOON) == [0]
    more.set()
    assert str(refused.exception(SOON)) == "no memory"
    assert pool.ask([5], 1.0) == [5]


def test_closing_wakes_those_who_wait_and_the_next_call_starts_again() -> None:
    made: list[Stand] = []

    def start() -> Any:
        made.append(Stand())
        return made[-1]

    pool = Pool(start, 1)
    calls = asked(pool, 3)
    until(lambda: waiters(pool) == 2)
    pool.close()
    assert not wait(calls, SOON).not_done
    told = [call.exception() for call in calls if call.exception() is not None]
    assert len(told) == 2
    assert all(isinstance(one, RunError) and "closed while a call waited" in str(one) for one in told)
    assert made[0].closed
    (again,) = asked(pool, 1)
    until(lambda: len(made) == 2)
    made[1].gate.set()
    assert again.result(SOON) == [0]
    assert pool.free == [made[1]]


def test_a_worker_whose_start_ends_after_the_close_is_closed_and_not_kept() -> None:
    gate, late = threading.Event(), Stand()

    def start() -> Any:
        assert gate.wait(SOON)
        return late

    pool = Pool(start, 1)
    (call,) = asked(pool, 1)
    until(lambda: pool.starting == 1)
    pool.close()
    gate.set()
    assert isinstance(call.exception(SOON), RunError)
    assert late.closed
    assert pool.made == pool.free == []


def test_no_more_are_made_than_may_be_and_each_answer_is_its_callers() -> None:
    made: list[Stand] = []

    def start() -> Any:
        made.append(Stand())
        made[-1].gate.set()
        return made[-1]

    pool = Pool(start, 3)
    assert pool.ask(range(50), 1.0) == [*range(50)]
    calls = asked(pool, 20)
    assert [call.result(SOON) for call in calls] == [[n] for n in range(20)]
    assert len(made) <= 3
    assert len(pool.free) == len(pool.made) == len(made)
