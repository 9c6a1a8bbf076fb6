"""These tests need verl: `make test-verl` runs them in an environment of its own; elsewhere they are skipped."""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = find_spec("verl") is not None

if HERE:
    # The plugin keeps how it loaded; the user's own record is none of the tests' business.
    os.environ["TRUEGAIN_STATE"] = tempfile.mkdtemp(prefix="truegain-verl-")
    os.environ.pop("TRUEGAIN_VERL_CONFIG", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what verl and ray say of their own imports
        import verl.trainer.ppo.ray_trainer
        import verl.trainer.ppo.v1.trainer_base
        import verl.workers.utils.losses  # noqa: F401


class Elsewhere(pytest.Module):
    """A file of tests that is skipped before it is imported."""

    def collect(self) -> list[pytest.Item]:  # type: ignore[override]
        pytest.skip("verl is not installed here: `make test-verl`", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return None if HERE else Elsewhere.from_parent(parent, path=module_path)
