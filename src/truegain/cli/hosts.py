"""``truegain hosts``: which components and recipes run inside TRL, verl and verifiers, and what is missing where."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.out import console, print_json

if TYPE_CHECKING:
    from truegain.hosts.offers import Offer

Name = Annotated[str | None, typer.Argument(metavar="HOST", help="trl, verl or verifiers; all of them if left out.")]
Only = Annotated[str | None, typer.Option("--of", metavar="NAME", help="Only this component or recipe.")]


def hosts(host: Name = None, of: Only = None, json: Json = False) -> None:
    """Show what runs inside which trainer, read off the signatures.

    Without HOST, one line per trainer. With it, every component and recipe: runs, runs if something is set, or what it
    lacks there.
    """
    from truegain.hosts.offers import OFFERS, offer

    chosen = [offer(host)] if host else list(OFFERS.values())
    found = [_host(one) for one in chosen]
    if of is not None:
        found = _named(found, of)
    if json:
        print_json(found)
    elif host or of:
        for one in found:
            _table(one)
    else:
        _overview(found)


def _host(given: Offer) -> dict[str, Any]:
    rows = [*_components(given), *_recipes(given)]
    facts = {"host": given.host, "package": given.package, "tested": given.tested, "installed": given.installed()}
    return {**facts, "kinds": dict(given.kinds), "columns": dict(given.columns), "rows": rows}


def _components(given: Offer) -> list[dict[str, Any]]:
    from truegain.cli.index import import_rooms
    from truegain.core.component import REGISTRY
    from truegain.hosts.offers import conditions, refusal

    import_rooms()
    rows: list[dict[str, Any]] = []
    for spec in sorted(REGISTRY.values(), key=lambda one: one.full_name):
        if not spec.function.__module__.startswith("truegain."):
            continue
        why = refusal(spec, given)
        row = {"name": spec.full_name, "kind": spec.kind, "runs": why is None}
        needs = list(conditions(spec, given)) if why is None else []
        rows.append({**row, "needs": needs, "missing": why and why.missing, "sentence": why and why.sentence})
    return rows


def _recipes(given: Offer) -> list[dict[str, Any]]:
    from truegain.core.errors import WiringError
    from truegain.core.forms import Train
    from truegain.core.system import SYSTEMS, build
    from truegain.hosts.offers import form_of, needs, refusals

    rows: list[dict[str, Any]] = []
    if "surrogate" not in given.kinds:  # it trains nothing, so no recipe is asked of it
        return rows
    for name in sorted(SYSTEMS):
        forms = [form for form in build(name) if isinstance(form, Train)]
        if not forms or not SYSTEMS[name].recipe.__module__.startswith("truegain."):
            continue
        row: dict[str, Any] = {"name": name, "kind": "recipe", "runs": False, "needs": []}
        try:
            form = form_of(name, given.host)
        except WiringError as error:
            rows.append({**row, "missing": "form", "sentence": str(error)})
            continue
        found = refusals(form, given)
        first = found[0] if found else None
        row |= {"runs": not found, "needs": [] if found else list(needs(form, given))}
        rows.append({**row, "missing": first and first.missing, "sentence": first and first.sentence})
    return rows


def _named(found: list[dict[str, Any]], of: str) -> list[dict[str, Any]]:
    """The hosts with the rows of one component or recipe alone. Raises SettingError where none has it."""
    from truegain.core.errors import SettingError, nearest

    kept = [{**one, "rows": [row for row in one["rows"] if of in _names(row)]} for one in found]
    if not any(one["rows"] for one in kept):
        legal = {name for one in found for row in one["rows"] for name in _names(row)}
        raise SettingError(f"no component or online recipe is called {of!r}{nearest(of, legal)}; see `truegain list`")
    return [one for one in kept if one["rows"]]


def _names(row: dict[str, Any]) -> tuple[str, ...]:
    """A recipe's name; a component's, with its room and without."""
    return (row["name"],) if row["kind"] == "recipe" else (row["name"], row["name"].rpartition(".")[2])


def _overview(found: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in ("host", "tested", "installed", "components", "recipes", "kinds it runs"):
        table.add_column(key)
    for one in found:
        counts = [_count(one, recipes) for recipes in (False, True)]
        table.add_row(
            one["host"], one["tested"], one["installed"] or "no", *counts, ", ".join(one["kinds"]) or "rewards"
        )
    console().print(table)
    console().print("`truegain hosts HOST` lists every component with what it lacks there.")


def _count(one: dict[str, Any], recipes: bool) -> str:
    rows = [row for row in one["rows"] if (row["kind"] == "recipe") is recipes]
    return f"{sum(row['runs'] for row in rows)} of {len(rows)}" if rows else "-"


def _table(one: dict[str, Any]) -> None:
    from rich.table import Table

    installed = f"{one['installed']} is installed" if one["installed"] else "it is not installed here"
    to = console()
    to.print(f"{one['host']}: read from {one['package']} {one['tested']}; {installed}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in ("name", "kind", "runs"):
        table.add_column(key, no_wrap=True, style="cyan" if key == "name" else "")
    table.add_column("set, or what is missing")
    kinds = Counter(row["kind"] for row in one["rows"] if _has_no_place(row))
    several = len(one["rows"]) > 1
    for row in sorted(one["rows"], key=lambda row: (row["kind"] != "recipe", not row["runs"])):
        if not (several and _has_no_place(row)):
            table.add_row(row["name"], row["kind"], "yes" if row["runs"] else "no", _short(row))
    if table.rows:
        to.print(table)
    if several and kinds:
        to.print(f"no place for {', '.join(f'{kind} ({count})' for kind, count in sorted(kinds.items()))}", style="dim")


def _has_no_place(row: dict[str, Any]) -> bool:
    """A component that is refused for its kind alone."""
    return row["kind"] != "recipe" and row["missing"] == row["kind"]


def _short(row: dict[str, Any]) -> str:
    """What has to be set, or the refusal without the names that the line already shows."""
    if row["sentence"] is None:
        return "; ".join(row["needs"])
    if row["kind"] == "recipe":
        return row["sentence"]
    reason = row["sentence"].partition(": ")[2]
    if not reason:
        return f"no loop fact {row['missing']}"
    return reason if row["missing"] == row["kind"] else f"no {row['missing']}: {reason}"
