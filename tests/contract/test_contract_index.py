"""The generated index and pages are what the registry says, and are read without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from truegain.cli import index as under_test
from truegain.cli.index import build_index, jsonable, load_index, pages
from truegain.core.columns import COLUMNS, FACTS
from truegain.core.component import REGISTRY
from truegain.core.errors import DataError
from truegain.core.system import SYSTEMS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return build_index()


@pytest.mark.parametrize("name", ["src/truegain/index.json", "docs/columns.md", "docs/systems.md"])
def test_the_committed_file_is_fresh(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == pages()[name], f"{name} is stale; run `make index`"


def test_the_index_holds_every_system_and_component(built: dict[str, Any]) -> None:
    ours = {name for name, found in SYSTEMS.items() if found.recipe.__module__.startswith("truegain.")}
    assert {s["name"] for s in built["systems"]} == ours
    specs = {name for name, spec in REGISTRY.items() if spec.function.__module__.startswith("truegain.")}
    assert {c["name"] for c in built["components"]} == specs
    keys = {"name", "paper", "room", "form", "knobs", "cite", "summary", "differs"}
    assert all(set(system) == keys for system in built["systems"])
    (grpo,) = [system for system in built["systems"] if system["name"] == "grpo"]
    assert (grpo["paper"], grpo["room"], grpo["form"]) == ("arXiv:2402.03300", "objective", "Train")
    (clip,) = [c for c in built["components"] if c["name"] == "objective.ppo_clip"]
    assert (clip["kind"], clip["inputs"]) == ("surrogate", ["logp", "old_logp", "advantage"])
    assert clip["knobs"] == {"clip_low": 0.2, "clip_high": 0.2, "dual": None, "delta": None, "log_ratio_bound": 20.0}


def test_reading_the_index_gives_what_was_written_and_loads_no_torch() -> None:
    code = "import sys, json; from truegain.cli.index import load_index as f; print(json.dumps([f(), [*sys.modules]]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    index, loaded = json.loads(done.stdout)
    assert index == load_index() == json.loads(pages()["src/truegain/index.json"])
    assert "truegain.cli.index" in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize("text", [None, "{", "\xff"])
def test_a_missing_or_damaged_index_is_named_with_the_mend(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    monkeypatch.setattr(under_test, "_INDEX", path)
    with pytest.raises(DataError, match="make index") as caught:
        load_index()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_knobs_of_every_kind_become_json() -> None:
    (first, *_) = REGISTRY.values()
    held = {"a": (1, 2.5, None, True), "b": float("nan"), "c": first.function, "d": len, "e": {"f": -float("inf")}}
    found = jsonable(held)
    assert found == {"a": [1, 2.5, None, True], "b": "nan", "c": first.full_name, "d": "len", "e": {"f": "-inf"}}
    json.dumps(found, allow_nan=False)


def test_the_pages_list_every_column_fact_and_system_in_well_formed_tables() -> None:
    columns, systems = pages()["docs/columns.md"], pages()["docs/systems.md"]
    assert all(f"| `{name}` |" in columns for name in (*COLUMNS, *FACTS))
    assert "| `grpo` |" in systems
    for text in (columns, systems):
        width = 0
        for line in text.splitlines():
            bars = line.replace("\\|", "").count("|")
            assert bars in (0, width) or width == 0, line
            width = bars


def test_the_command_writes_the_files_of_a_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "src" / "truegain" / "cli" / "index.py"
    monkeypatch.setattr(under_test, "__file__", str(fake))
    with pytest.raises(DataError, match="no checkout"):
        under_test.main()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "docs").mkdir()
    fake.parent.mkdir(parents=True)
    marks = "\n".join(under_test._TABLE)
    (tmp_path / "README.md").write_text(f"before\n{marks}\nafter\n", encoding="utf-8")
    under_test.main()
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and sum("`grpo`" in line for line in lines) == 1
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in pages()} == pages()
