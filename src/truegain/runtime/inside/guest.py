"""What a confined process does with its request: run a program, answer questions about one, or ask them.

Standard library only: it is read inside. Descriptors 0, 1 and 2 are the program's; the work comes on 3, and what a
conversation needs on 4 and up.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a cold start pays for each import
    from typing import Any, NoReturn

NAME = "<solution>"

sources: dict[str, str] = {}
"""What is being run, to show its lines."""


def preload(modules: list[str], path: list[str]) -> None:
    """Import what programs import most, once for all."""
    sys.path.extend(path)
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def read_work(fd: int) -> dict[str, Any]:
    """The request, to the end of its pipe, which is closed."""
    with open(fd, "rb") as source:
        return json.loads(source.read())


def write_files(work: dict[str, Any]) -> None:
    """Write the request's files below the present folder."""
    for name, content in work.get("files", {}).items():
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, mode=0o755, exist_ok=True)
        with open(name, "w", encoding="utf-8", newline="") as file:
            file.write(content)


def perform(work: dict[str, Any]) -> NoReturn:
    """Do the work, and end the process."""
    os.environ.clear()
    os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd(), LANG="C.UTF-8")
    kind = work["kind"]
    if kind == "run":
        finish(lambda: run(work["source"], "__main__"))
    elif kind == "answer":
        from . import suspect

        finish(lambda: suspect.answer(work))
    else:
        from . import examiner

        finish(lambda: examiner.examine(work))


def run(source: str, name: str) -> dict[str, Any]:
    """Execute a program as the module ``name``; its namespace."""
    module = type(sys)(name)
    sys.modules[name] = module
    sys.argv = [NAME]
    sys.path[0] = os.getcwd()  # in the place of the folder of these files
    sources[NAME] = source
    exec(compile(source, NAME, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def finish(call: Any) -> NoReturn:
    """Call, and end as the interpreter does: exit code, traceback, threads awaited, output flushed."""
    code = 0
    try:
        try:
            call()
        finally:
            if "threading" in sys.modules:
                sys.modules["threading"]._shutdown()
            atexit._run_exitfuncs()
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:
        code = 1
        with contextlib.suppress(BaseException):
            _show(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            code = code or 120
    os._exit(code & 0xFF)


def _show(error: BaseException) -> None:
    """Print the traceback, from the program's first line on."""
    import linecache
    import traceback

    source = sources.get(NAME, "")
    linecache.cache[NAME] = (len(source), None, source.splitlines(keepends=True), NAME)
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename != NAME:
        at = at.tb_next
    traceback.print_exception(type(error), error, at)


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    with contextlib.suppress(BaseException):
        print(end.code, file=sys.stderr)
    return 1
