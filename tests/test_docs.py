"""Python in the documentation is run: blocks in order, each as the file that its first line names."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from truegain.core import component, system

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def module_name(block: str, page: Path) -> str:
    """The module that the block's first line names (``# src/truegain/...py``), or one named after the page."""
    first = block.partition("\n")[0]
    if not first.startswith("# src/"):
        return f"docs_{page.stem}"
    return first.removeprefix("# src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.fixture
def registries() -> Iterator[None]:
    """What a page adds to the rooms and registries is taken away again; modules that it only imports stay.

    Those have a spec. Were one imported a second time, its classes would not be those that others already hold.
    """
    importlib.import_module("truegain.recipes")
    rooms = {name: dict(vars(module)) for name, module in sys.modules.items() if name.startswith("truegain")}
    stores: Any = (component.REGISTRY, system.SYSTEMS)
    kept = [dict(store) for store in stores]
    yield
    for name, module in list(sys.modules.items()):
        if name.startswith("truegain") and name not in rooms and module.__spec__ is None:
            del sys.modules[name]
    for name, names in rooms.items():
        for extra in vars(sys.modules[name]).keys() - names.keys():
            if f"{name}.{extra}" not in sys.modules:
                delattr(sys.modules[name], extra)
    for store, before in zip(stores, kept, strict=True):
        store.clear()
        store.update(before)


def run_block(block: str, page: Path, scope: dict[str, Any]) -> dict[str, Any]:
    """Run a block in the module that it names, which is made if there is none, or in the page's own scope."""
    name = module_name(block, page)
    if name.startswith("truegain"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            module = sys.modules[name] = ModuleType(name)
        scope = vars(module)
    exec(compile(block, f"{page.name}: {name}", "exec", dont_inherit=True), scope)
    return scope


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_code_on_the_page_runs_and_its_tests_pass(page: Path, registries: None) -> None:
    importlib.import_module("truegain.recipes")
    scope: dict[str, Any] = {"__name__": f"docs_{page.stem}"}
    runner = doctest.DocTestRunner()
    for block in blocks(page):
        names = run_block(block, page, scope)
        for name in (node.name for node in ast.parse(block).body if isinstance(node, ast.FunctionDef)):
            for test in doctest.DocTestFinder().find(names[name], name, module=False, globs=names):  # type: ignore[arg-type]
                runner.run(test)
    assert runner.failures == 0
    assert runner.tries == sum(block.count(">>> ") for block in blocks(page)), "an example was not found"
    for name in [name for name in scope if name.startswith("test_")]:
        scope[name]()


def test_the_contributing_page_still_shows_a_component_a_recipe_and_their_tests() -> None:
    found = "".join(blocks(ROOT / "CONTRIBUTING.md"))
    assert "@component(" in found
    assert "@system(" in found
    assert found.count("def test_") >= 2
    assert found.count(">>> ") >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_of_the_project_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, f"{page.name} links to {missing}"
