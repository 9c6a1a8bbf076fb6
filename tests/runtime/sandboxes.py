"""Sandboxes to test: each backend, as the user who runs the tests and, for root, as another user as well."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from truegain.core.types import Abstain
from truegain.runtime import Check, Limits, Program, Ran, Sandbox, Verdict

LIMITS = Limits(seconds=20.0, cpu=1, memory_mb=256, processes=12, output_kb=64, scratch_mb=4, file_mb=2)
NOBODY = 65534
HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
WAYS = [(backend, user) for backend in ("bubblewrap", "landlock") for user in ("own user", "nobody")]


class Driven:
    """A sandbox in a process of another user, see `sandbox_driver.py`."""

    def __init__(self, backend: str, python: str) -> None:
        self.process = subprocess.Popen(
            [python, "-P", "-S", "-B", str(HERE / "sandbox_driver.py"), backend, json.dumps(vars(LIMITS))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(SOURCE), "HOME": "/"},
        )
        said = self._read()
        self.reason = said["reason"] if said else "the driver did not start"
        self.backend = backend

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def _ask(self, order: Mapping[str, Any]) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        kind = {"Ran": Ran, "Abstain": Abstain, "Verdict": Verdict}[answer.pop("kind")]
        return kind(**answer)

    def run(self, source: str, *, stdin: str = "", files: Mapping[str, str] | None = None) -> Ran | Abstain:
        return self._ask({"run": vars(Program(source, stdin, files or {}))})

    def check(self, check: Check) -> Verdict | Abstain:
        return self._ask({"check": vars(check)})

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)


@functools.lru_cache(maxsize=1)
def others_python() -> str | None:
    """An interpreter that another user can run, if there is one of the version that is needed."""
    if os.geteuid() != 0:
        return None
    test = "import sys, truegain.runtime; sys.exit(sys.version_info < (3, 11))"
    for python in (os.path.realpath(sys.executable), "/usr/local/bin/python3", "/usr/bin/python3"):
        if not os.path.exists(python):
            continue
        try:
            tried = subprocess.run(
                [python, "-P", "-S", "-B", "-c", test],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                cwd="/",
                env={"PYTHONPATH": str(SOURCE)},
                capture_output=True,
                timeout=60,
            )
        except OSError:
            continue
        if tried.returncode == 0:
            return python
    return None


def made(backend: str, user: str) -> Iterator[Any]:
    """A sandbox of that backend, run by that user; skips the test, with the reason, where it does not work here."""
    from truegain.runtime.backend import unusable

    if user == "nobody":
        python = others_python()
        if python is None:
            pytest.skip("only root can become another user, who needs a Python that everybody may run")
        driven = Driven(backend, python)
        try:
            if driven.reason:
                pytest.skip(f"{backend} as nobody: {driven.reason}")
            yield driven
        finally:
            driven.close()
        return
    reason = unusable(backend)  # type: ignore[arg-type]
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    with Sandbox(LIMITS, backend=backend) as box:  # type: ignore[arg-type]
        yield box
