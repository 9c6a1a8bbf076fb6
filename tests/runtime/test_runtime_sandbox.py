"""The sandbox runs programs as they would run anywhere, ends them at their limits, and forgets each before the next."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sandboxes import LIMITS, WAYS, made

from truegain.core.errors import SettingError
from truegain.core.types import Abstain
from truegain.runtime import Limits, Program, Ran, Sandbox
from truegain.runtime import backend as backends
from truegain.runtime.inside import confine

IGNORING = """
import signal
for s in range(1, 65):
    try:
        signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
"""


@pytest.fixture(scope="module", params=WAYS, ids=" as ".join)
def box(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from made(*request.param)


def own(backend: str | None = None, **knobs: Any) -> Sandbox:
    try:
        return Sandbox(knobs.pop("limits", LIMITS), backend=backend, **knobs)  # type: ignore[arg-type]
    except SettingError as error:
        pytest.skip(str(error))


def ran(box: Any, source: str, **more: Any) -> Ran:
    found = box.run(source, **more)
    assert isinstance(found, Ran), found
    return found


def test_a_program_reads_its_input_and_its_output_and_exit_code_come_back(box: Any) -> None:
    found = ran(box, "import sys\nprint(int(input()) * 2)\nprint('oh', file=sys.stderr)\nsys.exit(3)", stdin="21\n")
    assert (found.stdout, found.stderr, found.exit, found.stopped) == ("42\n", "oh\n", 3, "")
    assert 0 < found.seconds < LIMITS.seconds


def test_an_error_ends_with_code_1_and_a_traceback_that_shows_the_programs_own_lines_only(box: Any) -> None:
    found = ran(box, "def f():\n    return 1 / 0\nf()\n")
    assert found.exit == 1
    assert "line 2, in f" in found.stderr and "return 1 / 0" in found.stderr and "guest.py" not in found.stderr
    assert ran(box, "x = = 1").exit == 1
    assert "SyntaxError" in ran(box, "x = = 1").stderr


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import os; os._exit(7)", 7),
        ("raise SystemExit", 0),
        ("exit('why')", 1),
        ("import os; os.kill(os.getpid(), 11)", -11),
    ],
)
def test_however_a_program_ends_its_code_is_reported(box: Any, source: str, code: int) -> None:
    assert ran(box, "import builtins, sys; exit = sys.exit\n" + source).exit == code


def test_a_segmentation_fault_ends_one_run_and_not_the_sandbox(box: Any) -> None:
    assert ran(box, "import ctypes; ctypes.string_at(0)").exit == -11
    assert ran(box, "print(1)").stdout == "1\n"


def test_no_core_is_handed_to_a_collector_of_the_machine(box: Any) -> None:
    # The kernel gives cores to a program that collects them whatever the limit, except where it is exactly 1.
    assert ran(box, "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))").stdout == "(1, 1)\n"


def test_text_that_is_half_a_character_is_taken_as_it_is(box: Any) -> None:
    assert ran(box, "import sys; print(len(sys.stdin.buffer.read()))", stdin="\ud800").stdout == "3\n"


def test_a_program_finds_its_files_and_can_import_them(box: Any) -> None:
    files = {"data.txt": "5", "pack/helper.py": "def f(x):\n    return x + 1\n", "pack/__init__.py": ""}
    found = ran(box, "from pack.helper import f; print(f(int(open('data.txt').read())))", files=files)
    assert found.stdout == "6\n", found


def test_programs_use_the_standard_library_threads_and_deep_recursion(box: Any) -> None:
    source = """
import decimal, hashlib, sqlite3, sys, threading, zlib, heapq, asyncio, socket
assert hashlib.sha256(b"x").hexdigest().startswith("2d711642")
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
async def f():
    await asyncio.sleep(0.001)
    return 5
assert asyncio.run(f()) == 5
sys.setrecursionlimit(100000)
threading.stack_size(64 << 20)
def deep(n):
    return 0 if n == 0 else 1 + deep(n - 1)
t = threading.Thread(target=lambda: print(deep(50000)))
t.start()
"""
    assert ran(box, source).stdout == "50000\n", box.run(source)


def test_large_input_and_output_pass_through(box: Any) -> None:
    text = "x" * 60_000
    assert ran(box, "import sys; t = sys.stdin.read(); print(len(t)); sys.stdout.write(t)", stdin=text).stdout == (
        f"60000\n{text}"
    )
    assert ran(box, "print('never read')", stdin="y" * 2_000_000).stdout == "never read\n"


def test_text_of_any_kind_comes_back_as_text(box: Any) -> None:
    assert ran(box, "print('é€𝄞')").stdout == "é€𝄞\n"
    assert ran(box, "import os; os.write(1, bytes(range(256)))").stdout.startswith("\0\1\2")


def test_two_runs_of_a_program_give_the_same_order_of_a_set(box: Any) -> None:
    source = "print(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    assert ran(box, source).stdout == ran(box, source).stdout
    assert ran(box, "print(hash('a'))").stdout == subprocess.run(
        [sys.executable, "-c", "print(hash('a'))"], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True
    ).stdout or sys.version_info[:2] != (3, 11)


def test_random_numbers_differ_from_run_to_run(box: Any) -> None:
    assert (
        ran(box, "import random; print(random.random())").stdout
        != ran(box, "import random; print(random.random())").stdout
    )


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("while True: pass", "cpu"),
        (
            IGNORING + "while True: pass",
            "cpu",
        ),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
    ],
)
def test_a_program_that_passes_a_limit_is_ended_and_the_limit_named(box: Any, source: str, why: str) -> None:
    found = ran(box, source)
    assert (found.stopped, found.exit) == (why, -9)
    assert len(found.stdout) + len(found.stderr) <= 2 * LIMITS.output_kb * 1024
    assert ran(box, "print(1)").stdout == "1\n"


@pytest.mark.parametrize("backend", ["bubblewrap", "landlock"])
def test_a_program_that_waits_is_ended_at_the_deadline(backend: str) -> None:
    with own(backend, limits=Limits(seconds=0.5)) as box:
        for source in (
            "import time; time.sleep(60)",
            "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nsignal.pause()",
            "import os, time\nfor fd in range(3): os.close(fd)\ntime.sleep(60)",
            "import threading; threading.Event().wait()",
            "input()\n" * 3 + "import time; time.sleep(60)",
        ):
            started = time.monotonic()
            found = ran(box, source, stdin="\n\n\n")
            assert found.stopped == "deadline" and time.monotonic() - started < 5, source
        assert ran(box, "print(1)").stdout == "1\n"


def test_processes_that_hold_memory_together_are_ended() -> None:
    with own("bubblewrap", limits=Limits(memory_mb=100, processes=8)) as box:
        source = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = b"x" * (60 << 20)
        time.sleep(20)
        os._exit(0)
time.sleep(20)
"""
        found = ran(box, source)
        assert found.stopped == "memory" and found.seconds < 8, found


def test_a_fork_bomb_ends_with_its_program_and_nothing_of_it_runs_on() -> None:
    with own("bubblewrap", limits=Limits(seconds=1.0, processes=10)) as box:
        before = len(os.listdir("/proc"))
        found = ran(box, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
        assert found.stopped in ("deadline", "cpu")
        assert ran(box, "print(1)").stdout == "1\n"
        assert len(os.listdir("/proc")) < before + 40


def test_what_a_program_started_ends_with_it_whatever_it_did_to_stay() -> None:
    with own("bubblewrap") as box:
        stay = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    for s in range(1, 65):
        try: signal.signal(s, signal.SIG_IGN)
        except (OSError, ValueError): pass
    if os.fork() == 0:
        while True:
            open("alive", "a").write("x")
            time.sleep(0.001)
    os._exit(0)
print("left")
"""
        found = ran(box, stay)
        assert found.stdout == "left\n" and found.seconds < 5
        look = "import os, time; time.sleep(0.1); print(os.listdir('.'))"
        assert ran(box, look).stdout == "[]\n"
        many = """
import os
found = 0
for p in range(2, 3000):
    try:
        os.kill(p, 0)
        found += p != os.getpid()
    except OSError:
        pass
print(found)
"""
        assert ran(box, many).stdout == "0\n"


LEFTOVERS = {
    "files": (
        "open('left', 'w').write('x'); import os; os.makedirs('a/b/c')",
        "import os; print(os.listdir('.'))",
        "[]",
    ),
    "shared memory": ("open('/dev/shm/left', 'w').write('x')", "import os; print(os.listdir('/dev/shm'))", "[]"),
    "a folder closed to all": (
        "import os; os.mkdir('x'); os.chmod('x', 0); os.chmod('.', 0)",
        "open('new', 'w'); print('ok')",
        "ok",
    ),
    "a deep tree": (
        "import os\nfor i in range(200):\n    os.mkdir('d' * 200); os.chdir('d' * 200)",
        "import os; print(os.listdir('.'))",
        "[]",
    ),
    "times of its folder": (
        "import os; os.utime('.', (1, 1))",
        "import os; print(os.stat('.').st_mtime > 1e9)",
        "True",
    ),
    "patched modules": (
        "import json, builtins; json.dumps = None; builtins.print = None; builtins.secret = 1",
        "import builtins, json; print(json.dumps(1), hasattr(builtins, 'secret'))",
        "1 False",
    ),
    "a timer": (
        "import signal; signal.setitimer(signal.ITIMER_REAL, 0.05)",
        "import time; time.sleep(0.2); print('ok')",
        "ok",
    ),
    "a mask, a folder, a limit": (
        "import os, resource as r, signal as s; os.umask(0); os.chdir('/'); "
        "s.pthread_sigmask(s.SIG_BLOCK, {10}); r.setrlimit(r.RLIMIT_NOFILE, (5, 5))",
        "import os, resource as r, signal as s; "
        "print(os.umask(7), os.getcwd() != '/', s.pthread_sigmask(0, []), r.getrlimit(r.RLIMIT_NOFILE)[0])",
        "63 True set() 64",
    ),
    "variables of the environment": (
        "import os; os.environ['LEFT'] = '1'",
        "import os; print('LEFT' in os.environ)",
        "False",
    ),
}


@pytest.mark.parametrize("what", LEFTOVERS)
def test_nothing_of_a_program_reaches_the_next_one(box: Any, what: str) -> None:
    if box.backend == "landlock" and what in ("shared memory", "a folder closed to all"):
        pytest.skip("under landlock nothing can be written")
    first, then, expected = LEFTOVERS[what]
    ran(box, first)
    assert ran(box, then).stdout == expected + "\n", box.run(then)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of the process that forks")
@pytest.mark.parametrize("backend", ["bubblewrap", "landlock"])
def test_the_process_that_forks_never_holds_what_a_program_says_or_is_told(backend: str) -> None:
    marker = "mark" + os.urandom(8).hex()
    with own(backend) as box:
        ran(box, f"print('{marker}', input())", stdin=marker * 10, files={"f": marker})
        ran(box, "print(1)")
        looked = 0
        for process in _descendants(box._boxes[0, 0].process.pid):
            for line in Path(f"/proc/{process}/maps").read_text().splitlines():
                if "rw" in line:
                    low, high = (int(part, 16) for part in line.split()[0].split("-"))
                    with open(f"/proc/{process}/mem", "rb") as memory:
                        memory.seek(low)
                        looked += high - low
                        assert marker.encode() not in memory.read(high - low)
        assert looked > 1 << 20


def _descendants(pid: int) -> list[int]:
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in below for one in _descendants(int(child)))]


def test_a_box_that_dies_gives_an_abstention_and_is_replaced() -> None:
    with own() as box:
        ran(box, "print(1)")
        threading.Timer(0.3, lambda: os.killpg(box._boxes[0, 0].process.pid, 9)).start()
        found = box.run("import time; time.sleep(5)")
        assert isinstance(found, Abstain) and "replaced" in found.reason
        assert ran(box, "print(2)").stdout == "2\n"


def test_a_box_that_died_between_two_runs_costs_at_most_one_abstention() -> None:
    with own() as box:
        ran(box, "print(1)")
        os.killpg(box._boxes[0, 0].process.pid, 9)
        time.sleep(0.1)
        box.run("print(2)")
        assert ran(box, "print(3)").stdout == "3\n"


def test_in_hostile_mode_each_run_has_a_sandbox_of_its_own() -> None:
    with own(hostile=True) as box:
        assert ran(box, "print(1)").stdout == "1\n"
        assert box._boxes == {}
        assert ran(box, "while True: print('x' * 1000)").stopped == "output"


def test_map_answers_in_order_with_several_boxes() -> None:
    with own(count=3) as box:
        found = box.map([Program("print(input())", stdin=str(i)) for i in range(20)] + ["import os; os._exit(4)"])
        assert [r.stdout.strip() for r in found if isinstance(r, Ran)] == [*map(str, range(20)), ""]


def test_no_process_stays_when_the_sandbox_closes_or_its_owner_is_killed(tmp_path: Path) -> None:
    own().close()
    script = """
import time
from truegain.runtime import Sandbox
box = Sandbox()
box.run("")
print(box._boxes[0, 0].process.pid, flush=True)
box.run("import time; time.sleep(60)")
"""
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    there = _descendants(pid)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{one}").exists() and _state(one) != "Z" for one in there) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [one for one in there if Path(f"/proc/{one}").exists() and _state(one) != "Z"]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_program_may_import_from_the_folders_it_is_given(tmp_path: Path) -> None:
    place = Path("/tmp") / f"truegain-read-{os.getpid()}"
    place.mkdir()
    try:
        (place / "given.py").write_text("value = 9\n")
        place.chmod(0o755)
        for backend in ("bubblewrap", "landlock"):
            if backends.unusable(backend) is None:  # type: ignore[arg-type]
                with own(backend, read=[place]) as box:
                    assert ran(box, "import given; print(given.value)").stdout == "9\n"
                    assert ran(box, f"open({str(place / 'new')!r}, 'w')").exit == 1
    finally:
        (place / "given.py").unlink()
        for name in list(place.iterdir()):
            name.unlink()
        place.rmdir()


def test_where_no_sandbox_works_it_refuses_and_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "unusable", lambda backend: "it is missing")
    with pytest.raises(SettingError, match=r"no generated code is run; install bubblewrap \(apt install bubblewrap"):
        Sandbox()


def test_without_bubblewrap_landlock_is_taken_and_without_landlock_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends.shutil, "which", lambda name: None)
    monkeypatch.setattr(confine, "landlock_version", lambda: 0)
    backends.unusable.cache_clear()
    try:
        with pytest.raises(SettingError, match=r"bubblewrap: bwrap is not installed; landlock: the kernel has no"):
            Sandbox()
    finally:
        backends.unusable.cache_clear()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "a\0b"])
def test_a_file_outside_of_the_programs_folder_is_refused(name: str) -> None:
    with own() as box, pytest.raises(SettingError, match="no name of a file"):
        box.run("", files={name: ""})


@pytest.mark.parametrize("knobs", [{"seconds": 0}, {"cpu": -1}, {"memory_mb": 1 << 40}, {"processes": 0}])
def test_limits_out_of_bounds_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(knobs))):
        Limits(**knobs)
    with pytest.raises(SettingError, match="count=0"):
        Sandbox(count=0)
