"""``truegain convert``: a task's problems, or a data file's, in the format of TRL, verl or verifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.out import console, print_json, printable
from truegain.cli.progress import Progress, progress
from truegain.core.errors import SettingError, nearest

if TYPE_CHECKING:
    from truegain.core.types import Problem, Split, Task

HOSTS = ("trl", "verl", "verifiers")


def convert(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="A task or a data file, as `truegain train --task`; or what convert wrote, a file or a folder.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="HOST", help="trl, verl or verifiers.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PLACE",
            help="With --split a file, .jsonl or .parquet; else a folder for all three. For verifiers a new package.",
        ),
    ],
    split: Annotated[str | None, typer.Option(help="train, dev or test. [default: all three]")] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Problems per split at most; tasks that never end need it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    json: Json = False,
) -> None:
    """Write a task's problems for another trainer.

    trl: the columns prompt, answer and solution, and the problems' own. verl: parquet with data_source, prompt,
    ability, reward_model and extra_info. verifiers: a package with a taskset. Every row also carries the whole problem,
    so that our rewards can judge it there, and `from_trl` and `from_verl_parquet` give it back. Files
    that convert wrote, alone or as their folder, keep their problems, ids and splits.
    """
    if to not in HOSTS:
        raise SettingError(f"unknown host {to!r}{nearest(to, HOSTS)}; it is trl, verl or verifiers")
    with progress("starting", quiet=True) as shown:
        from truegain.core.types import SPLITS
        from truegain.hosts._records import Recorded, recorded
        from truegain.hosts.data import for_verifiers, in_english
        from truegain.tasks.mixture import parse

        checked = task
        if split is not None and split not in SPLITS:
            raise SettingError(f"unknown split {split!r}{nearest(split, SPLITS)}; it is train, dev or test")
        places = _places(to, out, split, overwrite)
        if to == "verifiers":
            made = for_verifiers(task)
        else:  # a reward function may do without answers; verl's prompts are messages
            made = recorded(task) or (in_english if to == "verl" else parse)(task, needs_answer=False)
        if to == "verifiers" and isinstance(made, Recorded):
            checked = made.checked_by()
        found: dict[Split, list[Problem]] = {}
        for one in SPLITS:
            if one in places:
                found[one] = _problems(made, one, count, shown)
        written = _written(to, made, checked, found, places, out)
    if json:
        print_json({"task": task, "to": to, "out": str(out), "splits": written})
        return
    for one in written:
        held = f"; only in the column truegain: {', '.join(one['held'])}" if one["held"] else ""
        bare = f"; {one['without_answer']} have no answer to check against" if one["without_answer"] else ""
        held = bare + held if one["problems"] else ", so no file"
        console().print(printable(f"{one['file']}: {one['problems']} {one['split']} problems{held}"))


def _places(to: str, out: Path, split: str | None, overwrite: bool) -> dict[Split, Path]:
    """The file of each split. Raises SettingError for a place that is there already, or that is the wrong kind."""
    from truegain.core.types import SPLITS

    splits: list[Split] = [one for one in SPLITS if split in (None, one)]
    places: dict[Split, Path]
    if to == "verifiers":
        if out.exists():
            raise SettingError(f"{out}: exists already; --to verifiers makes a new folder")
        return {one: out / out.name.replace("-", "_").lower() / f"{one}.jsonl" for one in splits}
    if split is not None:
        places = {splits[0]: out}
    else:
        if out.suffix in (".jsonl", ".parquet"):
            raise SettingError(f"{out}: three splits do not go into one file; name a folder, or one split by --split")
        places = {one: out / f"{one}{'.parquet' if to == 'verl' else '.jsonl'}" for one in splits}
    there = [str(place) for place in places.values() if place.exists()]
    if there and not overwrite:
        raise SettingError(f"{there[0]}: exists already; --overwrite replaces it")
    return places


def _problems(made: Task, split: Split, count: int | None, shown: Progress) -> list[Problem]:
    from truegain.hosts.data import problems_of

    if made.size(split) is None and count is None:
        raise SettingError(f"the task {made.name} has no last problem: say how many to take by --count")
    size = made.size(split)
    shown.begin(f"making {split} problems", min(x for x in (size, count) if x is not None), "problems")
    return problems_of(made, split, count, shown.at)


def _written(
    to: str, made: Task, spec: str, found: dict[Split, list[Problem]], places: dict[Split, Path], out: Path
) -> list[dict[str, Any]]:
    from truegain.hosts.data import Converted, trl_rows, verl_rows, write
    from truegain.hosts.package import write_package

    if to == "verifiers":
        write_package(found, spec, out)
        return [_line(one, places[one], problems, Converted([])) for one, problems in found.items()]
    rows: dict[Split, Converted] = {
        one: trl_rows(problems, one) if to == "trl" else verl_rows(problems, one, made.name)
        for one, problems in found.items()
    }
    if not any(found.values()):
        raise SettingError(f"{spec}: no problem in {' or '.join(found)}")
    for one, converted in rows.items():
        if converted.rows:  # an empty file is none: nothing could be read from it
            write(converted.rows, places[one])
    return [_line(one, places[one], found[one], converted) for one, converted in rows.items()]


def _line(split: str, place: Path, problems: list[Problem], converted: Any) -> dict[str, Any]:
    from truegain.tasks import NAMES  # whose own checkers need none

    bare = sum(not problem.answer and problem.meta.get("task") not in NAMES for problem in problems)
    line = {"split": split, "file": str(place), "problems": len(problems), "without_answer": bare}
    return {**line, "held": list(converted.held)}
