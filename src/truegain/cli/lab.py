"""``truegain lab``: synthetic settings in which the truth is known."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.errors import INTERRUPTED
from truegain.cli.out import json_lines, print_json, quiet_libraries, say
from truegain.cli.progress import progress
from truegain.core.errors import SettingError

app = typer.Typer(help="Synthetic settings in which the truth is known.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def lab(context: typer.Context) -> None:
    """Synthetic settings in which the truth is known.

    `lab overopt` optimises a learned reward until the truth falls.
    """
    if context.invoked_subcommand is None:
        raise SettingError("lab needs to know what: `truegain lab overopt`")


@app.command("overopt")
def overopt(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write; the same folder goes on.")] = Path(
        "runs/overopt"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Worlds, each with a truth and data of its own.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Two seeds, short: a minute, to see that it runs.")] = False,
    pairs: Annotated[int | None, typer.Option(min=1, max=8192, help="Pairs that the reward models see.")] = None,
    flip: Annotated[float | None, typer.Option(min=0, max=0.5, help="Share of their labels turned round.")] = None,
    members: Annotated[int | None, typer.Option(min=2, help="Reward models in the ensemble.")] = None,
    vary: Annotated[str | None, typer.Option(help="What members differ by: pretraining or order.")] = None,
    json: Json = False,
) -> None:
    """Optimise a learned reward by best-of-n and by RL, and see what happens to the truth, with and without remedies.

    Writes results.json and overopt.html. One seed takes a minute or two of one core.
    """
    from dataclasses import replace

    from truegain.lab.overopt import QUICK, Setting, arms, run
    from truegain.report.overopt import render_overopt, sentence
    from truegain.report.writing import replace_file
    from truegain.train.folder import RunFolder
    from truegain.train.launch import best_threads, stop_at

    setting = QUICK if quick else Setting(seeds=tuple(range(seeds)))
    given = {"pairs": pairs, "flip": flip, "members": members, "vary": vary}
    setting = replace(setting, **{name: value for name, value in given.items() if value is not None})
    quiet_libraries()
    best_threads()
    out.parent.mkdir(parents=True, exist_ok=True)
    total = len(setting.seeds) * (setting.members + len(arms()))
    found: dict[str, Any] | None = None
    bar = progress("lab overopt", total, "pieces")
    with json_lines(json), RunFolder(out), bar as shown, stop_at(say=shown.say) as stop:
        done = 0
        for line in run(setting, out, stop.reason):
            if line["kind"] == "piece":
                done += 1
                shown.at(done, f"seed {line['seed']}, {line['what']}")
            elif line["kind"] == "seed":
                done = (setting.seeds.index(line["seed"]) + 1) * (setting.members + len(arms()))
                gold = line["rl"]["single"]["gold"]
                shown.at(done)
                shown.say(
                    f"seed {line['seed']}: gold under one reward model peaks at {max(gold):.2f}, ends at {gold[-1]:.2f}"
                )
            else:
                found = {name: value for name, value in line.items() if name != "kind"}
    if found is None:
        say(f"stopped; the same command goes on in {out}")
        raise typer.Exit(INTERRUPTED)
    replace_file(out / "results.json", jsonlib.dumps(found, indent=1, allow_nan=False) + "\n")
    page = replace_file(out / "overopt.html", render_overopt(found))
    if json:
        print_json(found)
        return
    print(sentence(found))
    for row in found["rl_table"]:
        gain = row["end_gain"]
        span = "" if gain["low"] is None else f" ({gain['low']:+.2f} to {gain['high']:+.2f})"
        print(f"  {row['arm']:<24} gold {row['end']['value']:6.2f}   gain {gain['value']:+.2f}{span}")
    print(f"the page is {page}")
