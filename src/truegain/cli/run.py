"""``truegain run``: any system of the table, its forms in order."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truegain.cli import device as devices
from truegain.cli.errors import INTERRUPTED
from truegain.cli.out import console, duration, json_lines, print_json, printable, quiet_libraries, say
from truegain.cli.progress import Progress, progress
from truegain.cli.variant import assignments, check_recipe, check_task, forms
from truegain.core.errors import SettingError

if TYPE_CHECKING:
    from truegain.cli.drive import Take
    from truegain.train.chain import Chain

TERMINATED = 143


def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A system; see `truegain list`.")],
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="chain,style=trace, a data file, or a mixture such as sort+add.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="tiny, table, a model folder or a hub id.")] = "tiny",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write; one that exists is gone on with.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides every draw. [default: 0, or a study's own]")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change a knob, a setting, or with N.PATH=VALUE one of the N-th form alone. Repeatable.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON lines in TRL's columns, for a Fit before which no form writes some."),
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="JSON lines that a Measure or a Watch reads. Repeatable."),
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Training time of each Train form.")] = None,
    dev_problems: Annotated[int, typer.Option(min=2, help="Problems that choose the temperature.")] = 200,
    test_problems: Annotated[int, typer.Option(min=2, help="Problems of the verdict.")] = 400,
    eval_samples: Annotated[int, typer.Option(min=1, help="Completions per judged problem.")] = 4,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Annotated[str | None, typer.Option(help=devices.HELP, show_default=False)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check that every form can be fed, and show them.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines.")] = False,
) -> None:
    """Run a system: each of its forms in order, given the folder of the one before.

    The folders are FOLDER/1-decode, FOLDER/2-fit and so on; data sets are in dataset.jsonl, models in model.

    What is done is not run again. Ctrl-C ends the run after its current step; the same command goes on from there.
    """
    check_recipe(name)
    if task:
        check_task(task)
    if max_seconds is not None and not max_seconds > 0:
        raise SettingError(f"--max-seconds must be above 0, not {max_seconds:g}")
    argv = ["truegain", *context.find_root().obj["argv"]]
    if out is None:
        out = Path("runs") / _folder_name(name, task)
        argv += ["--out", str(out)]
    options = {
        "sizes": {"dev": dev_problems, "test": test_problems, "samples": eval_samples},
        "max_seconds": max_seconds,
        "command": shlex.join(argv),
        "argv": tuple(argv),
    }
    with progress("starting", quiet=True):
        built = forms(name, assignments(sets))
        place = devices.device_of(device)
        from truegain.train.chain import Chain

        files = tuple(records or ())
        chain = Chain(built, name, out, model, task or "", seed, dtype, place, data, files, options)
    code = dry(chain, json=json) if dry_run else drive(chain, json=json)
    if code:
        raise typer.Exit(code)


def _folder_name(name: str, task: str | None) -> str:
    on = re.sub(r"[^A-Za-z0-9._-]+", "-", str(task)).strip("-.")[:60] if task else ""
    return "-".join(part for part in (name, on, time.strftime("%Y%m%d-%H%M%S")) if part)


def dry(chain: Chain, *, json: bool) -> int:
    """Say what would run. Raises what would refuse it."""
    from truegain.cli.describe import form
    from truegain.train.chain import check, stages

    task = check(chain)
    rows = [{"folder": str(s.place), "form": s.kind, **_fed(form(s.form), s)} for s in stages(chain, task)]
    if json:
        print_json(rows)
        return 0
    for row in rows:
        console().print(f"{row['folder']}: {row['form']}", style="bold")
        for part in row["parts"]:
            console().print(f"  {part}")
    return 0


def _fed(found: Mapping[str, Any], stage: Any) -> dict[str, Any]:
    loop = found["loop"]
    steps = f"{loop['steps']['value']} steps of {loop['prompts']['value']} prompts" if loop else ""
    parts = [f"{one['stage']}: {one['component']}" for one in found["stages"]]
    return {"parts": [*parts, *([steps] if steps else [])], "settings": found["settings"]}


def drive(chain: Chain, *, json: bool) -> int:
    """Run the chain with progress, and print what each form left. Returns the exit code; 130 when interrupted."""
    from truegain.cli.drive import set_threads_in
    from truegain.train.chain import execute
    from truegain.train.launch import StopSignal

    quiet_libraries()
    say(f"folder {chain.out}; Ctrl-C stops after the current step, and the same command goes on later")
    shown = _Shown(chain, quiet=json)
    stop = StopSignal(say=shown.warn)
    with json_lines(json) as emit:
        try:
            with stop, contextlib.closing(shown):
                set_threads_in(chain.out)
                for event in execute(chain, stop):
                    emit(event)
                    shown.take(event)
        except KeyboardInterrupt:
            return _stopped(chain, INTERRUPTED)
        if stop.reason() is not None:
            return _stopped(chain, TERMINATED if stop.reason() == "terminated" else INTERRUPTED)
        _judgements(chain, emit, json)
    return 0


def _stopped(chain: Chain, code: int) -> int:
    say(f"stopped; what was done is kept in {chain.out}. To go on:")
    say(f"  {chain.options['command']}")
    return code


def _judgements(chain: Chain, emit: Callable[[Any], None], json: bool) -> None:
    """The report of the Train form that was judged."""
    from truegain.cli.drive import finish
    from truegain.core.forms import Train
    from truegain.train.chain import stages
    from truegain.train.stages.train import plan_of

    for stage in stages(chain, None):
        if isinstance(stage.form, Train) and stage.last and (stage.place / "evals" / "records.jsonl").is_file():
            finish(plan_of(stage), emit, json, open_page=False)


class _Shown:
    """Progress form by form: the panel of ``truegain train`` for a Train, a bar with rate and time left for others."""

    def __init__(self, chain: Chain, *, quiet: bool) -> None:
        self.chain, self.quiet = chain, quiet
        self.room = contextlib.ExitStack()
        self.bar: Progress | None = None
        self.draw: Take = lambda event: None
        self.view: Any = None
        self.label, self.kept = "", False
        self.began = time.monotonic()

    def take(self, event: Mapping[str, Any]) -> None:
        """Show an event of `truegain.train.chain.execute`."""
        kind = event["kind"]
        if kind == "stage":
            self._begin(event)
        elif kind == "left":
            self.close()
            self._print(_left(event, time.monotonic() - self.began) + (" (done before)" if self.kept else ""))
        elif kind == "record":
            self.close()
            if not self.quiet:
                print_record(event["record"])
        elif self.bar is None:
            self.draw(event)
        elif kind == "begin":
            self.bar.begin(self.label, event["total"], event["unit"], event["done"])
        elif kind == "step":
            self.bar.at(event["step"], step_text(event))

    def warn(self, text: str) -> None:
        """Say a word about a signal without tearing what is drawn."""
        if self.view is not None:
            self.view.warning = text
        elif self.bar is not None:
            self.bar.say(text)
        else:
            say(text)

    def close(self) -> None:
        """Take away what is drawn."""
        self.room.close()
        self.bar, self.view = None, None

    def _begin(self, event: Mapping[str, Any]) -> None:
        self.close()
        self.label, self.began = str(event["stage"]), time.monotonic()
        self.kept = bool(event["kept"])
        if self.kept:
            return
        if event["form"] == "Train" and not self.quiet:
            from truegain.cli.drive import can_draw, showing
            from truegain.cli.live import View

            title = f"{self.chain.recipe} {self.label} on {self.chain.task} · {event['model']}"
            view = View(title, (self.chain.seed or 0,), sizes=self.chain.options["sizes"])
            live = can_draw()
            self.view = view if live else None
            self.draw = self.room.enter_context(showing(view, live, False))
        else:
            self.bar = self.room.enter_context(progress(self.label, quiet=True))

    def _print(self, text: str) -> None:
        (say if self.quiet else lambda said: console().print(printable(said), soft_wrap=True))(text)


def step_text(event: Mapping[str, Any]) -> str:
    """What the bar says of a step of a fit or a search."""
    parts = [f"loss {event['loss']:.4f}"] if "loss" in event else []
    parts += [f"lr {event['learning_rate']:.1e}"] if "learning_rate" in event else []
    if "rows" in event:
        parts.append(f"{event['rows']} rows kept")
    if "correct" in event:
        parts.append(f"{100 * event['correct']:.0f} % right")
    return ", ".join(parts)


def _left(event: Mapping[str, Any], seconds: float) -> str:
    """``2-fit: 100 steps in 12 s, model in runs/x/2-fit/model``."""
    place = Path(str(event["folder"]))
    parts = [f"{event['steps']} steps"] if "steps" in event else []
    parts += [f"{event['rows']} rows from {event['problems']} problems"] if "rows" in event else []
    parts += [] if seconds < 1 else [f"in {duration(seconds)}"]
    where = [
        f"{what} in {place / str(event[key])}"
        for what, key in (("model", "policy"), ("data set", "dataset"), ("record", "record"))
        if event.get(key)
    ]
    where += [f"role {role} in {place / str(at)}" for role, at in dict(event.get("roles") or {}).items()]
    return f"{event['stage']}: {', '.join([' '.join(parts), *where] if parts else where)}"


def print_record(record: Mapping[str, Any], to: Any = None) -> None:
    """A study's or a measurement's record: a line per number, short lists on one line."""
    wide = max(map(len, record), default=0)
    for name, value in record.items():
        (to or console()).print(f"{name:{wide}}  {printable(_value(value))[:400]}")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_value(one) for one in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return str(value)
