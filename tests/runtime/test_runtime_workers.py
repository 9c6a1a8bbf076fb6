"""Worker processes: every call ends in a result or in an abstention with its reason, and no process stays behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from truegain.core.errors import SettingError
from truegain.core.types import Abstain
from truegain.runtime import Result, Workers

TARGETS = '''
"""Functions that behave in all the ways a reward function can."""
import ctypes, os, signal, subprocess, sys, time

def act(order):
    what, value = order
    if what == "echo":
        return value
    if what == "pid":
        return os.getpid()
    if what == "raise":
        raise ValueError(value)
    if what == "quit":
        sys.exit(value)
    if what == "exit":
        os._exit(value)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "sleep":
        time.sleep(value)
        return value
    if what == "spin":
        while True:
            pass
    if what == "regex":  # holds the interpreter lock for hours
        import re
        return re.match(r"(a+)+$", "a" * 60 + "b")
    if what == "print":
        print("[1]\\n{}" * value)
        os.write(1, b"[99]\\n" * value)
        os.write(2, b"\\xff\\n" * value)
        return "printed"
    if what == "allocate":
        return len(bytearray(value))
    if what == "alarm":
        def late(*_):
            raise TimeoutError("alarm went off")
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, value)
        time.sleep(5)
    if what == "leave alarm":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, value)
        return "left"
    if what == "fork and return":
        return "child" if os.fork() == 0 else "parent"
    if what == "fork and die":
        if os.fork() == 0:
            time.sleep(60)
        os._exit(value)
    if what == "start sleeper":
        return subprocess.Popen(["sleep", "60"]).pid
    if what == "start sleeper and hang":
        with open(value, "w") as note:
            note.write(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)
    if what == "odd":
        return {"set": {1, 2}, "nan": float("nan"), "object": object()}[value]
    if what == "modules":
        return [name for name in value if name in sys.modules]

def double(f):
    return lambda order: [f(order), f(order)]

def worded(f):
    def call(order):
        raise RuntimeError("line one\\n\\nline two " + "x" * 9999)
    return call

not_callable = 3
'''


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("targets") / "oddities.py"
    path.write_text(TARGETS)
    return f"{path}:act"


@pytest.fixture(scope="module")
def pool(target: str):
    with Workers(target, count=2, deadline=10.0) as workers:
        yield workers


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not alive(pid)


def test_answers_stand_in_the_order_of_the_payloads(pool: Workers) -> None:
    orders = [["sleep", 0.05 * (i % 3 == 0)] if i % 2 else ["echo", i] for i in range(12)]
    assert pool.map(orders) == [Result(order[1]) for order in orders]


def test_a_thousand_calls_come_back_each_with_its_own_answer(pool: Workers) -> None:
    assert pool.map(["echo", {"i": i}] for i in range(1000)) == [Result({"i": i}) for i in range(1000)]


def test_no_payloads_give_no_answers(pool: Workers) -> None:
    assert pool.map([]) == []


def test_megabytes_pass_both_ways_unchanged(pool: Workers) -> None:
    texts = ["é\n\u2028\ud800\0" * 300_000, "x" * 3_000_001, ""]
    assert pool.map(["echo", text] for text in texts) == [Result(text) for text in texts]


def test_an_exception_is_an_abstention_with_its_type_and_text(pool: Workers) -> None:
    assert pool.call(["raise", "no such luck"]) == Abstain("ValueError: no such luck")
    assert pool.call(["quit", 3]) == Abstain("SystemExit: 3")
    assert pool.call("unpackable") == Abstain("ValueError: too many values to unpack (expected 2)")


def test_a_reason_is_one_bounded_line(target: str) -> None:
    with Workers(target, count=1, adapter=target.replace(":act", ":worded")) as workers:
        answer = workers.call(["echo", 1])
    assert isinstance(answer, Abstain)
    assert answer.reason.startswith("RuntimeError: line one line two xxx")
    assert len(answer.reason) == 500


def test_an_adapter_wraps_the_target(target: str) -> None:
    with Workers(target, count=1, adapter=target.replace(":act", ":double")) as workers:
        assert workers.call(["echo", 1]) == Result([1, 1])


@pytest.mark.parametrize("way", ["sleep", "spin", "regex"])
def test_a_call_that_never_returns_is_killed_at_the_deadline_and_the_others_are_answered(target: str, way: str) -> None:
    with Workers(target, count=2) as workers:
        before = set(workers.pids)
        began = time.monotonic()
        answers = workers.map([["echo", 1], [way, 60], ["echo", 2], ["echo", 3]], deadline=0.3)
        assert time.monotonic() - began < 10
        assert answers == [Result(1), Abstain("no answer within 0.3 s"), Result(2), Result(3)]
        assert len(before & set(workers.pids)) == 1
        assert workers.map([["echo", 4]] * 4) == [Result(4)] * 4


def test_the_deadline_counts_from_when_the_call_is_handed_out(target: str) -> None:
    with Workers(target, count=1, deadline=1.5) as workers:
        assert workers.map([["sleep", 0.6]] * 3) == [Result(0.6)] * 3


def test_a_worker_that_dies_costs_its_own_call_only(pool: Workers) -> None:
    answers = pool.map([["exit", 7], ["echo", 1], ["segfault", 0], ["echo", 2], ["exit", 0], ["echo", 3]])
    assert answers == [
        Abstain("worker died (exit code 7)"),
        Result(1),
        Abstain("worker died (exit code -11)"),
        Result(2),
        Abstain("worker died (exit code 0)"),
        Result(3),
    ]


def test_a_worker_killed_between_two_maps_costs_nothing(pool: Workers) -> None:
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
    assert pool.map([["echo", i] for i in range(4)]) == [Result(i) for i in range(4)]


def test_a_storm_of_deaths_leaves_every_call_answered(target: str) -> None:
    orders = [["exit", 1], ["echo", 0], ["segfault", 0], ["raise", "x"]] * 6
    with Workers(target, count=3) as workers:
        answers = workers.map(orders)
        pids = workers.pids
    expected = {"exit": Abstain("worker died (exit code 1)"), "echo": Result(0)}
    expected |= {"segfault": Abstain("worker died (exit code -11)"), "raise": Abstain("ValueError: x")}
    assert answers == [expected[order[0]] for order in orders]
    assert all(gone(pid) for pid in pids)


def test_workers_killed_from_outside_during_a_map_never_hang_it(target: str) -> None:
    with Workers(target, count=2, deadline=20.0) as workers:
        stop = threading.Event()

        def storm() -> None:
            while not stop.wait(0.08):
                for pid in workers.pids[:1]:
                    os.kill(pid, signal.SIGKILL)

        thread = threading.Thread(target=storm)
        thread.start()
        answers = workers.map([["sleep", 0.01]] * 60)
        stop.set()
        thread.join()
        failed = [answer for answer in answers if answer != Result(0.01)]
        assert failed and all(getattr(a, "reason", "").startswith("worker died (exit code -9)") for a in failed)
        assert workers.call(["echo", "still here"]) == Result("still here")


def test_what_the_target_prints_does_not_touch_the_answers(pool: Workers) -> None:
    assert pool.map([["print", 1000], ["echo", 5]] * 3) == [Result("printed"), Result(5)] * 3


def test_an_alarm_works_inside_a_worker(pool: Workers) -> None:
    assert pool.call(["alarm", 0.05]) == Abstain("TimeoutError: alarm went off")


def test_an_alarm_left_behind_does_not_hit_the_next_call(target: str) -> None:
    with Workers(target, count=1) as workers:
        assert workers.map([["leave alarm", 0.05], ["sleep", 0.2]]) == [Result("left"), Result(0.2)]


def test_memory_past_the_bound_is_an_abstention_and_the_worker_lives_on(target: str) -> None:
    with Workers(target, count=1, memory_mb=64) as workers:
        before = workers.pids
        assert workers.call(["allocate", 16 * 2**20]) == Result(16 * 2**20)
        assert workers.call(["allocate", 512 * 2**20]) == Abstain("MemoryError")
        assert workers.pids == before


def test_a_forked_child_that_returns_answers_nothing(target: str) -> None:
    with Workers(target, count=1) as workers:
        assert workers.map([["fork and return", 0]] * 5) == [Result("parent")] * 5
        assert workers.call(["echo", 1]) == Result(1)


def test_a_worker_that_dies_beside_a_living_child_is_noticed_at_once(target: str) -> None:
    with Workers(target, count=1, deadline=30.0) as workers:
        began = time.monotonic()
        assert workers.call(["fork and die", 4]) == Abstain("worker died (exit code 4)")
        assert time.monotonic() - began < 10


def test_what_a_call_started_dies_with_its_worker(target: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with Workers(target, count=1) as workers:
        left = workers.call(["start sleeper", 0])
        assert isinstance(left, Result) and alive(left.value)
        assert workers.call(["start sleeper and hang", str(note)], deadline=0.5) == Abstain("no answer within 0.5 s")
        assert gone(int(note.read_text()))
        assert gone(left.value)
        last = workers.call(["start sleeper", 0])
    assert isinstance(last, Result) and gone(last.value)


def test_what_json_cannot_hold_is_an_abstention_that_names_the_type(pool: Workers) -> None:
    answers = pool.map([["odd", "set"], ["odd", "object"]])
    assert answers[0] == Abstain("TypeError: the function returned a set, which JSON cannot hold")
    assert answers[1] == Abstain("TypeError: the function returned a object, which JSON cannot hold")
    nan = pool.call(["odd", "nan"])
    assert isinstance(nan, Result) and math.isnan(nan.value)


def test_a_payload_that_json_cannot_hold_is_the_callers_error(pool: Workers) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        pool.map([{1, 2}])


def test_a_worker_imports_nothing_heavy_and_nothing_of_ours(pool: Workers) -> None:
    names = ["torch", "numpy", "transformers", "truegain", "ctypes"]
    assert pool.call(["modules", names]) == Result(["ctypes"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("math:sqr", "'math' has no function 'sqr' (did you mean 'sqrt'?)"),
        ("math.sqr", "'math' has no function 'sqr' (did you mean 'sqrt'?)"),
        ("truegain.cor.types:Abstain", "no module 'truegain.cor' (did you mean 'core'?)"),
        ("math:pi", "'pi' in 'math' is a float, not a function"),
        ("math", "'math' names no function; write pkg.mod:function or path/to/file.py:function"),
        ("{folder}/odditie.py:act", "no file '{folder}/odditie.py' (did you mean 'oddities.py'?)"),
        ("{folder}/oddities.py:acts", "'{folder}/oddities.py' has no function 'acts' (did you mean 'act'?)"),
        ("{folder}/oddities.py", "'{folder}/oddities.py' names no function"),
    ],
)
def test_a_target_that_cannot_be_found_is_one_line_with_the_nearest_name(target: str, wrong: str, message: str) -> None:
    folder = str(Path(target.rpartition(":")[0]).parent)
    with pytest.raises(SettingError) as error:
        Workers(wrong.format(folder=folder), count=1)
    assert message.format(folder=folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package_at_all\n", "failed: ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("x = 1\ndef f(:\n", "line 2"),
        ("import sys\nsys.exit(3)\n", "failed: SystemExit: 3, line 2"),
        ("def g():\n    return 1 / 0\n\ng()\n", "failed: ZeroDivisionError: division by zero, line 2"),
        ("import os\nos._exit(3)\n", "worker died (exit code 3) while it loaded"),
    ],
)
def test_a_target_whose_import_fails_says_why(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(SettingError) as error:
        Workers(f"{tmp_path}/bad.py:f", count=2)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_import_that_never_ends_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\ndef f(x): return x\n")
    with pytest.raises(SettingError, match=r"no worker started within 0\.3 s"):
        Workers(f"{tmp_path}/slow.py:f", count=1, start_deadline=0.3)


def test_a_target_that_vanishes_while_running_abstains_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "fleeting.py"
    path.write_text("import os\ndef f(x):\n    os._exit(1)\n")
    with Workers(f"{path}:f", count=1) as workers:
        path.unlink()
        answers = workers.map([1, 2, 3])
    assert answers[0] == Abstain("worker died (exit code 1)")
    assert [type(answer) for answer in answers] == [Abstain] * 3
    assert f"no file '{path}'" in getattr(answers[2], "reason", "")


def test_a_worker_that_cannot_be_replaced_leaves_the_work_to_the_others(tmp_path: Path) -> None:
    path = tmp_path / "fleeting.py"
    path.write_text("import os, time\ndef f(x):\n    if x < 0: os._exit(1)\n    time.sleep(0.02)\n    return x\n")
    with Workers(f"{path}:f", count=2) as workers:
        workers.map([1, 1])
        until = time.monotonic() + 10
        while not all(process.ready for process in workers._alive) and time.monotonic() < until:
            workers.map([1, 1])
        path.unlink()
        answers = workers.map([-1, *range(20)])
    assert answers == [Abstain("worker died (exit code 1)"), *map(Result, range(20))]


@pytest.mark.parametrize("knobs", [{"count": 0}, {"deadline": 0.0}, {"deadline": math.nan}, {"memory_mb": -1.0}])
def test_numbers_out_of_bounds_are_refused_by_name(knobs: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(knobs))):
        Workers("math:sqrt", **knobs)  # pyright: ignore[reportArgumentType]


def test_a_closed_pool_has_reaped_its_processes_and_takes_no_work(target: str) -> None:
    workers = Workers(target, count=2)
    workers.map([["echo", 1]] * 2)
    pids = workers.pids
    workers.close()
    workers.close()
    assert len(pids) == 2 and all(not Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        workers.map([1])


def test_a_forgotten_pool_is_cleaned_up(target: str) -> None:
    workers = Workers(target, count=1)
    workers.call(["echo", 1])
    (pid,) = workers.pids
    del workers
    assert gone(pid)


def test_no_file_descriptor_leaks_over_many_deaths(target: str) -> None:
    with Workers(target, count=1) as workers:
        workers.call(["exit", 1])
        before = len(os.listdir("/proc/self/fd"))
        workers.map([["exit", 1]] * 5)
        assert len(os.listdir("/proc/self/fd")) == before
    assert len(os.listdir("/proc/self/fd")) < before


PARENT = """
import json, os, sys, threading, time
from truegain.runtime import Workers
workers = Workers(sys.argv[1], count=2, deadline=60.0)
idle = workers.pids
if sys.argv[2] == "thread":
    orders = [["start sleeper and hang", sys.argv[3]], ["regex", 0]]
    threading.Thread(target=workers.map, args=(orders,), daemon=True).start()
    while not (os.path.exists(sys.argv[3]) and open(sys.argv[3]).read()):
        time.sleep(0.01)
print(json.dumps(idle), flush=True)
if sys.argv[2] == "main":
    workers.map([["start sleeper and hang", sys.argv[3]], ["regex", 0]])
elif sys.argv[2] == "fork":
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
elif sys.argv[2] != "exit":
    time.sleep(60)
"""


def parent(target: str, way: str, note: Path) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, target, way, str(note)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("way", ["idle", "main", "thread"])
def test_a_killed_parent_leaves_no_orphan(target: str, tmp_path: Path, way: str) -> None:
    note = tmp_path / "pid"
    process, pids = parent(target, way, note)
    until = time.monotonic() + 10
    while way != "idle" and not (note.exists() and note.read_text()) and time.monotonic() < until:
        time.sleep(0.01)
    assert all(alive(pid) for pid in pids)
    process.kill()
    process.communicate()
    assert all(gone(pid) for pid in pids)
    assert way == "idle" or gone(int(note.read_text()))


def test_a_fork_of_the_parent_does_not_keep_the_workers_alive(target: str, tmp_path: Path) -> None:
    process, pids = parent(target, "fork", tmp_path / "pid")
    assert process.stdout is not None
    fork = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert all(gone(pid) for pid in pids)
    assert alive(fork)
    os.kill(fork, signal.SIGKILL)
    process.communicate()


def test_a_parent_that_ends_without_closing_leaves_nothing_and_says_nothing(target: str, tmp_path: Path) -> None:
    process, pids = parent(target, "exit", tmp_path / "pid")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
    assert all(gone(pid) for pid in pids)


def test_ctrl_c_in_the_parent_gives_one_traceback_and_leaves_nothing(target: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    process, pids = parent(target, "main", note)
    until = time.monotonic() + 10
    while not (note.exists() and note.read_text()) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal sends: to the whole foreground group
    _, err = process.communicate(timeout=20)
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert all(gone(pid) for pid in pids) and gone(int(note.read_text()))


def test_after_an_interrupted_map_the_next_one_gets_its_own_answers(target: str) -> None:
    with Workers(target, count=1, deadline=30.0) as workers:
        timer = threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            workers.map([["sleep", 20]])
        timer.join()
        assert workers.map([["echo", 1], ["echo", 2]]) == [Result(1), Result(2)]


def test_a_worker_has_the_variables_that_it_is_given_beside_those_it_inherits() -> None:
    with Workers("os:getenv", count=1, environment={"TRUEGAIN_TEST": "here"}) as workers:
        found = workers.map(["TRUEGAIN_TEST", "PATH"])
    assert found == [Result("here"), Result(os.environ["PATH"])]
