"""Imports run one way. The map below is section 1 of docs/design.md; a new room must be written into both."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "truegain"

# room -> the rooms it may import, besides itself and the bare package (which is light). `methods` means every methods
# room; a room under `methods.` is named when only that one is allowed.
BELOW_TRAIN = {"core", "runtime", "tasks", "policy", "rollout", "methods.evaluation"}
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "runtime": {"core"},
    "tasks": {"core", "runtime"},
    "policy": {"core"},
    "rollout": {"core", "runtime", "tasks", "policy"},
    "train": BELOW_TRAIN | {"methods.guard"},
    "recipes": {"core", "methods"},
    "lab": BELOW_TRAIN | {"train", "recipes", "methods"},
    "claims": BELOW_TRAIN | {"train", "recipes", "methods", "lab"},
    "audit": BELOW_TRAIN | {"train"},
    "report": {"core", "methods.evaluation"},
    "hosts": {"core", "runtime", "tasks", "policy", "rollout", "recipes", "methods.guard", "methods.evaluation"},
    "cli": BELOW_TRAIN | {"train", "recipes", "claims", "lab", "audit", "report", "hosts", "methods"},
    "methods.*": {"core"},
}

# What a methods room may import from outside: tensors, arrays, shapes in signatures.
METHODS_EXTERNAL = {"torch", "numpy", "jaxtyping"}

# Imported inside functions of one file only: the extras, and the clients that a user brings along.
OPTIONAL = {"datasets", "gguf", "math_verify", "peft", "pyarrow", "reasoning_gym"}
BROUGHT_ALONG = {"vllm", "ray", "trl", "verl", "verifiers", "wandb", "tensorboard", "trackio"}


def modules() -> list[str]:
    """Dotted names of all modules of the package, by their files."""
    found: list[str] = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("truegain", *path.relative_to(SOURCE).with_suffix("").parts)
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def path_of(module: str) -> Path:
    """The file of a module."""
    base = SOURCE.joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def imports(module: str, *, top_level: bool = False) -> Iterator[str]:
    """Dotted names that a module imports anywhere in its file, or only where import runs them at once."""
    path = path_of(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), top_level):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            base = ".".join(filter(None, (above, node.module))) if node.level else node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import_module(node.func):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _nodes(tree: ast.AST, top_level: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from _nodes(node, top_level)


def _is_import_module(func: ast.expr) -> bool:
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    return name in {"import_module", "__import__"}


def room_of(module: str) -> str:
    """The room of a dotted name: ``core``, ``methods.credit``, or an empty string for the package itself."""
    parts = module.split(".")[1:]
    if not parts or not SOURCE.joinpath(parts[0]).is_dir():
        return ""
    if parts[0] == "methods":
        return ".".join(parts[:2]) if len(parts) > 1 else "methods"
    return parts[0]


def allowed_of(room: str) -> set[str]:
    """What a room may import."""
    return ALLOWED["methods.*" if room.startswith("methods.") else room] | {room, ""}


def wrong_arrows(module: str) -> list[str]:
    """Imports of our own rooms that the map does not allow."""
    allowed = allowed_of(room_of(module))
    wrong = []
    for name in imports(module):
        if name.partition(".")[0] != "truegain":
            continue
        target = room_of(name)
        if target not in allowed and target.partition(".")[0] not in allowed:
            wrong.append(f"{module} imports {name}; {room_of(module)} may import {sorted(allowed - {''})}")
    return wrong


def test_every_room_stands_in_the_map() -> None:
    rooms = {room_of(module) for module in modules()}
    unknown = {room for room in rooms if room not in ALLOWED and not room.startswith("methods")}
    assert unknown <= {""}, f"write these rooms into the map and into docs/design.md: {sorted(unknown)}"
    assert {"core", "methods.credit", "cli"} <= rooms


def test_the_map_has_no_cycle() -> None:
    order: list[str] = []
    rest = {room: {target.partition(".")[0] for target in targets} for room, targets in ALLOWED.items()}
    rest["methods"] = rest.pop("methods.*")
    while rest:
        free = sorted(room for room, targets in rest.items() if not (targets - {room}) & rest.keys())
        assert free, f"these rooms import each other in a ring: {sorted(rest)}"
        order += free
        for room in free:
            del rest[room]
    assert order[0] == "core"
    assert order[-1] == "cli"


@pytest.mark.parametrize("room", sorted({room_of(module) for module in modules()} - {"", "methods"}))
def test_imports_run_one_way(room: str) -> None:
    wrong = [line for module in modules() if room_of(module) == room for line in wrong_arrows(module)]
    assert not wrong, "\n".join(wrong)


def test_the_bare_package_and_the_methods_folder_import_no_room() -> None:
    for module in modules():
        if room_of(module) in {"", "methods"} and not module.endswith("__main__"):
            own = [name for name in imports(module) if name.startswith("truegain.")]
            assert not own, f"{module} imports {own}"


def test_methods_import_nothing_from_outside_but_tensors_and_arrays() -> None:
    known = METHODS_EXTERNAL | set(sys.stdlib_module_names) | {"truegain"}
    wrong = [
        f"{module} imports {name}"
        for module in modules()
        if room_of(module).startswith("methods")
        for name in imports(module)
        if name.partition(".")[0] not in known
    ]
    assert not wrong, "\n".join(wrong)


def declared() -> set[str]:
    """Import names of the packages that pyproject.toml always installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.split(r"[<>=!~\[; ]", line)[0].replace("-", "_") for line in project["dependencies"]}


def test_every_outside_import_is_declared_or_optional() -> None:
    known = declared() | OPTIONAL | BROUGHT_ALONG | set(sys.stdlib_module_names) | {"truegain"}
    wrong = [f"{m} imports {name}" for m in modules() for name in imports(m) if name.partition(".")[0] not in known]
    assert not wrong, "declare these in pyproject.toml:\n" + "\n".join(wrong)


def test_optional_packages_are_imported_inside_the_functions_of_one_file() -> None:
    users: dict[str, list[str]] = {}
    for module in modules():
        optional = {name.partition(".")[0] for name in imports(module)} & (OPTIONAL | BROUGHT_ALONG)
        early = {name.partition(".")[0] for name in imports(module, top_level=True)} & optional
        assert not early or room_of(module) == "hosts", f"{module} imports {sorted(early)} when it is imported"
        for package in optional:
            users.setdefault(package, []).append(module)
    shared = {package: found for package, found in users.items() if len(found) > 1}
    assert not shared, f"one file per optional package: {shared}"


def loaded_by(module: str) -> set[str]:
    """Top-level packages that importing a module loads into a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_truegain_loads_nothing_but_the_standard_library() -> None:
    loaded = loaded_by("truegain")
    assert "truegain" in loaded
    assert loaded - {"truegain"} <= sys.stdlib_module_names


def test_the_command_line_starts_without_torch() -> None:
    loaded = loaded_by("truegain.cli.app")
    assert "typer" in loaded
    assert not loaded & {"torch", "transformers", "numpy"}


def test_the_reader_of_imports_sees_relative_late_and_dynamic_ones(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("from . import a\nfrom .b import c\n")
    late = "import os\ndef f():\n    from ..train import online\n    import_module('datasets.x')\n"
    (tmp_path / "core" / "late.py").write_text(late)
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    assert modules() == ["truegain.core", "truegain.core.late"]
    assert list(imports("truegain.core")) == ["truegain.core.a", "truegain.core.b.c"]
    assert list(imports("truegain.core.late")) == ["os", "truegain.train.online", "datasets.x"]
    assert list(imports("truegain.core.late", top_level=True)) == ["os"]
    (tmp_path / "train").mkdir()
    assert wrong_arrows("truegain.core.late") == [
        "truegain.core.late imports truegain.train.online; core may import ['core']"
    ]
