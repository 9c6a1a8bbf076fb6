"""A run folder: one run at a time, settings that cannot change unnoticed, JSON lines that survive a kill.

Layout: ``settings.json``, ``log.jsonl``, ``evals/records.jsonl``, ``rollouts/step-000010.jsonl``, ``checkpoints/``
(see `truegain.train.checkpoint`). Every line is strict JSON and belongs to a step, by its ``step`` or by the name of
its file, so that `RunFolder.rewind` can drop what a resumed run will write again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from truegain.core.errors import DataError, RunError, TruegainError, WiringError

# Settings that do not change the numbers of a step, only how many there are and who is told.
FREE_SETTINGS = frozenset({"steps", "max_seconds", "report_to"})
_STEP_FILE = re.compile(r"step-(\d+)\.jsonl")
_SHOWN_DIFFERENCES = 6
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}

# Open lock descriptors of this process. A forked worker must close its copies: a lock lives as long as any copy does,
# so a worker that outlives a killed run would keep the folder locked.
_held: set[int] = set()


def _drop_locks_in_child() -> None:
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_drop_locks_in_child)


class RunFolder:
    """A context manager that holds a run folder for one process.

    ``path`` is made if it is missing; its parent must exist. Raises on entering: `DataError` if the path is a file,
    its parent is missing or it cannot be written; `RunError` if another process holds it. The lock is the kernel's
    (flock), so it ends with the process however that dies.
    """

    def __init__(self, path: Path | str) -> None:
        """Touches nothing yet; entering makes and locks the folder."""
        self.path = Path(path)
        self._lock: int | None = None
        self._touched: set[Path] = set()

    def __enter__(self) -> RunFolder:
        """Make the folder if need be, and hold it."""
        _make(self.path)
        self._lock = _take_lock(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        """Let the folder go."""
        if self._lock is not None:
            _held.discard(self._lock)
            os.close(self._lock)
            self._lock = None

    def settings(self, values: Mapping[str, Any], free: Collection[str] = FREE_SETTINGS) -> list[str]:
        """Write ``settings.json`` of a new run, or hold a resumed one to what it was started with.

        ``values`` may nest; keys are compared by their dotted names. A key (or one of its ancestors) in ``free`` may
        change: the new value is written and returned as a note such as ``"steps: 50 -> 80"``. Any other difference
        raises `DataError` that names the keys with both values.
        """
        new = plain(values, "settings")
        if not (self.path / "settings.json").exists():
            self._write_settings(new)
            return []
        old = read_settings(self.path)
        changed = _differences(_flat(old), _flat(new))
        refused = [text for key, text in changed.items() if not any(f"{key}.".startswith(f"{name}.") for name in free)]
        if refused:
            more = f" and {len(refused) - _SHOWN_DIFFERENCES} more" if len(refused) > _SHOWN_DIFFERENCES else ""
            shown = "; ".join(refused[:_SHOWN_DIFFERENCES])
            raise DataError(
                f"{self.path} was started with other settings ({shown}{more}): "
                "resume it with the old ones, or give another folder"
            )
        if changed:
            self._write_settings(new)
        return list(changed.values())

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``log.jsonl``. It needs an integer ``step``. Raises `RunError` when the disk is full."""
        self.records("log.jsonl").append(line)

    def records(self, name: str) -> Appender:
        """An appender for a file of JSON lines inside the folder, such as ``evals/records.jsonl``.

        Lines need an integer ``step``, except in a file named ``step-000010.jsonl``.
        """
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or parts.suffix != ".jsonl":
            raise WiringError(f"records({name!r}): give a relative path that ends in .jsonl and has no '..'")
        return Appender(self.path / parts, self._touched)

    def rewind(self, step: int) -> None:
        """Drop every line of a later step, and a torn last line, from all files of lines but those of runs inside.

        Each file is replaced atomically and doing it twice changes nothing, so a kill in between does no harm.
        Raises `DataError` for a line that is not JSON and is not the last.
        """
        inside = [file.parent for file in self.path.rglob("settings.json") if file.parent != self.path]
        left = {file for place in (*inside, self.path / "checkpoints") for file in place.rglob("*.jsonl")}
        for file in sorted(set(self.path.rglob("*.jsonl")) - left):
            named = _STEP_FILE.fullmatch(file.name)
            if named and int(named[1]) > step:
                file.unlink()
            else:
                _keep_lines(file, None if named else step)

    def sync(self) -> None:
        """Force what was appended to the disk, so that a checkpoint never outlives the lines before it."""
        for path in filter(Path.exists, sorted(self._touched)):
            fsync(path)

    def read_log(self) -> list[dict[str, Any]]:
        """All lines of ``log.jsonl``; see `read_lines`."""
        return read_lines(self.path / "log.jsonl")

    def _write_settings(self, values: Any) -> None:
        write_atomic(self.path / "settings.json", json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Appender:
    """Adds JSON lines to one file of a run folder. Each call is one write: lines are whole or absent."""

    path: Path
    touched: set[Path]

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Write ``lines`` at the end. Numbers that are not finite become the strings "NaN", "Infinity", "-Infinity".

        Raises `WiringError` for a line without an integer ``step`` or with a value that JSON cannot hold, `RunError`
        when the disk is full; then none of the lines is in the file.
        """
        data = b"".join(self._encode(line) for line in lines)
        try:
            if self.path not in self.touched:
                self.path.parent.mkdir(exist_ok=True, parents=True)
                if self.path.exists() and not _ends_whole(self.path):
                    _keep_lines(self.path, None)
            _append(self.path, data)
        except OSError as error:
            raise failed("append to", self.path, error, needed=len(data)) from error
        self.touched.add(self.path)

    def _encode(self, line: Mapping[str, Any]) -> bytes:
        step = line.get("step")
        if not _STEP_FILE.fullmatch(self.path.name) and (not isinstance(step, int) or isinstance(step, bool)):
            raise WiringError(f"a line for {self.path.name} needs an integer 'step', so that a resumed run can drop it")
        return json.dumps(plain(line, self.path.name), allow_nan=False).encode() + b"\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, without a torn last line; empty if there is no such file.

    Needs no lock, so that a report can read a run that is going on. Raises `DataError` naming the first other line
    that is not a JSON object.
    """
    return [line for _, line in _lines(path)] if path.exists() else []


def read_settings(path: Path) -> dict[str, Any]:
    """The settings a run folder was started with. Raises `DataError` if they are missing or damaged."""
    file = path / "settings.json"
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} has no settings.json: it is not a run folder") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({_brief(error)}): restore it, or give another folder") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} is not a JSON object: restore it, or give another folder")
    return found


def plain(value: Any, where: str, *, exact: bool = False) -> Any:
    """``value`` made of what JSON has: objects, arrays, strings, numbers, true, false, null.

    Tuples become lists and, unless ``exact``, paths become strings, tensors and arrays of one element their number,
    and numbers that are not finite strings. With ``exact`` what would not come back equal (but for tuples) is
    refused. Raises `WiringError` that names the place (``where`` and the keys below it).

    >>> plain({"loss": float("nan"), "betas": (0.9, 0.95)}, "log")
    {'loss': 'NaN', 'betas': [0.9, 0.95]}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if exact or math.isfinite(value) else _NOT_FINITE.get(value, "NaN")
    if isinstance(value, Mapping):
        if exact and not all(isinstance(key, str) for key in value):
            raise WiringError(f"{where}: keys must be strings to come back from JSON as they were")
        return {str(key): plain(item, f"{where}.{key}", exact=exact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]", exact=exact) for i, item in enumerate(value)]
    if not exact and isinstance(value, Path):
        return str(value)
    if not exact and math.prod(getattr(value, "shape", (0,))) == 1 and hasattr(value, "item"):
        return plain(value.item(), where)
    raise WiringError(f"{where}: a value of type {type(value).__name__} cannot be written as JSON")


def write_atomic(path: Path, text: str) -> None:
    """Replace a file by ``text`` such that a reader, or a kill, meets the old content or the new one, nothing between.

    Raises `RunError` (a full disk and the like); the old file is then untouched.
    """
    temp = path.with_name(f".{path.name}.tmp")
    try:
        temp.write_bytes(text.encode())
        fsync(temp)
        temp.replace(path)
        fsync(path.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise failed("write", path, error, needed=len(text)) from error


def fsync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def failed(what: str, where: Path, error: BaseException, *, needed: int | None = None, rest: str = "") -> RunError:
    """A one-line `RunError` for a write that failed; for a full disk with the bytes ``needed`` and free."""
    if not is_disk_full(error):
        return RunError(f"cannot {what} {where}: {_brief(error)}: mend that and run again{rest}")
    home = next(parent for parent in where.absolute().parents if parent.exists())
    need = f"about {size_text(needed)} needed, " if needed else ""
    free = size_text(shutil.disk_usage(home).free)
    return RunError(f"cannot {what} {where}: the disk is full ({need}{free} free): free some space and run again{rest}")


def is_disk_full(error: BaseException) -> bool:
    """True for ENOSPC and EDQUOT, also where a library has turned them into words (safetensors does)."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return f"os error {errno.ENOSPC})" in str(error) or os.strerror(errno.ENOSPC).lower() in str(error).lower()


def size_text(size: int) -> str:
    """A number of bytes for people.

    >>> size_text(3_250_000)
    '3.2 MB'
    """
    value, units = float(size), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _make(path: Path) -> None:
    try:
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file, not a folder: give another run folder")
        parent = path.absolute().parent
        if not parent.is_dir():
            raise DataError(f"{parent}, the place for the run {path.name}, is no folder: make it, or give another one")
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> TruegainError:
    if is_disk_full(error):
        return failed("make", path, error)
    return DataError(f"the run folder {path} cannot be used ({_brief(error)}): mend its rights or give another one")


def _take_lock(path: Path) -> int:
    """An open descriptor that holds the folder. The pid in the file only serves the message."""
    try:
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).strip()
        os.close(lock)
        who = f"process {int(holder)}" if holder.isdigit() else "another process"
        raise RunError(f"{path} is in use by {who}: wait for it, stop it, or give another folder") from None
    except OSError as error:
        os.close(lock)
        raise _unusable(path, error) from error
    _held.add(lock)
    return lock


def _append(path: Path, data: bytes) -> None:
    """One appending write; what a full disk cut short is taken back, so that no half line stays."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(file).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        return file.read(1) in (b"", b"\n")


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Raw and parsed lines. A bad last line is one torn by a kill and is left out; any other bad line is an error."""
    torn: int | None = None
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if torn is not None:
                raise DataError(f"{path} line {torn} is not a JSON object: mend or delete that line")
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                line = None
            if isinstance(line, dict):
                yield raw.rstrip(b"\n") + b"\n", line
            else:
                torn = number


def _keep_lines(path: Path, step: int | None) -> None:
    """Rewrite a file without its torn last line and, if ``step`` is given, without lines of later steps."""
    temp = path.with_name(f".{path.name}.tmp")
    try:
        with temp.open("wb") as file:
            for raw, line in _lines(path):
                if step is None or _step_of(path, line) <= step:
                    file.write(raw)
        if temp.stat().st_size != path.stat().st_size:
            fsync(temp)
            temp.replace(path)
            fsync(path.parent)
    except OSError as error:
        raise failed("rewrite", path, error, needed=path.stat().st_size) from error
    finally:
        temp.unlink(missing_ok=True)


def _step_of(path: Path, line: Mapping[str, Any]) -> int:
    step = line.get("step")
    if not isinstance(step, int):
        raise DataError(f"{path} has a line without an integer 'step': mend or delete that line")
    return step


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix[:-1]: values} if prefix else {}
    return {key: item for name, value in values.items() for key, item in _flat(value, f"{prefix}{name}.").items()}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    absent = object()

    def shown(value: Any) -> str:
        text = "absent" if value is absent else json.dumps(value)
        return text if len(text) <= 60 else text[:57] + "..."

    pairs = {key: (old.get(key, absent), new.get(key, absent)) for key in sorted({*old, *new})}
    return {
        key: f"{key}: {shown(was)} -> {shown(now)}"
        for key, (was, now) in pairs.items()
        if was is absent or now is absent or json.dumps(was) != json.dumps(now)
    }


def _brief(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
