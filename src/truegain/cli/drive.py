"""Drives a plan: progress while it runs, the report at its end, and a run that can go on when it is stopped."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truegain.cli.errors import FAILED, INTERRUPTED
from truegain.cli.live import View, alarm_text, label
from truegain.cli.out import console, duration, json_lines, print_json, printable, quiet_libraries, say
from truegain.cli.progress import progress
from truegain.cli.reporters import reporters

if TYPE_CHECKING:
    from truegain.train.launch import StopSignal
    from truegain.train.run import Plan

TERMINATED = 143
SECONDS_BETWEEN_LINES = 5.0
Take = Callable[[Mapping[str, Any]], None]


def run(plan: Plan, *, clients: tuple[str, ...] = (), json: bool = False, open_page: bool = False) -> int:
    """Run the plan with progress, then write and print the report. Returns the exit code; 130 when interrupted."""
    from truegain.train.launch import StopSignal

    say(f"run folder {plan.out}; Ctrl-C stops after the current step, and the run can go on later")
    with json_lines(json) as emit:
        view = View(f"{plan.recipe} on {plan.task} · {plan.model}", plan.seeds, sizes=plan.sizes)
        live = not json and can_draw()
        stop = StopSignal(say=(lambda text: setattr(view, "warning", text)) if live else say)
        facts = {"recipe": plan.recipe, "task": plan.task, "model": plan.model, "command": plan.command}
        paused: list[Mapping[str, Any]] = []
        try:
            with stop, reporters(clients, plan.out, facts) as send, showing(view, live, json) as draw:
                for event in _events(plan, stop):
                    paused += [event] if event["kind"] == "paused" else []
                    emit(event)
                    draw(event)
                    send(event)
        except KeyboardInterrupt:
            return _stopped(plan, INTERRUPTED)
        if stop.reason() is not None:
            return _stopped(plan, TERMINATED if stop.reason() == "terminated" else INTERRUPTED)
        if paused:
            return _paused(plan, paused)
        finish(plan, emit, json, open_page)
    return 0


def _events(plan: Plan, stop: StopSignal) -> Iterator[dict[str, Any]]:
    from truegain.train.run import execute

    quiet_libraries()
    set_threads(plan)
    yield from execute(plan, stop)


def _stopped(plan: Plan, code: int) -> int:
    say(f"stopped; what was trained is kept in {plan.out}. To go on:")
    say(f"  {plan.command}")
    return code


def _paused(plan: Plan, events: list[Mapping[str, Any]]) -> int:
    for event in events:
        seed = f"seed {event['seed']}: " if len(plan.seeds) > 1 else ""
        say(
            f"{seed}the guard paused the run: at step {event['step']} gold had fallen below what it was; "
            f"step {event['best']} has the most. What was trained is kept in {plan.out}"
        )
    say("to go on without pausing, give the same command with --guard log; with --guard rollback it ends there:")
    say(f"  {plan.command}")
    return FAILED


def finish(plan: Plan, emit: Callable[[Any], None], json: bool, open_page: bool) -> None:
    """Write the report of a plan that was run, and print it."""
    from truegain import report
    from truegain.cli import reports

    with progress("building the report"):
        data = report.build(plan.out)
        page = report.write(plan.out, data)
    if json:
        emit({"kind": "report", "page": str(page), **data})
    else:
        console().print(report.render_terminal(data))
        models = sorted(plan.out.glob("checkpoints/step-*")) or sorted(plan.out.glob("seed-*/checkpoints/step-*"))
        if models:
            console().print(f"model: {models[-1]}", soft_wrap=True)
        console().print(f"page: {page}")
    if open_page:
        reports.open_page(page)


def set_threads(plan: Plan) -> int:
    """The number of threads of the run that is resumed, whose sums depend on it; else the fastest one."""
    return set_threads_in(plan.out if len(plan.seeds) == 1 else plan.out / f"seed-{plan.seeds[0]}")


def set_threads_in(first: Path) -> int:
    """The same for a folder with settings."""
    import torch

    from truegain.train.folder import read_settings
    from truegain.train.launch import best_threads

    if (first / "settings.json").exists():
        recorded = read_settings(first).get("threads")
        if isinstance(recorded, int) and recorded > 0:
            torch.set_num_threads(recorded)
            return recorded
    return best_threads()


def can_draw() -> bool:
    """Whether stdout is a terminal that can show the panel."""
    out = console()
    return out.is_terminal and not out.is_dumb_terminal and (out.encoding or "").lower().startswith("utf")


@contextlib.contextmanager
def showing(view: View, live: bool, quiet: bool) -> Iterator[Take]:
    """What draws a run's events: a panel if ``live``, else lines, or nothing if ``quiet``."""
    if live:
        from rich.live import Live

        with _no_control_echo(), Live(view, console=console(), refresh_per_second=4, transient=True):
            yield view.take
    else:
        lines = Lines(view)
        yield (lambda event: None) if quiet else lines.take


@contextlib.contextmanager
def _no_control_echo() -> Iterator[None]:
    """Keep the terminal from echoing ``^C``, which would push the panel up by a line and leave its head behind."""
    import termios

    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):
        yield
        return
    quiet = [*before]
    quiet[3] = before[3] & ~termios.ECHOCTL
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Lines:
    """Progress for logs and pipes: looks, notes and judgements at once, steps every few seconds."""

    def __init__(self, view: View, *, every: float = SECONDS_BETWEEN_LINES, clock: Any = time.monotonic) -> None:
        """``every``: seconds between lines about steps."""
        self._view = view
        self._every = every
        self._clock = clock
        self._said = clock()
        self._unsaid = False

    def take(self, event: Mapping[str, Any]) -> None:
        """Print what is worth a line; of an arm that ends, its last step too."""
        kind = event.get("kind")
        if kind in ("arm", "judge") and self._view.arm is not None and self._unsaid:
            self._print(_step_text(self._view.arm, self._clock()), self._view.arm.name, self._view.arm.seed)
        self._view.take(event)
        name, seed = str(event.get("arm", "trained")), int(event.get("seed", 0))
        if kind == "step" and self._view.arm is not None:
            self._unsaid = self._clock() - self._said < self._every
            if not self._unsaid:
                self._print(_step_text(self._view.arm, self._clock()), name, seed)
        elif kind == "arm":
            self._print("training", name, seed)
        elif kind == "eval":
            self._print(f"step {event.get('step')}, dev: {_look_text(event)}", name, seed)
        elif kind == "done":
            self._print(f"all arms are in {event.get('folder')}", name, seed)
        elif kind == "judge":
            pace = self._view.judging.pace(self._clock()) if self._view.judging else ""
            self._print(", ".join(part for part in (str(event.get("text", "")), pace) if part), "judging", seed)
        elif kind == "note":
            self._print(str(event.get("text", "")), name, seed)
        elif kind == "guard" and event.get("alarm"):
            self._print(alarm_text(event), name, seed)

    def _print(self, text: str, name: str, seed: int) -> None:
        self._said, self._unsaid = self._clock(), False
        many = f"seed {seed} · " if len(self._view.seeds) > 1 else ""
        print(printable(f"{many}{label(name)}: {text}"), file=sys.stdout, flush=True)


def _step_text(arm: Any, now: float) -> str:
    from truegain.cli.live import vitals

    recent = arm.rewards[-10:]
    reward = f"reward {sum(recent) / len(recent):.3f}" if recent else ""
    bound = f"/{arm.steps}" if arm.steps and arm.steps < 10**6 else ""
    rate = f"{arm.rate():.2f} s per step" if arm.rate() else ""
    left = arm.left(now)
    time_left = f"{duration(left)} left" if left is not None else ""
    share = f"{100 * arm.progress:.0f} %" if arm.progress is not None else ""
    parts = (f"step {arm.step}{bound}", share, reward, vitals(arm).replace("   ", ", "), rate, time_left)
    return ", ".join(part for part in parts if part)


def _look_text(event: Mapping[str, Any]) -> str:
    def known(name: str) -> bool:
        value = event.get(name)
        return isinstance(value, int | float)

    parts = []
    if known("gold"):
        span = (
            f" ({100 * event['gold_low']:.1f} to {100 * event['gold_high']:.1f})"
            if known("gold_low") and known("gold_high")
            else ""
        )
        parts.append(f"gold {100 * event['gold']:.1f} %{span}")
    if known("proxy"):
        parts.append(f"reward {event['proxy']:.3f}")
    if known("kl"):
        parts.append(f"KL {event['kl']:.3f}")
    return ", ".join(parts)


def dry(plan: Plan, *, json: bool) -> None:
    """Print what a plan would do, with one step measured on a throw-away copy."""
    with json_lines(json):
        from truegain.train.dry import dry_run

        quiet_libraries()
        with progress("choosing the number of threads") as shown:
            set_threads(plan)
            shown.begin("two trial steps")
            found = dry_run(plan)
    if json:
        print_json(found)
        return
    from truegain.report.escape import visible

    to = console()
    for title, lines in _sections(found).items():
        to.print(title, style="bold")
        for line in lines:
            to.print(f"  {line}")
    to.print("first prompt", style="bold")
    to.print(visible(found["prompt"], limit=4000).rstrip("\n"))
    to.print(f"{len(found['prompt_tokens'])} tokens: {' '.join(map(str, found['prompt_tokens'][:64]))}", style="dim")


def _sections(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a dry run found, by title, as lines."""
    from truegain.train.folder import size_text

    wide = max(map(len, found["settings"]), default=0)
    return {
        "composition": [f"{stage:18} {', '.join(names)}" for stage, names in found["composition"].items() if names],
        "columns that flow": found["columns"],
        "settings": [f"{path:{wide}}  {value}" for path, value in found["settings"].items()],
        "cost": [
            f"{found['parameters'] / 1e6:.2f} M parameters",
            f"about {size_text(found['memory_bytes'])} of memory",
            f"{found['seconds_per_step']:.2f} s per step",
            "reward and truth are one exact checker"
            if found["proxy_is_gold"]
            else "the reward is not the exact checker",
        ],
    }
