"""`make contract-verl VERL=newest`: the contract tests against another version, and one line of what changed.

The other version is put into a folder of its own, without its dependencies, before the one of the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def python(*arguments: str, path: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run this environment's Python, with a folder before its packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path and str(path), str(HERE))))}
    return subprocess.run([sys.executable, *arguments], text=True, env=environment, cwd=ROOT, **more)


def surface(path: Path | None) -> dict[str, Any] | str:
    """What of verl we stand on, or the last line of why it cannot be read."""
    done = python(str(HERE / "surface.py"), path=path, capture_output=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no word"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is no longer there and what is new, item by item."""
    found: list[str] = []
    for name in sorted({*before, *after}):
        gone = [one for one in before.get(name, []) if one not in after.get(name, [])]
        new = [one for one in after.get(name, []) if one not in before.get(name, [])]
        if gone or new:
            found.append(f"{name}:" + "".join(f" -{one}" for one in gone) + "".join(f" +{one}" for one in new))
    return found


def main(wanted: str) -> int:
    """Install, compare, test; the last line says what changed."""
    pinned = version("verl")
    folder = ROOT / ".venv-verl" / "other"
    what = "verl" if wanted == "newest" else f"verl=={wanted}"
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--upgrade")
    if python(*pip, "--target", str(folder), what).returncode:
        return 1
    other = next(folder.glob("verl-*.dist-info")).name.removeprefix("verl-").removesuffix(".dist-info")
    before, after = surface(None), surface(folder)
    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE), path=folder)
    if isinstance(before, str) or isinstance(after, str):
        print(f"verl {pinned} -> {other}: {'cannot be read: ' + str(after if isinstance(after, str) else before)}")
        return 1
    said = "; ".join(changes(before, after)) or "nothing that the adapter stands on changed"
    print(f"verl {pinned} -> {other}: {said}; the tests {'fail' if tested.returncode else 'pass'}")
    return tested.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "newest"))
