"""Which sandbox works here, and the command that starts one."""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truegain.core.errors import SettingError
from truegain.runtime._interpreter import interpreter
from truegain.runtime.inside import confine
from truegain.runtime.inside.seccomp import ARCHES

Backend = Literal["bubblewrap", "landlock"]
BACKENDS: tuple[Backend, ...] = ("bubblewrap", "landlock")
MEND = "install bubblewrap (apt install bubblewrap, dnf install bubblewrap), or use Linux 5.13 or newer with landlock"
"""What to do where no sandbox works."""

_HERE = Path(__file__).parent
_SCRATCH = "/box"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_PRELOAD = (
    "bisect collections copy datetime decimal fractions functools heapq io itertools json math operator random re "
    "statistics string threading traceback typing dataclasses enum abc ctypes inside.suspect inside.examiner"
)


@dataclass(frozen=True)
class Command:
    """How to start one sandbox: the arguments, what the process inside is told, and the folder to remove at the end."""

    arguments: tuple[str, ...]
    setup: dict[str, Any]
    folder: str | None

    def line(self, control: int) -> list[str]:
        """The command line, with the descriptor of the control socket filled in."""
        return [*self.arguments, json.dumps({**self.setup, "control": control})]


def command(backend: Backend, number: int, limits: dict[str, Any], read: Sequence[str], warm: bool) -> Command:
    """The command that starts a sandbox.

    ``number`` tells apart those of one process; ``read`` are more folders to read; ``warm`` imports what is used most.
    """
    python = interpreter()
    uid = _other_user(number)
    boxed = backend == "bubblewrap"
    folder = None if boxed else tempfile.mkdtemp(prefix="truegain-box-")
    if folder is not None and uid is not None:
        os.chown(folder, uid, uid)
    setup = {
        "backend": backend,
        "uid": uid,
        "scratch": _SCRATCH if folder is None else folder,
        "readable": [] if boxed else [*python.readable(), "/dev/null", "/dev/urandom", str(_HERE / "inside"), *read],
        "listed": [] if boxed else [python.library],
        "preload": _PRELOAD.split() if warm else [],
        "path": list(read),
        **limits,
    }
    run = [python.executable, "-P", "-s", "-S", "-B", "-X", "utf8", "-c"]
    start = "import sys; sys.path.insert(0, {!r}); from inside.zygote import main; main()"
    if not boxed:
        return Command((*run, start.format(str(_HERE))), setup, folder)
    return Command((*_bubblewrap(uid, read), *run, start.format("/inside")), setup, None)


def _bubblewrap(uid: int | None, read: Sequence[str]) -> list[str]:
    """Namespaces of its own, a read-only root that holds the interpreter alone, and the few privileges of process 1."""
    python = interpreter()
    found = shutil.which("bwrap") or "bwrap"
    line = [found, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    line += ["--as-pid-1", "--hostname", "box", "--clearenv", "--setenv", "PYTHONHASHSEED", "0"]
    line += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    if uid is None:
        line += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    else:
        for name in ("SETUID", "SETGID", "KILL", "DAC_READ_SEARCH"):
            line += ["--cap-add", f"CAP_{name}"]
    bound = (python.library, *python.files, *read)
    for folder in sorted({str(up) for path in (*bound, *_DEVICES, "/inside/inside") for up in Path(path).parents}):
        line += ["--perms", "0755", "--dir", folder]
    for path in bound:
        line += ["--ro-bind", path, path]
    for path in python.hidden:
        line += ["--tmpfs", path, "--remount-ro", path]
    for name, to in python.links:
        line += ["--symlink", to, name]
    for path in _DEVICES:
        line += ["--dev-bind", path, path]
    line += ["--ro-bind", str(_HERE / "inside"), "/inside/inside", "--symlink", _SCRATCH, "/dev/shm", "--dir", _SCRATCH]
    if not any(path.startswith("/tmp/") for path in bound):
        line += ["--symlink", _SCRATCH, "/tmp"]
    return [*line, "--proc", "/proc", "--remount-ro", "/", "--chdir", "/", "--"]


def _other_user(number: int) -> int | None:
    """A user that nobody else is, for root to become; None where this process is no root, or knows no other user.

    Each sandbox has one of its own, as the kernel counts processes by user, and not at all for root.
    """
    if os.geteuid() != 0:
        return None
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    start, _, count = max(ranges, key=lambda found: found[2])
    if count < 65536:
        return None
    if count > 0xF0000000:  # all there are: take from those above 2**31, which directories and containers leave alone
        return 0xC0000000 + (os.getpid() * 2048 + number) % 0x30000000
    return start + count // 2 + (os.getpid() * 2048 + number) % (count // 2 - 1)


@functools.lru_cache(maxsize=4)
def unusable(backend: Backend) -> str | None:
    """Why a backend does not work here, in a few words; None if it does. It is tried, once."""
    if sys.platform != "linux" or platform.machine() not in ARCHES:
        return f"it needs Linux on {' or '.join(ARCHES)}; this is {sys.platform} on {platform.machine()}"
    if backend == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    if backend == "landlock" and confine.landlock_version() < 1:
        return "the kernel has no landlock, or forbids it"
    from truegain.runtime.box import Box, Limits, NotStarted

    try:
        box = Box(backend, 0, Limits(), (), warm=False)
    except NotStarted as error:
        return str(error)
    box.close()
    return None


def chosen(wanted: Backend | None = None) -> Backend:
    """The first backend that works here, or the wanted one. Raises SettingError with what to install."""
    if wanted is not None and wanted not in BACKENDS:
        raise SettingError(f"unknown sandbox {wanted!r}; legal: {', '.join(BACKENDS)}")
    reasons: list[str] = []
    for backend in BACKENDS if wanted is None else (wanted,):
        reason = unusable(backend)
        if reason is None:
            return backend
        reasons.append(f"{backend}: {reason}")
    raise SettingError(f"no sandbox works here ({'; '.join(reasons)}), so no generated code is run; {MEND}")
