"""The index of systems and components: generated into ``index.json``, read back without importing torch.

``python -m truegain.cli.index`` writes ``src/truegain/index.json``, ``docs/columns.md``, ``docs/systems.md`` and the
table of systems in ``README.md``; a test holds the committed files to what it would write.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from truegain.core.errors import DataError

_INDEX = Path(__file__).parents[1] / "index.json"
_TABLE = ("<!-- systems: written by `make index` -->", "<!-- end of systems -->")
_NOTE = "<!-- Written by `python -m truegain.cli.index`; edit the source it names, not this file. -->"


def load_index() -> dict[str, Any]:
    """Read the index that ships with the package: ``{"systems": [...], "components": [...]}``.

    Raises DataError when the file is missing or damaged.
    """
    try:
        return json.loads(_INDEX.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise DataError(f"the index {_INDEX} cannot be read ({why}); write it with `make index`") from None


def build_index() -> dict[str, Any]:
    """Import every room and recipe and list what they registered, sorted by name."""
    from truegain.core.component import REGISTRY
    from truegain.core.system import SYSTEMS

    import_rooms()
    ours = [s for s in SYSTEMS.values() if s.recipe.__module__.startswith("truegain.")]
    specs = [s for s in REGISTRY.values() if s.function.__module__.startswith("truegain.")]
    components = [
        {
            "name": spec.full_name,
            "kind": spec.kind,
            "inputs": list(spec.inputs),
            "facts": list(spec.facts),
            "knobs": jsonable(dict(spec.knobs)),
            "cite": list(spec.cite),
            "summary": spec.summary,
        }
        for spec in sorted(specs, key=lambda spec: spec.full_name)
    ]
    return {"systems": [_system(s) for s in sorted(ours, key=lambda s: (s.slot, s.name))], "components": components}


def import_rooms() -> None:
    """Import every methods room and recipe, so that all components and systems are registered."""
    import truegain.methods
    import truegain.recipes
    import truegain.rollout.segment

    for package in (truegain.methods, truegain.recipes):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)


def _system(found: Any) -> dict[str, Any]:
    from truegain.core.system import build

    return {
        "name": found.name,
        "paper": found.paper,
        "room": found.slot,
        "form": ", ".join(type(form).__name__ for form in build(found.name)),
        "knobs": jsonable(found.knobs),
        "cite": found.cite,
        "summary": found.summary,
        "differs": found.differs,
    }


def jsonable(value: Any) -> Any:
    """A knob as JSON can hold it: a component by its registered name, another function by its dotted one, inf as text.

    >>> jsonable({"clip": (0.2, float("inf")), "canonical": str.strip})
    {'clip': [0.2, 'inf'], 'canonical': 'str.strip'}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): jsonable(one) for name, one in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, tuple | list):
        return [jsonable(one) for one in cast("list[Any]", value)]
    if callable(value):
        from truegain.core.component import REGISTRY

        names = [name for name, spec in REGISTRY.items() if spec.function is value]
        return names[0] if names else getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)


def columns_page() -> str:
    """The text of ``docs/columns.md``: every column and loop fact."""
    from truegain.core.columns import COLUMNS, FACTS, GRADIENT

    head = """# Columns

What may stand in a `Batch`, and what the parameters of a component may be called. B rollouts, T completion tokens,
S steps, U turns, M models, K named rewards. Column t speaks of token t given the tokens before it.
"""
    rows = [
        (f"`{c.name}`", f"[{c.shape}]", c.kind + (" †" if c.name in GRADIENT else ""), c.meaning, c.provider)
        for c in COLUMNS.values()
    ]
    facts = [(f"`{name}`", meaning) for name, meaning in FACTS.items()]
    return "\n".join(
        [
            _NOTE,
            head,
            *_table(("column", "shape", "kind", "meaning", "from"), rows),
            "",
            "† comes with the current forward pass and carries gradient; only surrogates may name it.",
            "",
            "## Loop facts",
            "",
            "Keyword-only parameters with these names are filled by the loop, not by the user.",
            "",
            *_table(("fact", "meaning"), facts),
            "",
        ]
    )


def systems_page(index: Mapping[str, Any]) -> str:
    """The text of ``docs/systems.md``: every system, and every component by room."""
    systems = [
        (f"`{s['name']}`", s["room"], s["form"], s["cite"], s["summary"], s["differs"]) for s in index["systems"]
    ]
    lines = [_NOTE, "# Systems", "", "`truegain show NAME` prints each in full.", ""]
    lines += _table(("name", "room", "form", "paper", "what it does", "where it departs from the paper"), systems)
    lines += ["", "# Components", "", "Plain functions on tensors or arrays; the names in brackets are columns."]
    rooms: dict[str, list[tuple[str, ...]]] = {}
    for one in index["components"]:
        room, _, name = one["name"].partition(".")
        inputs = ", ".join(one["inputs"] + one["facts"])
        rooms.setdefault(room, []).append((f"`{name}({inputs})`", one["kind"], one["summary"], ", ".join(one["cite"])))
    for room, rows in sorted(rooms.items()):
        lines += ["", f"## {room}", "", *_table(("component", "kind", "what it gives", "source"), rows)]
    return "\n".join([*lines, ""])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (list(head), ["---"] * len(head), *cells)]


def _root() -> Path:
    return Path(__file__).parents[3]


def readme(index: Mapping[str, Any]) -> str:
    """``README.md`` with its table of systems written anew. Raises DataError when the marks around it are missing."""
    text = (_root() / "README.md").read_text(encoding="utf-8")
    before, opened, rest = text.partition(_TABLE[0])
    _, closed, after = rest.partition(_TABLE[1])
    if not opened or not closed:
        raise DataError(f"README.md lacks the marks {_TABLE[0]} and {_TABLE[1]} around its table of systems")
    rows = [(f"`{s['name']}`", s["room"], s["form"], s["paper"], s["summary"]) for s in index["systems"]]
    table = "\n".join(_table(("name", "room", "form", "paper", "what it does"), rows))
    return f"{before}{opened}\n{table}\n{closed}{after}"


def pages() -> dict[str, str]:
    """What the command writes: path inside the checkout -> text."""
    index = build_index()
    return {
        "src/truegain/index.json": json.dumps(index, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "docs/columns.md": columns_page(),
        "docs/systems.md": systems_page(index),
        "README.md": readme(index),
    }


def main() -> None:
    """Write the generated files of a checkout. Raises DataError outside of one."""
    root = _root()
    if not (root / "pyproject.toml").is_file():
        raise DataError(f"{root} is no checkout of truegain; the index is generated in one")
    for name, text in pages().items():
        (root / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
