"""The child's side of `truegain.runtime.Workers`: load one function, answer one JSON line per JSON line.

Run as a script, by path: it imports the standard library and the target only, so that a worker starts in milliseconds
and holds no torch unless the target asks for it. Requests and replies travel on pipes of their own; whatever the
target prints goes elsewhere. The target runs on the main thread, so that it may use SIGALRM.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import pkgutil
import select
import signal
import sys
import threading
from collections.abc import Callable
from numbers import Real
from typing import Any

MAX_REPLY = 64 * 2**20
_F_SETSIG = 10  # Linux; the fcntl module does not name it


class NotLoaded(Exception):
    """The target cannot be loaded. Holds the reason, the unknown name and the names there are."""

    def __init__(self, reason: str, name: str = "", legal: list[str] | None = None) -> None:
        super().__init__(reason)
        self.reason, self.name, self.legal = reason, name, legal or []


def one_line(error: BaseException, limit: int = 500) -> str:
    """``"ValueError: why"`` on one line of at most ``limit`` characters, whatever the exception's text does."""
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = "(its text cannot be shown)"
    name = type(error).__name__
    return f"{name}: {text}"[:limit] if text else name


def line_in(home: str, error: BaseException) -> int | None:
    """The line of the innermost frame of an error's traceback in the file ``home``; None where it has none there."""
    line, at = None, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == home:
            line = at.tb_lineno
        at = at.tb_next
    return line


def told(error: BaseException, home: str | None) -> str:
    """`one_line`, after ``file.py:LINE: `` where the error came through the file ``home``."""
    line = None if home is None else line_in(home, error)
    place = "" if home is None or line is None else f"{' '.join(os.path.basename(home).split())[:200]}:{line}: "
    return place + one_line(error)


def split_target(target: str) -> tuple[str, str]:
    """Cut ``pkg.mod:fn``, ``pkg.mod.fn`` or ``path/to/file.py:fn`` into module or file, and function."""
    head, colon, name = target.rpartition(":")
    if not colon and not target.endswith(".py") and os.sep not in target:
        head, _, name = target.rpartition(".")
    if not head or not name:
        raise NotLoaded(f"{target!r} names no function; write pkg.mod:function or path/to/file.py:function")
    return head, name


def load(target: str) -> Callable[..., Any]:
    """Import the function that ``target`` names. Raises NotLoaded with a reason a user can act on."""
    head, name = split_target(target)
    is_file = head.endswith(".py") or os.sep in head
    try:
        found: Any = _file_module(head) if is_file else _dotted_module(head)
    except NotLoaded:
        raise
    except BaseException as error:
        line = error.lineno if isinstance(error, SyntaxError) else line_in(os.path.abspath(head), error)
        where = "" if line is None else f", line {line}"
        raise NotLoaded(f"importing {head!r} failed: {one_line(error)}{where}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            legal = [key for key in dir(found) if not key.startswith("_") and callable(getattr(found, key, None))]
            raise NotLoaded(f"{head!r} has no function {name!r}", part, legal)
        found = getattr(found, part)
    if not callable(found):
        raise NotLoaded(f"{name!r} in {head!r} is a {type(found).__name__}, not a function")
    return found


def _file_module(path: str) -> Any:
    """Import a file by path, its folder importable beside it, as when it is run as a script."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isfile(path):
        near = os.listdir(folder) if os.path.isdir(folder) else []
        raise NotLoaded(f"no file {path!r}", os.path.basename(path), [n for n in near if n.endswith(".py")])
    stem = "truegain_target_" + os.path.basename(path).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None:
        raise NotLoaded(f"{path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module  # dataclasses and typing look their module up
    if folder not in sys.path:
        sys.path.append(folder)
    spec.loader.exec_module(module)
    return module


def _dotted_module(name: str) -> Any:
    """Import a module; a name that does not exist is told apart from an import that fails inside it."""
    parent: Any = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        head = ".".join(parts[:depth])
        try:
            parent = importlib.import_module(head)
        except ModuleNotFoundError as error:
            if error.name != head:
                raise
            places = getattr(parent, "__path__", []) if parent is not None else None
            legal = [found.name for found in pkgutil.iter_modules(places)]
            raise NotLoaded(f"no module {head!r}", parts[depth - 1], legal) from error
    return parent


def plain(value: Any) -> Any:
    """Stand-in for what JSON does not know: arrays and tensors as lists, other real numbers as floats."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"the function returned a {type(value).__name__}, which JSON cannot hold")


def die_with_parent(lifeline: int) -> None:
    """Have this process group killed when the parent's end of the lifeline closes, however the parent ended.

    On Linux the kernel does it, even while the target holds the interpreter lock or has children of its own;
    elsewhere a thread waits for it.
    """
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
            if select.select([lifeline], [], [], 0)[0]:
                os._exit(0)
            return
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _watch(lifeline: int) -> None:
    select.select([lifeline], [], [])
    os.killpg(0, signal.SIGKILL)


def bound_memory(megabytes: float | None) -> None:
    """Allow this many MiB of address space on top of what the loaded target holds. No core dumps in any case."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if megabytes is None:
        return
    held = 0
    with contextlib.suppress(OSError), open("/proc/self/statm") as statm:
        held = int(statm.read().split()[0]) * resource.getpagesize()
    limit = held + int(megabytes * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def answer(call: Callable[[Any], Any], line: bytes) -> bytes:
    """One request line to one reply line: ``[value]``, or ``"reason"`` when there is none.

    An adapter may give what it returns an attribute ``home``: the file whose lines are told with errors.
    """
    try:
        try:
            value = call(json.loads(line))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm left behind would hit the next call
        reply = json.dumps([value], default=plain).encode()
        if len(reply) > MAX_REPLY:
            raise ValueError(f"the answer takes {len(reply)} bytes; at most {MAX_REPLY} are taken")
    except BaseException as error:
        reply = json.dumps(told(error, getattr(call, "home", None))).encode()
    return reply + b"\n"


def send(fd: int, line: bytes) -> None:
    """Write the whole line."""
    view = memoryview(line)
    while view:
        view = view[os.write(fd, view) :]


def main(requests: int, replies: int, lifeline: int) -> None:
    """Read the set-up line, load the target, say so, then answer until the requests end."""
    me = os.getpid()
    for fd in (requests, replies, lifeline):
        os.set_inheritable(fd, False)
    die_with_parent(lifeline)
    # A forked child must neither hold the pipes open after this process died, nor speak on them.
    os.register_at_fork(after_in_child=lambda: (os.close(requests), os.close(replies)))
    source = os.fdopen(requests, "rb", closefd=False)
    setup = json.loads(source.readline())
    sys.path[:] = setup["path"]
    try:
        call = load(setup["target"])
        if setup["adapter"]:
            call = load(setup["adapter"])(call)
        bound_memory(setup["memory_mb"])
    except BaseException as error:
        no = error if isinstance(error, NotLoaded) else NotLoaded(one_line(error))
        send(replies, json.dumps({"reason": no.reason, "name": no.name, "legal": no.legal}).encode() + b"\n")
        return
    send(replies, b"{}\n")
    while line := source.readline():
        reply = answer(call, line)
        if os.getpid() != me:
            os._exit(0)  # a child that the target forked came back here
        send(replies, reply)


if __name__ == "__main__":
    main(*(int(fd) for fd in sys.argv[1:4]))
