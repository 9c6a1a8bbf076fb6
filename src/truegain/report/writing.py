"""Write report.json and report.html so that a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truegain.core.errors import RunError
from truegain.report.build import build
from truegain.report.page import render_page


def write(run: Path, data: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.json`` and ``report.html`` into a run folder and return the page's path.

    ``data`` is what `build` gave for the folder; it is built when None. Raises DataError when the folder holds no run,
    RunError when it cannot be written.
    """
    data, folder = build(run) if data is None else data, Path(run)
    replace_file(folder / "report.json", json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return replace_file(folder / "report.html", render_page(data))


def replace_file(path: Path, text: str) -> Path:
    """Write a file by renaming a finished one over it. Raises RunError, and leaves the old file, when that fails."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(text.encode("utf-8", errors="replace"))
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise RunError(f"cannot write {str(path)!r}: {error.strerror}; free space or choose another folder") from error
    return path
