"""Every module imports, with and without the optional packages, and every example in a docstring holds."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

import truegain

OPTIONAL = (
    "datasets",
    "pyarrow",
    "pandas",
    "reasoning_gym",
    "math_verify",
    "vllm",
    "ray",
    "trl",
    "verl",
    "verifiers",
    "wandb",
)

MODULES = ["truegain", *sorted(m.name for m in pkgutil.walk_packages(truegain.__path__, "truegain."))]

# Modules that are about one package, which its users have installed.
ABOUT = {"truegain.hosts.trl": "trl", "truegain.hosts.verifiers": "verifiers", "truegain.hosts.verl": "verl"}

# Run in a fresh interpreter, where importing an optional package fails as it does without its extra.
WITHOUT_EXTRAS = """
import importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
failed = []
for name in sys.argv[2].split(","):
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append(f"{name}: {type(error).__name__}: {error}")
if failed:
    sys.exit("\\n".join(failed))
"""


class Finder(doctest.DocTestFinder):
    """Finds the examples of functions that a decorator wrapped, which the standard one passes over in silence."""

    def _from_module(self, module: ModuleType | None, object: Any) -> bool:
        return module is None or getattr(object, "__module__", module.__name__) == module.__name__

    def _find_lineno(self, obj: Any, source_lines: list[str] | None) -> int | None:
        return super()._find_lineno(inspect.unwrap(obj) if callable(obj) else obj, source_lines)  # type: ignore[misc]


@pytest.mark.parametrize("name", MODULES)
def test_the_module_imports_and_its_examples_hold(name: str) -> None:
    if name in ABOUT and importlib.util.find_spec(ABOUT[name]) is None:
        pytest.skip(f"{ABOUT[name]} is not installed here; it is tested in an environment of its own")
    module = importlib.import_module(name)
    private = name.rpartition(".")[2].startswith("_")
    assert private or (module.__doc__ or "").strip(), f"{name} says nowhere what it is for"
    written = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with contextlib.redirect_stdout(written):
        for test in Finder(exclude_empty=True).find(module):
            runner.run(test)
    assert runner.failures == 0, written.getvalue()
    source = importlib.util.find_spec(name).loader.get_source(name)  # type: ignore[union-attr]
    lines = [line.strip() for line in (source or "").splitlines()]
    assert runner.tries == sum(line.startswith(">>> ") for line in lines), "an example was not found by the runner"


def test_every_module_imports_without_the_optional_packages() -> None:
    names = [name for name in MODULES if not name.endswith("__main__")]
    done = without_extras([name for name in names if name not in ABOUT])
    assert done.returncode == 0, done.stderr
    for name, package in ABOUT.items():
        line = without_extras([name]).stderr.strip()
        assert len(line.splitlines()) == 1, line
        assert f"{name}: ImportError:" in line
        assert f"pip install 'truegain[{package}]'" in line


def without_extras(names: list[str]) -> subprocess.CompletedProcess[str]:
    """Import these modules where no optional package is installed."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS, ",".join(OPTIONAL), ",".join(names)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_shapes_in_signatures_are_checked_while_the_tests_run() -> None:
    from truegain.methods.objective import token_mean

    with pytest.raises(TypeCheckError, match="mask"):
        token_mean(torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeCheckError, match="mask"):
        token_mean(torch.ones(3, 2))
