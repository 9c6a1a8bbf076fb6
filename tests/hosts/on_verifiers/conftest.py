"""These tests need verifiers: `make test-verifiers` runs them in an environment of their own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


class Elsewhere(pytest.Module):
    """A file of tests that is skipped before it is imported."""

    def collect(self) -> list[pytest.Item]:  # type: ignore[override]
        pytest.skip("verifiers is not installed here: `make test-verifiers`", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if find_spec("verifiers") is not None and find_spec("verifiers.v1") is not None:
        return None
    return Elsewhere.from_parent(parent, path=module_path)
