"""The live view: one compact panel, drawn from what `View.take` has seen. Text that the run brings is never markup."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeGuard

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from truegain.cli.judging import Judging
from truegain.cli.out import duration, printable

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK = 32
_RECENT = 10


def alarm_text(event: Mapping[str, Any]) -> str:
    """The guard's alarm in a sentence."""
    how = ", while the proxy rose" if event["alarm"] == "divergence" else ""
    return (
        f"guard: at step {event['step']} gold lies {100 * event['truegain/gold_gap']:.1f} points below step "
        f"{event['truegain/gold_best_step']}{how}"
    )


@dataclass
class Arm:
    """What is known of one arm of one seed. ``begun`` is the clock when its training began; earlier sittings count."""

    name: str
    seed: int
    steps: int | None = None
    max_seconds: float | None = None
    begun: float = 0.0
    step: int = 0
    progress: float | None = None
    last: dict[str, Any] = field(default_factory=dict)
    look: dict[str, Any] = field(default_factory=dict)
    rewards: list[float] = field(default_factory=list)
    golds: list[float] = field(default_factory=list)

    def share(self, now: float) -> float | None:
        """How much of its budget is spent, 0 to 1: by steps, seconds or its own report, whichever is furthest."""
        known = [self.progress] if self.progress is not None else []
        if self.steps:
            known.append(self.step / self.steps)
        if self.max_seconds:
            known.append((now - self.begun) / self.max_seconds)
        return min(1.0, max(known)) if known else None

    def left(self, now: float) -> float | None:
        """Seconds to go: the nearer of the last step and the end of the time."""
        known = [self.max_seconds - (now - self.begun)] if self.max_seconds else []
        if self.steps and self.rate():
            known.append((self.steps - self.step) * self.rate())
        return max(0.0, min(known)) if known else None

    def rate(self) -> float:
        """Seconds per step, over the last ones; 0.0 while unknown."""
        return float(self.last.get("seconds") or 0.0)


class View:
    """Collects a run's events; ``clock`` tells seconds."""

    def __init__(
        self,
        title: str,
        seeds: Sequence[int],
        *,
        sizes: Mapping[str, int] | None = None,
        clock: Any = time.monotonic,
    ) -> None:
        """``title`` names recipe, task and model; ``sizes`` are those of the judgement, as in a plan."""
        self.title = printable(title)
        self.seeds = tuple(seeds)
        self.notice = ""
        self.warning = ""
        self.doing = "loading"
        self.done: list[str] = []
        self.arm: Arm | None = None
        self.last: Arm | None = None
        self.judging: Judging | None = None
        self._sizes = sizes
        self._clock = clock
        self._began = self._heard = clock()

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event of `truegain.train.run.execute`."""
        name, seed = str(event.get("arm", "trained")), int(event.get("seed", 0))
        kind = event.get("kind")
        if kind != "judge":
            self.judging = None
        if kind == "arm":
            self._finish_arm()
            begun = self._clock() - float(event.get("spent") or 0.0)
            self.arm = Arm(name, seed, event.get("steps"), event.get("max_seconds"), begun)
            self.doing, self.notice = "training", ""
        elif kind == "note":
            self.notice = printable(str(event.get("text", "")))[:300]
        elif kind == "guard" and event.get("alarm"):
            self.notice = alarm_text(event)
        elif kind == "judge":
            self._finish_arm()
            text = printable(str(event.get("text", "")))[:120]
            if self.judging is None or self.judging.arm != name:
                # The first part of an arm is told when it is done: it began with what was heard before.
                self.judging = Judging(name, begun=self._heard, sizes=self._sizes)
            self.judging.part(text, self._clock())
            self.doing = f"judging {text} done"
        elif kind == "done":
            self._finish_arm()
            self.done.append(f"seed {seed} done")
            self.doing = "finishing"
        elif self.arm is not None and kind in ("step", "eval"):
            self._line(self.arm, kind, event)
        self._heard = self._clock()

    def _line(self, arm: Arm, kind: str, event: Mapping[str, Any]) -> None:
        arm.step = int(event.get("step", arm.step))
        if kind == "eval":
            arm.look = dict(event)
            _add(arm.golds, event.get("gold"))
            return
        arm.last = dict(event)
        arm.progress = event.get("progress", arm.progress)
        _add(arm.rewards, event.get("reward"))

    def _finish_arm(self) -> None:
        if self.arm is not None:
            self.done.append(f"{label(self.arm.name)} {self.arm.step} steps")
            self.last, self.arm = self.arm, None

    def __rich__(self) -> RenderableType:
        """The panel."""
        rows: list[RenderableType] = [self._head()]
        now, shown = self._clock(), self.arm or self.last
        if self.arm is not None:
            rows.append(bar(self.arm.share(now), now - self.arm.begun, self.arm.left(now), now))
        elif self.judging is not None:
            judging = self.judging
            rows.append(bar(judging.share(now), now - judging.begun, judging.left(now), now))
        if shown is not None:
            # What training came to stays in sight while it is judged.
            whose = "" if self.arm else f"{label(shown.name)} after {shown.step} steps"
            rows += [Text(whose, style="dim", no_wrap=True), _numbers(shown)]
        rows += [Text(line, style=style, overflow="ellipsis", no_wrap=True) for line, style in self._foot()]
        return Panel(
            Group(*rows), title=Text(self.title, style="bold"), title_align="left", padding=(0, 1), border_style="cyan"
        )

    def _head(self) -> Table:
        arm, grid = self.arm, Table.grid(expand=True)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(justify="right", no_wrap=True)
        left, right = self.doing, f"{duration(self._clock() - self._began)} in all"
        if arm is not None:
            left = label(arm.name)
            if len(self.seeds) > 1:
                place = self.seeds.index(arm.seed) + 1 if arm.seed in self.seeds else "?"
                left += f" · seed {arm.seed} ({place} of {len(self.seeds)})"
            bound = f"/{arm.steps}" if arm.steps and not (arm.max_seconds and arm.steps >= 10**6) else ""
            rate = f" · {arm.rate():.2f} s per step" if arm.rate() else ""
            right = f"step {arm.step}{bound}{rate}"
        elif self.judging is not None:
            right = self.judging.rate() or right
        grid.add_row(Text(left, style="bold green"), Text(right))
        return grid

    def _foot(self) -> list[tuple[str, str]]:
        found = [("done: " + ", ".join(self.done[-6:]), "dim")] if self.done else []
        found += [(self.notice, "dim")] if self.notice else []
        return found + ([(self.warning, "bold yellow")] if self.warning else [])


def bar(share: float | None, used: float, left: float | None, now: float) -> Table:
    """A bar over the whole width, with the seconds used and left; it pulses while the share is unknown."""
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    clock = f"{duration(used)} used" + (f", {duration(left)} left" if left is not None else "")
    if share is None:
        grid.add_row(ProgressBar(pulse=True, animation_time=now), Text(clock))
    else:
        grid.add_row(ProgressBar(total=1.0, completed=share), Text(f"{100 * share:3.0f} %  {clock}"))
    return grid


def _numbers(arm: Arm) -> Table:
    """Reward and gold with their history, then the vital signs on one line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="crop")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    recent = arm.rewards[-_RECENT:]
    if recent or arm.name == "trained":
        mean = f"{sum(recent) / len(recent):.3f}" if recent else "-"
        over = f"last {len(recent)} steps" if recent else ""
        grid.add_row("reward", Text(mean, "bold"), Text(sparkline(arm.rewards), "blue"), Text(over, "dim"))
    gold, low, high = (arm.look.get(k) for k in ("gold", "gold_low", "gold_high"))
    if arm.golds or arm.name == "trained":
        span = f"95 %: {100 * low:.0f} to {100 * high:.0f}" if _number(low) and _number(high) else ""
        share = f"{100 * gold:.1f} %" if _number(gold) else "-"
        grid.add_row("gold on dev", Text(share, "bold"), Text(sparkline(arm.golds), "green"), Text(span, "dim"))
    both = Table.grid()
    both.add_row(grid)
    both.add_row(Text(vitals(arm), style="dim", no_wrap=True, overflow="ellipsis"))
    return both


def vitals(arm: Arm) -> str:
    """KL, length, entropy, loss and learning rate, as far as they are known."""
    kl = arm.look.get("kl") if arm.look.get("step") else None
    length = arm.last.get("completions/mean_length", arm.look.get("mean_length"))
    entropy = arm.last.get("entropy", arm.look.get("entropy"))
    parts = [
        f"KL {kl:.3f}" if _number(kl) else "",
        f"length {length:.1f}" if _number(length) else "",
        f"entropy {entropy:.3f}" if _number(entropy) else "",
        f"loss {arm.last['loss']:.3f}" if _number(arm.last.get("loss")) and not arm.rewards else "",
        f"lr {arm.last['learning_rate']:.1e}" if _number(arm.last.get("learning_rate")) else "",
    ]
    return "   ".join(part for part in parts if part)


def sparkline(values: Sequence[float], width: int = _SPARK) -> str:
    """The values as blocks between their lowest and highest, averaged into at most ``width``.

    >>> sparkline([0, 1, 2, 3])
    '▁▃▅█'
    >>> sparkline([2.0, 2.0])
    '▁▁'
    """
    if len(values) > width:
        edges = [len(values) * i // width for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[int((value - low) * scale)] for value in values)


def label(arm: str) -> str:
    """An arm's name for people.

    >>> label("control:more-sft")
    'control more-sft'
    """
    return printable(arm).replace("control:", "control ")


def _add(series: list[float], value: Any) -> None:
    if _number(value):
        series.append(float(value))


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0
