"""The files around the code agree with each other: versions, pins, licence, the make targets that the docs name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import truegain

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def pins() -> dict[str, str]:
    """Name and version of each line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def test_every_declared_dependency_is_pinned_exactly() -> None:
    extras = PROJECT["optional-dependencies"]
    assert extras.keys() >= {"data", "gym", "math", "dev"}
    declared = PROJECT["dependencies"] + [line for lines in extras.values() for line in lines]
    assert not {normal(line) for line in declared} - pins().keys()
    assert pins()["torch"] == "2.13.0"


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["version"] == truegain.__version__
    assert f"## [{truegain.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_apache_two() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run our Makefile in a folder, without the settings of a make that runs these tests."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_torch_is_named_in_the_command_that_installs_the_package() -> None:
    dry = make("--dry-run", "--always-make", "venv", "TORCH_INDEX=https://example.org/cpu").stdout
    (command,) = [line for line in dry.splitlines() if "pip install" in line]
    assert f" torch=={pins()['torch']} -e ." in command
    assert " --extra-index-url https://example.org/cpu " in command
    assert " -c constraints.txt " in command


def test_an_old_python_is_refused_in_one_line_that_names_the_mend(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\nexec python3 -c "import sys; sys.version_info = (3, 9); $2"\n')
    old.chmod(0o755)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, bare)
    done = make("venv", f"PYTHON={old}", folder=bare)
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert "needs Python 3.11 or newer" in first
    assert "is 3.9" in first
    assert "make PYTHON=" in first


def test_every_make_target_that_the_pages_name_exists() -> None:
    listed = set(re.findall(r"^  make ([a-z-]+)", make("help").stdout, re.MULTILINE))
    assert listed >= {"venv", "demo", "test", "test-slow", "bench", "claims", "lint", "index"}
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8")))
        assert named <= listed, f"{page} names {sorted(named - listed)}"
