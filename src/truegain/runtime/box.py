"""One sandbox as seen from outside: its process, the runs in it, and its replacement when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from truegain.core.errors import SettingError
from truegain.core.types import Abstain

_START, _GRACE = 30.0, 2.0
_READ = 1 << 16
Why = Literal["", "deadline", "cpu", "memory", "output"]


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    ``seconds`` of wall clock, ``cpu`` seconds of each process, ``memory_mb`` (MiB) of address space of each process
    and of memory of all together, ``processes`` and threads at once, ``output_kb`` (KiB) of standard output and error
    each, ``scratch_mb`` (MiB) of files, ``file_mb`` of one of them, and ``files`` open at once in each process.
    """

    seconds: float = 10.0
    cpu: int = 5
    memory_mb: int = 512
    processes: int = 16
    output_kb: int = 256
    scratch_mb: int = 16
    file_mb: int = 16
    files: int = 64

    def __post_init__(self) -> None:
        """Raises SettingError for what is not positive."""
        for name, value in vars(self).items():
            if not 0 < value < 1 << 31:
                raise SettingError(f"sandbox: {name}={value} is out of bounds; it must be positive and below 2**31")

    def inside(self, own_user: bool) -> dict[str, Any]:
        """The limits as the process inside sets them. ``own_user``: its own first process counts among them."""
        limits = {
            "CPU": self.cpu,
            "NPROC": self.processes + (0 if own_user else 1),
            "NOFILE": self.files,
            "FSIZE": self.file_mb << 20,
            "CORE": 1,  # 0 would still hand a core to the machine's own collector, where it has one; 1 never does
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
            "SIGPENDING": 64,
        }
        return {"limits": limits, "memory": self.memory_mb << 20, "scratch_mb": self.scratch_mb}


@dataclass(frozen=True)
class Ran:
    """What came of a program: its output, its exit code (negative: the signal that ended it), seconds of wall clock.

    ``stopped`` names the limit for which it was ended: ``deadline``, ``cpu``, ``memory`` or ``output``; empty if none.
    The exit code is the program's own word. Whether it did its task is for the caller to find out from its output.
    """

    stdout: str
    stderr: str
    exit: int
    seconds: float
    stopped: Why = ""


class NotStarted(Exception):
    """The sandbox could not be started; the reason, on one line."""


@dataclass
class _Stream:
    """A pipe that is written to, or read up to a bound."""

    fd: int
    data: bytearray | memoryview
    bound: int = 0
    full: bool = False


@dataclass
class Call:
    """One request to a box: what is fed to it, what it wrote, and what came of it.

    ``extra`` are further descriptors for it, which are closed here when they have been sent.
    """

    work: Mapping[str, Any]
    stdin: bytes = b""
    extra: list[int] = field(default_factory=list)
    told: dict[str, Any] | None = None
    why: Why | Literal["lost"] = ""
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    started: float = 0.0
    ended: float = 0.0


class Box:
    """A sandbox that serves one run at a time. Raises NotStarted."""

    def __init__(self, backend: Any, number: int, limits: Limits, read: Sequence[str], *, warm: bool = True) -> None:
        """Start it, and wait until it is ready."""
        from truegain.runtime.backend import command

        self.backend, self.limits = backend, limits
        try:
            how = command(backend, number, {}, read, warm)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotStarted(f"{type(error).__name__}: {error}") from None
        how.setup.update(limits.inside(how.setup["uid"] is not None))
        self.folder = how.folder
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.process = subprocess.Popen(
                how.line(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env={"PYTHONHASHSEED": "0", "PATH": os.defpath},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self.control.close()
            raise NotStarted(f"{type(error).__name__}: {error}") from None
        finally:
            theirs.close()
        self.owner = os.getpid()
        self._finish = weakref.finalize(self, _end, self.process, self.control, self.folder, os.getpid())
        _BOXES.add(self)
        self._await_ready()

    def _await_ready(self) -> None:
        stderr = self.process.stderr
        assert stderr is not None
        readable, _, _ = select.select([self.control], [], [], _START)
        message = self.control.recv(4096) if readable else b""
        if message != b'{"ready": true}':
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            text = stderr.read().decode(errors="replace").strip().splitlines() if readable else []
            self.close()
            raise NotStarted(text[-1][:300] if text else f"it was not ready within {_START:g} s")
        stderr.close()

    def close(self) -> None:
        """End it and all inside; may be called twice."""
        self._finish()

    def begin(self, call: Call) -> list[tuple[_Stream, bool]]:
        """Send a request; the streams to serve, each with whether it is written to."""
        work = json.dumps(dict(call.work)).encode()
        ends = [os.pipe() for _ in range(4)]
        (work_read, work_write), (in_read, in_write), (out_read, out_write), (err_read, err_write) = ends
        theirs = (in_read, out_write, err_write, work_read)
        mine = [
            (_Stream(work_write, memoryview(work)), True),
            (_Stream(in_write, memoryview(call.stdin)), True),
            (_Stream(out_read, call.out, self.limits.output_kb << 10), False),
            (_Stream(err_read, call.err, self.limits.output_kb << 10), False),
        ]
        for stream, _ in mine:
            os.set_blocking(stream.fd, False)
        try:
            socket.send_fds(self.control, [b"{}"], [*theirs, *call.extra])
        except OSError:
            call.why = "lost"
        finally:
            for fd in (*theirs, *call.extra):  # while one is open here, nobody sees the other side end
                os.close(fd)
            call.extra.clear()
        call.started = time.monotonic()
        return mine

    def stop(self) -> None:
        """Ask that the run be ended."""
        with contextlib.suppress(OSError):
            self.control.send(b"stop")

    def hear(self, call: Call) -> None:
        """Take in the reply that has come."""
        try:
            message = self.control.recv(65536)
            call.told = json.loads(message) if message else None
        except (OSError, ValueError):
            call.told = None
        call.ended = time.monotonic()
        if call.told is None:
            call.why = "lost"


_BOXES: weakref.WeakSet[Box] = weakref.WeakSet()


def _disown() -> None:
    """In a forked child: let go of the sockets, which would keep the boxes alive after the true parent died."""
    for box in _BOXES:
        box.control.close()
        box.process.returncode = 0  # not this process's child to wait for


os.register_at_fork(after_in_child=_disown)


def _end(process: subprocess.Popen[bytes], control: socket.socket, folder: str | None, owner: int) -> None:
    if os.getpid() != owner:
        return
    control.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def converse(pairs: Sequence[tuple[Box, Call]], seconds: float, leader: int = 0) -> None:
    """Run the calls, each in its box, side by side, until all have ended.

    All are stopped at the deadline, at too much output of one, and when the call ``leader`` has ended.
    """
    streams: dict[int, tuple[_Stream, bool, Box, Call]] = {}
    _, lead = pairs[leader]
    try:
        for box, call in pairs:
            for stream, writes in box.begin(call):
                streams[stream.fd] = (stream, writes, box, call)
        controls = {box.control.fileno(): (box, call) for box, call in pairs}
        expires, patience = time.monotonic() + seconds, 0.0
        while open_ := [fd for fd, (_, call) in controls.items() if call.told is None and call.why != "lost"]:
            now = time.monotonic()
            stop = now >= expires or lead.told is not None or any(call.why for _, call in pairs)
            if stop and not patience:
                for box, call in pairs:
                    if call.told is None:
                        call.why = call.why or ("deadline" if now >= expires else "")
                        box.stop()
                patience = now + _GRACE
            if patience and now >= patience:
                for fd in open_:
                    controls[fd][1].why = "lost"
                break
            _serve(streams, [*open_], controls, (patience or expires) - now)
        while any(not (writes or stream.full) for stream, writes, _, call in streams.values() if call.told):
            if not _serve(streams, [], controls, _GRACE):  # what was written before the end; all writers are dead
                break
    finally:
        for fd in streams:
            os.close(fd)


def _serve(
    streams: dict[int, tuple[_Stream, bool, Box, Call]],
    open_: list[int],
    controls: Mapping[int, tuple[Box, Call]],
    seconds: float,
) -> bool:
    """Wait for the next event, and take in or write what there is; False when there was none."""
    poll = select.poll()
    for fd, (stream, writes, _, _) in streams.items():
        if not stream.full:
            poll.register(fd, select.POLLOUT if writes else select.POLLIN)
    for fd in open_:
        poll.register(fd, select.POLLIN)
    heard = poll.poll(max(0.0, seconds) * 1000 + 1)
    for fd, _ in heard:
        if fd in controls:
            box, call = controls[fd]
            box.hear(call)
            continue
        stream, writes, _, call = streams[fd]
        if not (_write(stream) if writes else _read(stream, call)):
            os.close(fd)
            del streams[fd]
    return bool(heard)


def _write(stream: _Stream) -> bool:
    """Write what the pipe takes; False when it can be closed."""
    assert isinstance(stream.data, memoryview)
    try:
        while stream.data:
            stream.data = stream.data[os.write(stream.fd, stream.data[:_READ]) :]
    except BlockingIOError:
        return True
    except BrokenPipeError:
        pass
    return False


def _read(stream: _Stream, call: Call) -> bool:
    """Read what there is, up to the bound; False at the end."""
    assert isinstance(stream.data, bytearray)
    try:
        chunk = os.read(stream.fd, _READ)
    except BlockingIOError:
        return True
    room = stream.bound - len(stream.data)
    stream.data += chunk[:room]
    if len(chunk) > room:  # it stays open, unread: the program is to be ended, not to find a broken pipe
        stream.full = True
        call.why = call.why or "output"
    return bool(chunk)


def outcome(call: Call, limits: Limits) -> Ran | Abstain:
    """What a call came to."""
    told = call.told
    if told is None:
        return Abstain("the sandbox failed and was replaced")
    if not told["ready"]:
        if told["why"] == "stopped":
            return Abstain("the sandbox had no time to start the program")
        return Abstain(f"the sandbox could not be set up: {told['setup'] or 'it was killed'}")
    why: Any = call.why or ("memory" if told["why"] == "memory" else "")
    if not why and told["exit"] in (-signal.SIGKILL, -signal.SIGXCPU) and told["cpu"] >= 0.8 * limits.cpu:
        why = "cpu"
    text = [bytes(part).decode(errors="replace") for part in (call.out, call.err)]
    return Ran(text[0], text[1], told["exit"], call.ended - call.started, why)
