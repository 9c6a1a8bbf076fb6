"""Hold the adapter against a verifiers wheel: ``against.py newest|VERSION PINNED``. The last line says what changed.

The wheel goes into an environment of its own, which sees all else in .venv-verifiers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def environment(wanted: str) -> Path:
    """The python of an environment with this verifiers."""
    folder = ROOT / f".venv-verifiers-{wanted}"
    venv.create(folder, with_pip=False, clear=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (under,) = (ROOT / ".venv-verifiers").glob("lib/python3*/site-packages")
    (packages / "under.pth").write_text(f"import site; site.addsitedir({str(under)!r})\n")
    name = "verifiers" if wanted == "newest" else f"verifiers=={wanted}"
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--upgrade"]
    subprocess.run([*pip, name], check=True)
    return python


def main(wanted: str, pinned: str) -> int:
    """Compare, run the tests, say it in a line; 0 where the tests pass."""
    python = environment(wanted)
    ask = [str(python), "-c", "from importlib.metadata import version; print(version('verifiers'))"]
    version = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    told = subprocess.run([str(python), str(HERE / "contract.py")], check=True, capture_output=True, text=True).stdout
    found = json.loads(told)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRUEGAIN_CONTRACT": "other" if version != pinned else "pinned"}
    tests = subprocess.run([str(python), "-m", "pytest", "-q", str(HERE)], cwd=ROOT, env=env, check=False)
    changed = f"{len(found)} changed: {'; '.join(found)}" if found else "nothing that we lean on changed"
    same = " (the pinned one)" if version == pinned else f", pinned is {pinned}"
    print(f"verifiers {version}{same}: {changed}; the tests {'pass' if tests.returncode == 0 else 'FAIL'}")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
