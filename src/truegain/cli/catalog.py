"""``truegain list`` and ``truegain show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from truegain.cli.out import console, print_json
from truegain.core.errors import SettingError, nearest

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_(
    room: Annotated[str | None, typer.Option(metavar="ROOM", help="Only this room of the catalog.")] = None,
    form: Annotated[str | None, typer.Option(metavar="FORM", help="Only recipes of this form, such as Train.")] = None,
    components: Annotated[bool, typer.Option("--components", help="List the components instead of recipes.")] = False,
    json: Json = False,
) -> None:
    """List the recipes: one per published system."""
    from truegain.cli.index import load_index

    rows: list[dict[str, Any]] = load_index()["components" if components else "systems"]
    if components:
        rows = [{**row, "room": row["name"].partition(".")[0], "form": row["kind"]} for row in rows]
    rows = _only(_only(rows, "room", room), "form", form)
    if json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = ("name", "kind", "summary") if components else ("name", "paper", "room", "form", "summary")
    for key in keys:
        table.add_column(key, no_wrap=key != "summary", style="cyan" if key == "name" else "")
    for row in rows:
        table.add_row(*(str(row[key]) for key in keys))
    console().print(table)


def _only(rows: list[dict[str, Any]], key: str, wanted: str | None) -> list[dict[str, Any]]:
    if wanted is None:
        return rows
    legal = {part.strip() for row in rows for part in str(row[key]).split(",")}
    found = [row for row in rows if wanted.lower() in (part.strip().lower() for part in str(row[key]).split(","))]
    if not found:
        raise SettingError(f"no {key} {wanted!r}{nearest(wanted, legal)}; there are {', '.join(sorted(legal))}")
    return found


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe, a component or a task.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Show the recipe with this changed. Repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Show all of a recipe, a component or a task.

    Of a recipe: stages, formulas, knobs, columns, settings, and where it departs from the paper.
    """
    from truegain.cli.describe import describe
    from truegain.cli.variant import assignments

    found = describe(name, assignments(sets))
    if json:
        print_json(found)
        return
    {"recipe": _recipe, "component": _component, "task": _task}[found["what"]](console(), found)


def _recipe(to: Console, found: dict[str, Any]) -> None:
    _title(to, found["name"], found["summary"])
    _facts(to, {"paper": f"{found['paper']}  {found['cite']}", "room": found["room"]})
    _facts(to, {"differs": found["differs"]} if found["differs"] else {})
    rest = found["doc"].partition("\n")[2].strip()
    if rest:
        to.print(f"\n{rest}")
    if found["knobs"]:
        _head(to, "Knobs of the recipe")
        _facts(to, found["knobs"])
    for form in found["forms"]:
        _form(to, form)
    _head(to, "Run it")
    to.print(f"  {found['command']}", soft_wrap=True)


def _form(to: Console, form: dict[str, Any]) -> None:
    _head(to, f"Form {form['form']}")
    for stage in form["stages"]:
        to.print(
            f"{stage['stage']:10} ",
            f"{stage['component']}({', '.join([*stage['inputs'], *stage['facts']])})",
            sep="",
            style="cyan",
        )
        _doc(to, stage["doc"])
        _facts(to, stage["knobs"], indent=6)
    for role, facts in form["roles"].items():
        to.print(f"role {role}: {facts['source']} fills {facts['fills']}{'' if facts['lr'] else ', frozen'}")
    _head(to, "Columns that flow")
    for c in form["columns"]:
        shape = f"[{c['shape']}]"
        to.print(f"  {c['name']:13}{shape:7}from {c['from']}; {c['means']}")
    _head(to, "Loop (--set NAME=VALUE)")
    for field, facts in form["loop"].items():
        to.print(f"  {field:14} {facts['value']!s:10} {facts['means']}")


def _component(to: Console, found: dict[str, Any]) -> None:
    _title(to, found["name"], f"a {found['kind']}: {found['takes_gives']}")
    _doc(to, found["doc"], indent=0)
    _facts(to, {"source": ", ".join(found["cite"])})
    if found["columns"]:
        _head(to, "Columns it reads")
        for line in found["columns"]:
            to.print(f"  {line}")
    if found["knobs"]:
        _head(to, "Knobs")
        _facts(to, found["knobs"])


def _task(to: Console, found: dict[str, Any]) -> None:
    _title(to, found["name"], found["doc"].partition("\n")[0])
    low, high = found["levels"]
    _facts(
        to,
        {
            "level": f"{found['level']} (from {low} to {high})",
            "style": f"{found['style']} (of {', '.join(found['styles'])})",
        },
    )
    _facts(to, {"max_tokens": found["max_tokens"], "tool": "yes" if found["tool"] else "no"})
    for problem in found["problems"]:
        _head(to, problem["id"])
        to.print(f"{str(problem['prompt']).rstrip()}\n{problem['demonstration']}")


def _title(to: Console, name: str, summary: str) -> None:
    from rich.text import Text

    to.print(Text.assemble((name, "bold cyan"), "  ", summary))


def _head(to: Console, text: str) -> None:
    to.print(f"\n{text}", style="bold")


def _facts(to: Console, facts: dict[str, Any], indent: int = 2) -> None:
    from rich.padding import Padding

    wide = max((len(key) for key in facts), default=0)
    for key, value in facts.items():
        to.print(Padding(f"{key:{wide}}  {value}", (0, 0, 0, indent), expand=False))


def _doc(to: Console, doc: str, indent: int = 4) -> None:
    from rich.padding import Padding

    to.print(Padding(doc, (0, 0, 0, indent), expand=False), style="dim")
