"""Runs inside the sandbox: forks a confined process per request, and clears away all it left. Standard library only.

It is the first process of its namespace under bubblewrap, which nothing inside can signal. A request brings open file
descriptors: what the code reads and writes passes by this process, which never sees a byte of it, so that no request
can leave anything here for the next one, or mislead the program that asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from . import confine, guest, seccomp

if TYPE_CHECKING:
    from typing import Any, NoReturn

_SAMPLE = 0.02
_ROOM = 64
_SLACK = 16 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Zygote:
    """Serves the requests that come on ``control`` one at a time; see `truegain.runtime.box` for the other end."""

    def __init__(self, setup: dict[str, Any]) -> None:
        """Make this process and the scratch space ready."""
        self.control = socket.socket(fileno=setup["control"])
        self.boxed: bool = setup["backend"] == "bubblewrap"
        self.uid: int | None = setup["uid"]
        self.scratch: str = setup["scratch"]
        self.readable: list[str] = setup["readable"]
        self.limits: dict[str, int] = setup["limits"]
        self.memory: int = setup["memory"]
        self.scratch_mb: float = setup["scratch_mb"]
        self.filter = seccomp.assemble(os.uname().machine, self.boxed)
        self.keep_reading = False
        self.counted = (-9.0, 0)
        confine.undumpable()
        self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self._first_out_of_memory()
        if self.boxed:
            confine.unmount("/proc")  # its descriptor goes on working here, and nobody else has one
            self._fresh_scratch()
        else:
            self.keep_reading = self.uid is not None and not self._reachable(self.uid)
            self.ruleset = confine.readable_only([*self.readable, self.scratch], setup["listed"])
        size, resident, shared, *_ = map(int, self._read("self/statm").split())
        self.limits["AS"] = size * _PAGE + self.memory
        self.own = (resident - shared) * _PAGE

    def _owner(self) -> int:
        return os.geteuid() if self.uid is None else self.uid

    def _read(self, name: str) -> bytes:
        fd = os.open(name, os.O_RDONLY, dir_fd=self.proc)
        try:
            return os.read(fd, 4096)
        finally:
            os.close(fd)

    def _first_out_of_memory(self) -> None:
        """When the machine runs out of memory, the kernel is to take these processes before others."""
        with contextlib.suppress(OSError):
            fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=self.proc)
            os.write(fd, b"1000")
            os.close(fd)

    def _reachable(self, uid: int) -> bool:
        """Whether that user may read the interpreter's files."""
        child = os.fork()
        if child == 0:
            try:
                confine.become(uid, keep_reading=False)
                for path in self.readable:
                    os.close(os.open(path, os.O_RDONLY))
                os._exit(0)
            except BaseException:
                os._exit(1)
        return os.waitpid(child, 0)[1] == 0

    def _fresh_scratch(self) -> None:
        confine.mount_scratch(self.scratch, self._owner(), self.scratch_mb)
        self.untouched = os.stat(self.scratch)

    def _empty_scratch(self) -> None:
        """Nothing of the last request is left: an untouched file system stays, any other is replaced.

        Comparing times would not be enough, as they have the grain of a clock tick; within one tick, what was made and
        removed leaves nothing, and what was made and stays is listed.
        """
        if not self.boxed:
            for name in os.listdir(self.scratch):
                _removed(os.path.join(self.scratch, name))
        elif self._touched():
            confine.unmount(self.scratch)
            self._fresh_scratch()

    def _touched(self) -> bool:
        try:
            return bool(os.listdir(self.scratch)) or _state(os.stat(self.scratch)) != _state(self.untouched)
        except OSError:  # its owner may have closed it
            return True

    def serve(self) -> None:
        """Answer requests until the other end closes."""
        gc.collect()
        gc.freeze()
        self.control.send(b'{"ready": true}')
        while True:
            message, fds, _, _ = socket.recv_fds(self.control, 65536, 16)
            if not message:
                return
            if not fds:
                continue  # an order to stop what has ended by itself
            reply = self._one(fds)
            if reply is None:
                return
            self.control.send(json.dumps(reply).encode())

    def _one(self, fds: list[int]) -> dict[str, Any] | None:
        heard, told = os.pipe()
        shared = self._shared_count()
        pid = os.fork()
        if pid == 0:
            os.close(heard)
            self._child(fds, told, shared)
        for fd in (*fds, told):
            os.close(fd)
        status, usage, why = self._wait(pid)
        self._kill_others()
        setup = os.read(heard, 500)  # all writers are dead
        os.close(heard)
        self._empty_scratch()
        if why == "closed":
            return None
        return {
            "exit": os.waitstatus_to_exitcode(status),
            "why": why,
            "cpu": usage.ru_utime + usage.ru_stime,
            "ready": setup == b"k",
            "setup": setup.decode(errors="replace"),
        }

    def _wait(self, pid: int) -> tuple[int, Any, str]:
        """Wait for the process to end, or end it; its status, what it used, and why it was ended."""
        why = ""
        ended = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self.control.fileno(), select.POLLIN)
        while True:
            found = {fd for fd, _ in poll.poll(int(_SAMPLE * 1000))}
            if not found and self.boxed and not why and self._resident() > self.memory + _SLACK:
                why = "memory"
            if ended in found:
                break
            if self.control.fileno() in found:
                why = why or ("stopped" if self.control.recv(64) else "closed")
                if why == "closed":
                    poll.unregister(self.control.fileno())
            if why:
                os.kill(pid, signal.SIGKILL)
        os.close(ended)
        _, status, usage = os.wait4(pid, 0)
        return status, usage, why

    def _resident(self) -> int:
        """Bytes of memory that all processes but this one hold together, beyond what each was forked with."""
        total = 0
        for name in os.listdir(self.proc):
            if name.isdigit() and name != "1":
                with contextlib.suppress(OSError):
                    _, resident, shared, *_ = map(int, self._read(f"{name}/statm").split())
                    total += max(0, (resident - shared) * _PAGE - self.own)
        return total

    def _kill_others(self) -> None:
        """Under bubblewrap this is process 1, and -1 is every other process of the namespace. Else there are none."""
        if self.boxed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _shared_count(self) -> int:
        """Where the limit on processes counts all that the user has on the machine: how many there are, and room.

        0 where the sandbox's processes are counted apart. Counted anew once a second.
        """
        if self.boxed or self.uid is not None:
            return 0
        now = time.monotonic()
        if now - self.counted[0] > 1.0:
            total = 0
            for name in filter(str.isdigit, os.listdir(self.proc)):
                with contextlib.suppress(OSError):
                    if os.stat(name, dir_fd=self.proc).st_uid == os.geteuid():
                        total += len(os.listdir(f"/proc/{name}/task"))
            self.counted = (now, total + _ROOM)
        return self.counted[1]

    def _child(self, fds: list[int], told: int, shared: int) -> NoReturn:
        try:
            told, *rest = self._arrange(fds, [told] if self.boxed else [told, self.ruleset])
            ruleset = rest[0] if rest else -1
            work = guest.read_work(3)
            if self.uid is not None:
                confine.become(self.uid, self.keep_reading)
            os.umask(0o077)
            os.chdir(self.scratch)
            guest.write_files(work)
            confine.drop_capabilities(self.keep_reading)
            confine.undumpable()
            confine.die_with_parent()
            confine.no_new_privileges()
            if not self.boxed:
                confine.restrict_files(ruleset)
                os.close(ruleset)
            confine.limit({**self.limits, "NPROC": self.limits["NPROC"] + shared})
            confine.filter_calls(self.filter if self.boxed else seccomp.fitted(self.filter, os.getpid()))
            os.write(told, b"k")
        except BaseException as error:
            with contextlib.suppress(BaseException):
                os.write(told, f"{type(error).__name__}: {error}".encode()[:400])
            os._exit(1)
        os.close(told)
        guest.perform(work)

    def _arrange(self, fds: list[int], more: list[int]) -> range:
        """Put the request's descriptors at 0, 1, 2 and on, ``more`` behind them, and close all others.

        Gives where ``more`` now are.
        """
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (*fds, *more)]  # clear of the places they go to
        for at, fd in enumerate(high):
            os.dup2(fd, at)
        os.closerange(len(high), os.sysconf("SC_OPEN_MAX"))
        return range(len(fds), len(high))


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns, found.st_ctime_ns


def _removed(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _removed(os.path.join(path, name))
        os.rmdir(path)
    else:
        os.unlink(path)


def main() -> None:
    """Set up as the argument says, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup = json.loads(sys.argv[1])
    guest.preload(setup["preload"], setup["path"])
    zygote = Zygote(setup)
    silent = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(silent, fd)
    os.close(silent)
    zygote.serve()
