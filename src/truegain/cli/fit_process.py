"""``truegain fit process-reward``: a process reward model from the policy's own Monte Carlo labels, and its ranking."""

from __future__ import annotations

import json as jsonlib
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from truegain.cli import device as devices
from truegain.cli.catalog import Json
from truegain.cli.out import print_json
from truegain.cli.progress import progress
from truegain.cli.run import drive
from truegain.cli.variant import assignments, forms
from truegain.core.errors import SettingError

RANKING = "ranking.json"


def process_reward(
    context: typer.Context,
    task: Annotated[str, typer.Option(metavar="TASK", help="A task such as chain,style=trace.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write; the same folder goes on.")],
    model: Annotated[str, typer.Option(metavar="MODEL", help="tiny, a model folder or a hub id.")] = "tiny",
    recipe: Annotated[str, typer.Option(help="A recipe that labels steps and fits a head.")] = "math-shepherd",
    seed: Annotated[int, typer.Option(min=0, help="Decides every draw.")] = 0,
    held_out: Annotated[int, typer.Option(min=2, help="Dev problems to judge by.")] = 100,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; N.PATH of the N-th form. Repeatable."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Annotated[str | None, typer.Option(help=devices.HELP, show_default=False)] = None,
    json: Json = False,
) -> None:
    """Fit a process reward model on the policy's own labels of steps, and say how well it ranks them.

    Each step is labelled by the share of right answers when the policy goes on from its end. The model is a folder
    with head.safetensors, FOLDER/2-fit/model; recipes take it by --set model=FOLDER or --set role.steps.source=FOLDER.
    """
    from truegain.core.forms import Decode, Fit

    built = forms(recipe, assignments(sets))
    if [type(form) for form in built] != [Decode, Fit] or "step" not in built[0].segment:
        raise SettingError(f"recipe {recipe!r} does not label steps and fit a head; try math-shepherd")
    from truegain.train.chain import Chain
    from truegain.train.process_rewards import ranked, said

    argv = ["truegain", *context.find_root().obj["argv"]]
    options = {"command": shlex.join(argv), "argv": tuple(argv), "sizes": {}}
    chain = Chain(built, recipe, out, model, task, seed, dtype, devices.device_of(device), options=options)
    code = drive(chain, json=json)
    if code:
        raise typer.Exit(code)
    place, file = out / "2-fit" / "model", out / RANKING
    with progress("judging on held-out problems"):
        from truegain.tasks.mixture import parse
        from truegain.train.folder import plain, write_atomic

        found: dict[str, Any] = ranked(
            place, model, parse(task), built[0].segment["step"], problems=held_out, seed=seed
        ).to_json()
        write_atomic(file, jsonlib.dumps(plain(found, RANKING), indent=1, allow_nan=False) + "\n")
    if json:
        print_json(found)
    else:
        print(f"{said(found)}; the model is in {place}")
