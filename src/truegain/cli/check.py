"""``truegain check``: whether data files can be trained and judged on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.errors import FAILED
from truegain.cli.out import console, print_json, printable
from truegain.core.errors import SettingError

EXAMPLES = 5
"""Contaminated prompts that are printed; ``--json`` gives all."""


def check(
    task: Annotated[
        str, typer.Argument(metavar="FILE", help="A data file, data.jsonl or train.jsonl,test=test.jsonl, or several.")
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Words in a row that make two prompts overlap.")] = 13,
    common: Annotated[
        int, typer.Option(min=1, help="What stands in more test prompts than this is their template, and left out.")
    ] = 10,
    max_share: Annotated[
        float, typer.Option(min=0, max=1, help="Exit with 1 when more of test or dev overlaps with train.")
    ] = 0.0,
    keys: Annotated[bool, typer.Option("--keys/--no-keys", help="Read every answer key with the checker too.")] = True,
    json: Json = False,
) -> None:
    """Check data files: prompts of test and dev that overlap with train, rows left out, answer keys.

    Exits with 1 when the share of overlapping prompts is above --max-share, or an answer key cannot be read.
    """
    from truegain.tasks.files import FileTask
    from truegain.tasks.mixture import Mixture, parse
    from truegain.tasks.overlap import contamination

    made = parse(task, needs_answer=False)
    files = [m for m in (made.members if isinstance(made, Mixture) else (made,)) if isinstance(m, FileTask)]
    if not files:
        raise SettingError(f"{task!r} names no data file; the problems of generated tasks are in one split each")
    if keys and any(
        one.checker != "exact" and one.size("train") and one.problem("train", 0).answer is None for one in files
    ):
        parse(task)  # a checker was asked for by name: the error says which column it lacks
    found = [_overlap(one) for one in contamination(made, n, common)]
    facts = [_file(one, keys) for one in files]
    over = any(one["share"] > max_share for one in found)
    ok = not over and not any(one["bad_keys"] for one in facts)
    if json:
        print_json({"ok": ok, "n": n, "common": common, "max_share": max_share, "files": facts, "overlap": found})
    else:
        _print(facts, found, n)
    if not ok:
        raise typer.Exit(FAILED)


_LACKS = {"train": "nothing can be trained on", "dev": "no temperature can be chosen", "test": "no gain can be judged"}


def _file(task: Any, keys: bool) -> dict[str, Any]:
    """What there is in a file task; ``bad_keys`` is None when the keys were not read."""
    bad = [(task.place(problem), str(problem.answer)) for problem in task.bad_keys()] if keys else None
    sizes = {split: task.size(split) for split in ("train", "dev", "test")}
    notes = list(task.notes)
    return {"task": task.name, "file": str(task.path), "problems": sizes, "notes": notes, "bad_keys": bad}


def _overlap(one: Any) -> dict[str, Any]:
    """One split's overlap as JSON."""
    shared = [
        {"place": here, "train_place": there, "text": found.text}
        for found, (here, there) in zip(one.overlap.found, one.places, strict=True)
    ]
    total, share = one.overlap.total, one.overlap.share
    return {"task": one.task, "split": one.split, "prompts": total, "share": share, "shared": shared}


def _print(facts: list[dict[str, Any]], found: list[dict[str, Any]], n: int) -> None:
    to = console()
    for one in facts:
        sizes = ", ".join(f"{count} {split}" for split, count in one["problems"].items())
        to.print(printable(f"{one['file']}: {sizes}"))
        for note in one["notes"]:
            to.print("  " + printable(note))
        for split in (name for name, count in one["problems"].items() if not count):
            to.print(f"  no {split} problems, so {_LACKS[split]}: add rows, or name a file by {split}=FILE")
        for place, answer in (one["bad_keys"] or ())[:EXAMPLES]:
            to.print("  " + printable(f"{place}: the checker cannot read the answer {answer[:80]!r}"))
        if one["bad_keys"]:
            to.print(f"  {len(one['bad_keys'])} answers cannot be read: their rows would abstain")
    for one in found:
        count, total = len(one["shared"]), one["prompts"]
        share = f"{count} of {total} {one['split']} prompts ({100 * one['share']:.1f} %)"
        to.print(printable(f"{one['task']}: {share} share {n} words in a row with train, or all where shorter"))
        for shared in one["shared"][:EXAMPLES]:
            to.print("  " + printable(f"{shared['place']} with {shared['train_place']}: {shared['text'][:120]!r}"))
        if count > EXAMPLES:
            to.print(f"  and {count - EXAMPLES} more; --json lists them all")
