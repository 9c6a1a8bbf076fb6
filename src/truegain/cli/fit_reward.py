"""``truegain fit reward-model``: reward models from preference pairs, one or an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truegain.cli import device as devices
from truegain.cli.catalog import Json
from truegain.cli.errors import INTERRUPTED
from truegain.cli.out import json_lines, print_json, quiet_libraries, say
from truegain.cli.progress import progress
from truegain.cli.variant import assignments, forms
from truegain.core.errors import SettingError

if TYPE_CHECKING:
    from truegain.train.reward_models import PairSource


def reward_model(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write; the same folder goes on.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs in TRL's columns: prompt, chosen, rejected.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="A task that compares completions itself.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="tiny, a model folder or a hub id. Repeatable: members take turns."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="A recipe that fits a head on pairs.")] = "bradley-terry-rm",
    members: Annotated[int, typer.Option(min=1, help="Reward models that differ by head and data order.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Decides head and data order; member m takes seed + m.")] = 0,
    pairs: Annotated[int | None, typer.Option(min=1, help="Most train pairs to use.", show_default="all")] = None,
    held_out: Annotated[int, typer.Option(min=1, help="Most dev pairs to judge by.")] = 500,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.", show_default="one pass")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of the body.", show_default="recipe's")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a setting of the recipe. Repeatable."),
    ] = None,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="Rewards of mean 0 and deviation 1 on held-out completions.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str | None, typer.Option(help=devices.HELP, show_default=False)] = None,
    json: Json = False,
) -> None:
    """Fit reward models on preference pairs, one or an ensemble.

    Each member is a model folder with head.safetensors in FOLDER/member-N. A recipe's reward-model role takes FOLDER,
    or one member's: --set role.reward_model.source=FOLDER.
    """
    from truegain.core.forms import Fit
    from truegain.core.settings import loop_with
    from truegain.train.folder import RunFolder
    from truegain.train.launch import best_threads, stop_at
    from truegain.train.memory import memory_for
    from truegain.train.reward_models import MemberPlan, fit_members

    built = forms(recipe, assignments(sets))
    form = built[0]
    if len(built) != 1 or not isinstance(form, Fit) or not form.pair or not any(r.head for r in form.roles.values()):
        raise SettingError(f"recipe {recipe!r} does not fit a head on pairs; try bradley-terry-rm")
    source = _source(data, task)
    quiet_libraries()
    best_threads()
    chosen = tuple(model or ["tiny"])
    plan = MemberPlan(
        loop_with(form, lr=lr), chosen, out, members, seed, pairs, held_out, steps, standardise, dtype,
        devices.device_of(device),
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    room = memory_for("fitting", "try --set micro_tokens=4096")
    found: list[dict[str, Any]] = []
    with json_lines(json), RunFolder(out), room, progress("fit reward-model") as shown, stop_at(say=shown.say) as stop:
        for note in getattr(source, "notes", ()):
            shown.say(note)
        at = -1
        for line in fit_members(plan, source, stop.reason):
            if line["kind"] == "step":
                if line["member"] != at:
                    at = line["member"]
                    shown.begin(f"member {at} of {members}", line["steps"], "steps", done=line["step"] - 1)
                shown.at(line["step"], f"loss {line['loss']:.4f}, accuracy {line['rewards/accuracies']:.2f}")
            elif line["kind"] == "note":
                shown.say(f"member {line['member']}: {line['text']}")
            else:
                found.append(line)
                shown.say(_told(line))
    if not found or found[-1]["kind"] != "ensemble":
        say(f"stopped; the same command goes on in {out}")
        raise typer.Exit(INTERRUPTED)
    if json:
        print_json(found)
    else:
        print(f"{_told(found[-1])}; the reward models are in {out}")


def _source(data: Path | None, task: str | None) -> PairSource:
    from truegain.tasks.mixture import parse
    from truegain.tasks.pairs import PairFile

    if (data is None) == (task is None):
        raise SettingError("fit reward-model needs pairs: give --data FILE or --task TASK, one of the two")
    if data is not None:
        return PairFile(data)
    made: Any = parse(str(task))
    if not hasattr(made, "pair"):
        raise SettingError(f"task {task!r} compares no completions; give a file of pairs by --data")
    return made


def _told(line: dict[str, Any]) -> str:
    who = f"member {line['member']}" if line["kind"] == "member" else f"mean of {line['members']}"
    a = line["accuracy"]
    return f"{who}: held-out accuracy {a['value']:.3f} ({a['low']:.3f} to {a['high']:.3f}, {a['pairs']:.0f} pairs)"
