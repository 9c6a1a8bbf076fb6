"""``truegain claims``: what the toy experiments said, and how to run them again."""

from __future__ import annotations

import importlib
import importlib.util
import json as jsonlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.out import console, json_lines, print_json, printable
from truegain.cli.progress import progress
from truegain.core.errors import DataError, SettingError, nearest

app = typer.Typer(help="Show the records of the claims, or run them.")
KEYS = ("paper", "name", "seeds", "verdict")


@app.callback(invoke_without_command=True)
def claims(context: typer.Context, json: Json = False) -> None:
    """Show the records of the claims, or run them.

    `claims run NAME` runs one again and writes its record.
    """
    if context.invoked_subcommand is not None:
        return
    rows = records(folder())
    if json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in ("name", "paper", "seeds", "verdict"):
        table.add_column(key)
    for row in rows:
        table.add_row(*(printable(str(row[key])) for key in ("name", "paper", "seeds", "verdict")))
    console().print(table if rows else "no claim has a record yet")


def folder() -> Path:
    """Where the records lie, found without importing the claims (which import torch)."""
    spec = importlib.util.find_spec("truegain.claims")
    if spec is None or spec.origin is None:
        raise DataError("the package truegain.claims is missing: install truegain again")
    return Path(spec.origin).parent / "records"


def records(place: Path) -> list[dict[str, Any]]:
    """Every record, by name. Raises DataError for one that is no JSON object with the keys that others rely on."""
    rows: list[dict[str, Any]] = []
    for file in sorted(place.glob("*.json")):
        try:
            row = jsonlib.loads(file.read_text(encoding="utf-8"))
            if not isinstance(row, dict):
                raise ValueError("it is no JSON object")
            missing = [key for key in KEYS if key not in row]
            if missing:
                raise ValueError(f"it lacks {missing[0]!r}")
        except (OSError, ValueError) as error:
            raise DataError(f"the record {file} cannot be used ({error}): run the claim again") from None
        rows.append(row)
    return sorted(rows, key=lambda row: str(row["name"]))


@app.command("run")
def run(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The claim to run.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Run every claim.")] = False,
    json: Json = False,
) -> None:
    """Run one claim, or all of them, and write their records."""
    if (name is None) == (not every):
        raise SettingError("claims run needs either the name of a claim or --all")
    with json_lines(json):
        room: Any = importlib.import_module("truegain.claims")
        known: Mapping[str, Any] = room.CLAIMS
        if name is not None and name not in known:
            there = ", ".join(sorted(known)) or "none yet"
            raise SettingError(f"unknown claim {name!r}{nearest(name, set(known))}; there are: {there}")
        found = [_record(room, one) for one in (sorted(known) if name is None else [name])]
    if json:
        print_json(found if name is None else found[0])
    else:
        for row in found:
            e = row["effect"]
            span = f"{e['mean']:.3f} ({e['low']:.3f} to {e['high']:.3f})"
            console().print(printable(f"{row['name']}: {row['verdict']}, effect {span} over {row['seeds']} seeds"))


def _record(room: Any, name: str) -> dict[str, Any]:
    """Run a claim, telling of each seed, and write its record over the earlier one."""
    record: dict[str, Any] = {}
    claim = room.CLAIMS[name]
    with progress(name, getattr(claim, "seeds", None), "seeds") as shown:
        for done, row in enumerate(room.run(claim), start=1):
            if "verdict" in row:
                record = row
            else:
                shown.say(f"{name}: seed {row['seed']}, effect {row['effect']:.3f}")
                shown.at(done)
        shown.say(f"{name}: written to {room.write_record(record)}")
    return record
