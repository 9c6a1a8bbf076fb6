"""``truegain train``: from options to a plan, and the plan to `truegain.cli.drive`."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from truegain.cli import device as devices
from truegain.cli.config import merged, read_config
from truegain.cli.progress import progress
from truegain.cli.reporters import check_reporters
from truegain.cli.variant import assignments, check_recipe, check_task, forms
from truegain.core.errors import SettingError

AS_MANY_AS_FIT = 1_000_000
"""Steps of a run that only ``--max-seconds`` bounds."""

DEFAULTS: Mapping[str, Any] = {
    "recipe": None,
    "task": None,
    "model": "tiny",
    "seed": 0,
    "seeds": 1,
    "out": None,
    "steps": None,
    "max-seconds": None,
    "controls": False,
    "guard": None,
    "reward": (),
    "report-to": (),
    "dev-problems": None,
    "test-problems": None,
    "eval-samples": None,
    "dtype": "float32",
    "device": None,
}
_SIZES = {"dev-problems": "dev", "test-problems": "test", "eval-samples": "samples"}


def _option(help_: str, *names: str, default: str = "", **more: Any) -> Any:
    """An option whose value is None when it is not given, so that a configuration file can give it."""
    text = f"{help_} [default: {default}]" if default else help_
    return typer.Option(*names, help=text, show_default=False, **more)


_AS_MANY = "the recipe's, or as many as fit into --max-seconds"
Recipe = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="What to train with; see `truegain list`.", show_default=False)
]
Task = Annotated[
    str | None, _option("sort, countdown,level=3, a data file, or a mixture such as sort+add.", metavar="TASK")
]
Model = Annotated[str | None, _option("tiny, table, a model folder or a hub id.", default="tiny", metavar="MODEL")]
Seed = Annotated[int | None, _option("The first seed.", default="0", min=0)]
Seeds = Annotated[int | None, _option("How many seeds to run.", default="1", min=1, metavar="N")]
Out = Annotated[
    Path | None, _option("The run folder; one that exists is resumed.", default="a new one in runs/", metavar="FOLDER")
]
Steps = Annotated[int | None, _option("Optimisation steps.", default=_AS_MANY, min=0)]
MaxSeconds = Annotated[float | None, _option("Training time per seed; judging and controls come on top.")]
Controls = Annotated[
    bool | None, _option("Train control arms of equal compute too.", "--controls/--no-controls", default="no")
]
Guard = Annotated[
    str | None,
    _option(
        "What to do when gold has fallen on dev: log, pause, or rollback to the checkpoint with the most gold.",
        default="no guard",
        metavar="ACTION",
    ),
]
Reward = Annotated[
    list[str] | None,
    _option(
        "A reward function, pkg.mod:fn or file.py:fn, instead of the recipe's reward. Repeatable.",
        metavar="PATH[=WEIGHT]",
    ),
]
Sets = Annotated[
    list[str] | None,
    _option(
        "Change a setting or a knob of the recipe; `truegain show RECIPE` lists them. Repeatable.",
        "--set",
        metavar="PATH=VALUE",
    ),
]
Config = Annotated[Path | None, _option("Options by the same names, from a file; flags win.", metavar="TOML")]
ReportTo = Annotated[list[str] | None, _option("tensorboard, wandb or trackio. Repeatable.", metavar="CLIENT")]
DevProblems = Annotated[int | None, _option("Problems that choose the temperature.", default="200", min=2)]
TestProblems = Annotated[int | None, _option("Problems of the verdict.", default="400", min=2)]
EvalSamples = Annotated[
    int | None,
    _option("Completions per judged problem; those per training problem are --set samples=N.", default="4", min=1),
]
Dtype = Annotated[str | None, _option("float32, bfloat16 or float16.", default="float32")]
Device = Annotated[str | None, typer.Option(help=devices.HELP, show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show composition, memory, time per step and first prompt.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in a browser at the end.")]
Json = Annotated[bool, typer.Option("--json", help="Print events as JSON lines, the report last.")]


def train(
    context: typer.Context,
    recipe: Recipe = None,
    task: Task = None,
    model: Model = None,
    seed: Seed = None,
    seeds: Seeds = None,
    out: Out = None,
    steps: Steps = None,
    max_seconds: MaxSeconds = None,
    controls: Controls = None,
    guard: Guard = None,
    reward: Reward = None,
    sets: Sets = None,
    config: Config = None,
    report_to: ReportTo = None,
    dev_problems: DevProblems = None,
    test_problems: TestProblems = None,
    eval_samples: EvalSamples = None,
    dtype: Dtype = None,
    device: Device = None,
    dry_run: DryRun = False,
    open_: Open = False,
    json: Json = False,
) -> None:
    """Train a model, and find out whether the gain is real.

    Ends with a verdict on one screen and the proof-of-gain page, report.html in the run folder.

    Ctrl-C ends the run after its current step; the same command with the same --out goes on from there.
    """
    flags = {
        "recipe": recipe,
        "task": task,
        "model": model,
        "seed": seed,
        "seeds": seeds,
        "out": out and str(out),
        "steps": steps,
        "max-seconds": max_seconds,
        "controls": controls,
        "guard": guard,
        "reward": reward or None,
        "set": assignments(sets),
        "report-to": report_to or None,
        "dev-problems": dev_problems,
        "test-problems": test_problems,
        "eval-samples": eval_samples,
        "dtype": dtype,
        "device": device,
    }
    options = merged(flags, read_config(config) if config else {}, DEFAULTS)
    argv = _resumable(context, options)
    with progress("starting", quiet=True):
        plan = make_plan(options, argv)
    from truegain.cli import drive

    if dry_run:
        drive.dry(plan, json=json)
        return
    code = drive.run(plan, clients=tuple(options["report-to"]), json=json, open_page=open_)
    if code:
        raise typer.Exit(code)


def make_plan(options: Mapping[str, Any], argv: Sequence[str]) -> Any:
    """The `truegain.train.run.Plan` that the options ask for. Raises SettingError for what they may not be."""
    if options["recipe"] is None:
        raise SettingError("train needs a RECIPE, such as grpo; `truegain list` shows all")
    check_recipe(options["recipe"])
    if options["task"] is None:
        raise SettingError("train needs --task, such as --task sort: an embedded task, a data file or a mixture")
    check_task(options["task"])
    if options["max-seconds"] is not None and not options["max-seconds"] > 0:
        raise SettingError(f"--max-seconds must be above 0, not {options['max-seconds']:g}")
    check_reporters(options["report-to"])
    form, device = _form(options), devices.device_of(options["device"])
    from truegain.recipes import controls
    from truegain.recipes.sft import sft
    from truegain.train.run import SIZES, Plan

    if options["reward"]:
        form = controls.on_user_score(form)
    if options["guard"] is not None:
        from truegain.train.guard import guarded

        form = guarded(form, options["guard"])
    given = {size: options[name] for name, size in _SIZES.items() if options[name] is not None}
    return Plan(
        form=form,
        recipe=options["recipe"],
        model=options["model"],
        task=options["task"],
        out=Path(options["out"]),
        seeds=tuple(range(options["seed"], options["seed"] + options["seeds"])),
        blind=controls.blind(form) if options["controls"] else None,
        sft=sft() if options["controls"] else None,
        rewards=tuple(options["reward"]),
        max_seconds=options["max-seconds"],
        sizes={**SIZES, **given},
        dtype=options["dtype"],
        device=device,
        command=shlex.join(argv),
        argv=tuple(argv),
        guard=options["guard"],
    )


def _form(options: Mapping[str, Any]) -> Any:
    """The recipe's one online form, with ``--set`` and ``--steps``."""
    built = forms(options["recipe"], options["set"])
    kinds = [type(form).__name__ for form in built]
    if kinds != ["Train"]:
        mend = "; use `truegain fit sft`" if options["recipe"] == "sft" else ""
        raise SettingError(
            f"recipe {options['recipe']!r} gives {' + '.join(kinds)}; `train` runs recipes that give one Train{mend}"
        )
    from truegain.core.settings import loop_with

    form, steps = built[0], options["steps"]
    # A schedule of the learning rate needs a last step; without one, time alone may bound the run.
    timed = options["max-seconds"] is not None and form.loop.decay == "none"
    if steps is None and timed and "steps" not in form.loop.model_fields_set:
        steps = AS_MANY_AS_FIT
    return loop_with(form, steps=steps)


def _resumable(context: typer.Context, options: dict[str, Any]) -> list[str]:
    """The command line that goes on with this run: as given, with the folder named."""
    argv = ["truegain", *context.find_root().obj["argv"]]
    if options["out"] is None:
        task = re.sub(r"[^A-Za-z0-9._-]+", "-", str(options["task"])).strip("-.")[:60]
        options["out"] = f"runs/{options['recipe']}-{task}-{time.strftime('%Y%m%d-%H%M%S')}"
        argv += ["--out", options["out"]]
    return argv
