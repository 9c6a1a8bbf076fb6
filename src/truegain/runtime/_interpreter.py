"""The files that a bare Python interpreter needs: what the sandbox lets in, and nothing else."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_MAPPED = """
import sys, os, json, importlib
for entry in sorted(os.listdir(sys.argv[1])):
    name = entry.partition(".")[0]
    if name.startswith(("_test", "xx", "_xx", "_tkinter", "_ctypes_test", "_ssl", "nis", "readline", "_curses")):
        continue
    try:
        importlib.import_module(name)
    except BaseException:
        pass
import _ctypes
paths = {line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if line.count("/")}
print(json.dumps(sorted(path for path in paths if os.path.isfile(path) and (".so" in path))))
"""


@dataclass(frozen=True)
class Interpreter:
    """An executable, the folder of its standard library, and the shared libraries that they load.

    ``hidden`` are folders of installed packages inside the library. ``links`` are (name, where it leads).
    """

    executable: str
    library: str
    hidden: tuple[str, ...]
    files: tuple[str, ...]
    links: tuple[tuple[str, str], ...]

    def readable(self) -> list[str]:
        """Every path that code may read: the library's parts without the packages, and the files."""
        parts = sorted(str(path) for path in Path(self.library).iterdir())
        return [*(part for part in parts if part not in self.hidden), *self.files]


@functools.lru_cache(maxsize=1)
def interpreter() -> Interpreter:
    """The interpreter that runs this program, without the packages installed into it."""
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable) or sys.executable)
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    hidden = tuple(sorted(str(path) for path in Path(library).glob("*-packages")))
    found = subprocess.run(
        [executable, "-I", "-S", "-B", "-c", _MAPPED, os.path.join(library, "lib-dynload")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    files, links = {executable}, dict[str, str]()
    for path in map(os.path.realpath, json.loads(found.stdout)):
        if not path.startswith(library + os.sep):
            files.add(path)
            links.update((name, os.path.basename(path)) for name in _aliases(path))
    loader = _loader(executable)
    if loader:
        folder, name = os.path.split(loader)
        files.add(os.path.realpath(loader))
        links[os.path.join(os.path.realpath(folder), name)] = os.path.realpath(loader)
    if os.path.exists("/etc/ld.so.cache"):
        files.add("/etc/ld.so.cache")
    roots = {f"/{name}": os.readlink(f"/{name}") for name in ("lib", "lib64") if os.path.islink(f"/{name}")}
    links = {name: to for name, to in links.items() if name != to}
    return Interpreter(executable, library, hidden, tuple(sorted(files)), tuple(sorted({**roots, **links}.items())))


def _aliases(path: str) -> set[str]:
    """The links beside a library that lead to it, by one of which the loader looks for it."""
    folder, name = os.path.split(path)
    stem = name.partition(".so")[0].partition("-")[0]
    beside = {os.path.join(folder, other) for other in os.listdir(folder) if other.startswith(f"{stem}.so.")}
    return {other for other in beside - {path} if os.path.realpath(other) == path}


def _loader(executable: str) -> str | None:
    """The program interpreter that an ELF file names."""
    with open(executable, "rb") as file:
        head = file.read(4096)
    at = head.find(b"/ld-")
    start = head.rfind(b"\0", 0, at) + 1
    return head[start : head.find(b"\0", at)].decode() if at > 0 else None
