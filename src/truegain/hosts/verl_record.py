"""What became of the verl plugin when verl last loaded it. verl swallows a plugin's error; this keeps it.

One JSON file, ``verl.json`` in the folder that ``TRUEGAIN_STATE`` names, else in ``$XDG_CACHE_HOME/truegain`` or
``~/.cache/truegain``: ``loaded`` and ``failed``, each the last load that ended so, with its ``time``, ``process``,
``versions`` and, for a failed one, ``error``. Every process of a run loads the plugin; the last one to write stands.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from truegain.hosts.verl_names import VARIABLE

Outcome = Literal["loaded", "failed"]
_NAMED = ("truegain", "verl", "torch")
_LONGEST = 1 << 16


def place() -> Path:
    """The file."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truegain"
    return Path(os.environ.get("TRUEGAIN_STATE") or cache) / "verl.json"


def config_path() -> str | None:
    """The file of knobs that this process was told of."""
    return os.environ.get(VARIABLE)


def write(outcome: Outcome, error: str = "", **facts: Any) -> None:
    """Keep how a load ended. A disk that cannot be written must not keep verl from starting."""
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "process": os.getpid(), **facts}
    entry["versions"] = {name: _version(name) for name in _NAMED}
    if error:
        entry["error"] = error[:_LONGEST]
    with contextlib.suppress(OSError):
        target = place()
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".verl-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({**read(), outcome: entry}, file)
        os.replace(name, target)


def read() -> dict[str, Mapping[str, Any]]:
    """The last load that was well and the last one that failed; empty without a file, or one that is none of ours."""
    try:
        found = json.loads(place().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, dict) and "time" in value}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
