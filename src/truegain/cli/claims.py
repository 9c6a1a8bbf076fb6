"""``truegain claims``: what the toy experiments said, and how to run them again."""

from __future__ import annotations

import importlib
import importlib.util
import json as jsonlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.out import console, json_lines, print_json, printable, say
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

    table = Table(box=None, pad_edge=False, header_style="bold", show_lines=False)
    for key, wrap in (("claim", False), ("effect", True), ("verdict", True), ("s", False), ("what differs", True)):
        table.add_column(key, no_wrap=not wrap, justify="right" if key == "s" else "left", ratio=_WIDTHS[key])
    for row in rows:
        seconds = f"{row['seconds']:.0f}" if isinstance(row.get("seconds"), int | float) else "-"
        differs = str(row.get("differs") or "-")
        table.add_row(*map(printable, (str(row["name"]), _effect(row), str(row["verdict"]), seconds, differs)))
    console().print(table if rows else "no claim has a record yet")
    if rows:
        good = sum(row["verdict"] == "reproduced" for row in rows)
        console().print(f"{good} of {len(rows)} reproduced; `truegain claims --json` gives every seed and arm")


_WIDTHS = {"claim": None, "effect": 4, "verdict": 2, "s": None, "what differs": 7}


def _effect(row: Mapping[str, Any]) -> str:
    """The effect with its interval, its unit, and what it was held to."""
    e = row.get("effect")
    if not isinstance(e, Mapping):
        return "-"
    said = f"{e['mean']:.3g} ({e['low']:.3g} to {e['high']:.3g}) {row.get('unit', '')}".rstrip()
    if row.get("threshold") is not None:
        return f"{said}, above {row['threshold']:g}?"
    return f"{said}, within ±{row['margin']:g}?" if row.get("margin") is not None else said


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
    """Run one claim, or all of them, and write their records. Interrupted, `--all` goes on where it stopped."""
    if (name is None) == (not every):
        raise SettingError("claims run needs either the name of a claim or --all")
    with json_lines(json):
        room: Any = importlib.import_module("truegain.claims")
        known: Mapping[str, Any] = room.CLAIMS
        if name is not None and name not in known:
            there = ", ".join(sorted(known)) or "none yet"
            raise SettingError(f"unknown claim {name!r}{nearest(name, set(known))}; there are: {there}")
        found = _sweep(room) if name is None else [_record(room, known[name], room.run)]
    if json:
        print_json(found if name is None else found[0])
    else:
        for row in found:
            e = row["effect"]
            span = f"{e['mean']:.3f} ({e['low']:.3f} to {e['high']:.3f})"
            console().print(printable(f"{row['name']}: {row['verdict']}, effect {span} over {row['seeds']} seeds"))


def _sweep(room: Any) -> list[dict[str, Any]]:
    """Run every claim that an interrupted sweep has not finished; its seeds are not run again."""
    known: Mapping[str, Any] = room.CLAIMS
    with room.Sweep() as sweep:
        if sweep.fresh:
            say("the sources changed since the interrupted sweep: all claims are run anew")
        elif sweep.done:
            say(f"going on: {len(sweep.done)} of {len(known)} claims were run before the sweep was interrupted")
        for name in sorted(set(known) - sweep.done):
            _record(room, known[name], sweep.run)
            sweep.finished(known[name])
        sweep.end()
    return [row for row in records(folder()) if row["name"] in known]


def _record(room: Any, claim: Any, run: Callable[[Any], Iterable[dict[str, Any]]]) -> dict[str, Any]:
    """Run a claim, telling of each seed, and write its record over the earlier one."""
    record: dict[str, Any] = {}
    with progress(claim.name, claim.seeds, "seeds") as shown:
        for row in run(claim):
            if "verdict" in row:
                record = row
            else:
                shown.say(f"{claim.name}: seed {row['seed']}, effect {row['effect']:.3f}")
                shown.at(row["seed"] + 1)
        shown.say(f"{claim.name}: written to {room.write_record(record)}")
    return record
