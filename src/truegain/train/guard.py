"""The gold-gap guard of our own loop: what it says is a function of the looks that the run folder holds.

It keeps no state of its own, so a run that was killed and resumed is guarded as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from truegain.core.errors import DataError, SettingError, nearest
from truegain.core.forms import Train
from truegain.methods.guard import GapLook, GoldGap, gold_gap
from truegain.policy.policy import Policy
from truegain.train import checkpoint
from truegain.train.folder import RunFolder, read_lines
from truegain.train.truth import LOOKS

ACTIONS = ("log", "pause", "rollback")
LEVEL = 0.05


@dataclass
class Guard:
    """Watches the run in a folder; ``action`` is one of `ACTIONS`, ``level`` that of `gold_gap`."""

    folder: RunFolder
    action: str
    level: float = LEVEL
    _read: tuple[tuple[int, int], GoldGap] | None = field(default=None, repr=False)

    def judged(self) -> GoldGap:
        """What the test says of all looks so far."""
        place = self.folder.path / LOOKS
        if not place.exists():
            return GoldGap(None, None, ())
        found = place.stat()
        seen = (found.st_size, found.st_mtime_ns)
        if self._read is None or self._read[0] != seen:
            self._read = (seen, _judged(read_lines(place), self.level))
        return self._read[1]

    def line(self) -> dict[str, Any]:
        """What the log says of the last look: ``{"kind": "guard", "step": n, ...}``."""
        look = self.judged().looks[-1]
        return {
            "kind": "guard",
            "step": look.step,
            "truegain/gold_gap": look.gap,
            "truegain/gold_evidence": look.evidence / look.needed,
            "truegain/gold_alarm": int(look.alarm),
            "truegain/gold_best_step": look.best,
            "low": look.low,
            "alarm": look.kind,
            "level": self.level,
            "action": self.action,
        }

    def alarm(self) -> GapLook | None:
        """The first look that raised an alarm."""
        return next((look for look in self.judged().looks if look.alarm), None)

    def reason(self) -> str | None:
        """Why the run is to stop: there was an alarm, and more is to be done than to log it."""
        alarm = None if self.action == "log" else self.alarm()
        return None if alarm is None else f"the guard raised an alarm at step {alarm.step}"

    def until(self, stop: Callable[[], str | None]) -> Callable[[], str | None]:
        """``stop``, or the guard's own reason."""
        return lambda: stop() or self.reason()

    def kept(self) -> Collection[int]:
        """The steps whose checkpoints must stay: that of the look with the most gold."""
        best = self.judged().best
        return () if best is None else (best,)


def guarded(form: Train, action: str) -> Train:
    """The form with a checkpoint at every look. Raises SettingError for an unknown action, or a form without looks."""
    if action not in ACTIONS:
        raise SettingError(f"--guard {action!r}{nearest(action, set(ACTIONS))}: it is one of {', '.join(ACTIONS)}")
    loop = form.loop
    if not loop.eval_every:
        raise SettingError("--guard needs looks at dev: set loop.eval_every above 0")
    if loop.save_every and loop.eval_every % loop.save_every == 0:
        return form
    return replace(form, loop=loop.model_copy(update={"save_every": loop.eval_every}))


def roll_back(guard: Guard, policy: Policy, base: Policy) -> int:
    """Put the weights of the look with the most gold into the policy, and return its step.

    If its checkpoint is gone or damaged, the best of the others is taken; the model before training is always there.
    Optimiser, roles and data order are not touched: nothing is trained after it.
    """
    looks = [look for look in guard.judged().looks if not math.isnan(look.gold)]
    for look in sorted(looks, key=lambda look: (-look.gold, look.step)):
        place = guard.folder.path / "checkpoints" / f"step-{look.step:06d}"
        if look.step == 0:
            weights = base.weights()
        elif checkpoint.damage(place) is None:
            weights = Policy.load(place, dtype=str(policy.dtype).removeprefix("torch.")).weights()
        else:
            continue
        policy.load_weights(weights)
        return look.step
    raise DataError(f"{guard.folder.path} has no whole checkpoint to roll back to: go on with --guard log")


def set_aside(folder: RunFolder, step: int) -> None:
    """Rename checkpoints after the step that was judged to ``past-alarm-step-N``: the newest is then that model.

    Nothing is deleted, and doing it twice changes nothing.
    """
    checkpoint.set_aside_after(folder.path, step, name="past-alarm")


def _judged(lines: list[dict[str, Any]], level: float) -> GoldGap:
    numbers: dict[Any, int] = {}
    step = np.array([float(line["step"]) for line in lines])
    problem = np.array([float(numbers.setdefault(line["problem"], len(numbers))) for line in lines])
    gold, proxy = (np.array([_number(line.get(name)) for line in lines]) for name in ("gold", "proxy"))
    return gold_gap(gold, proxy, step, problem, level=level)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
