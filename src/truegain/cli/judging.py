"""How far the judgement of an arm is. Its parts are told when they are done; their sizes are known beforehand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from truegain.cli.out import duration

HEATS = (0.0, 0.3, 0.6, 1.0)
"""`truegain.train.truth.TEMPERATURES`, repeated here because that room imports torch; a test compares them."""


@dataclass
class Judging:
    """Completions of one arm's judgement, drawn and to come; ``sizes`` as in a plan. Seconds are of the same clock."""

    arm: str
    begun: float
    sizes: Mapping[str, int] | None = None
    done: int = 0
    told: float = 0.0
    chosen: float | None = None

    def part(self, text: str, now: float) -> None:
        """Count a finished part, ``ARM: dev at temperature 0.3``; other texts count nothing."""
        found = re.search(r"(dev|test) at temperature (\d\S*)$", text)
        if not found or not self.sizes:
            return
        split, heat = found[1], float(found[2])
        if split == "test" and self.chosen is None:
            self.chosen = heat
        self.done += self._size(split, heat)
        self.told = now

    def _size(self, split: str, heat: float) -> int:
        assert self.sizes is not None
        many = self.sizes["samples"]
        return self.sizes[split] * (1 if heat == 0 else max(2, many // 2) if split == "dev" else many)

    def total(self) -> int | None:
        """Completions in all: dev at every temperature, then test at the one that dev chose and at 1.

        Until test is opened the choice is not known, and is taken to be greedy: one completion a problem.
        """
        if not self.sizes:
            return None
        test = {self.chosen or 0.0, 1.0}
        return sum(self._size("dev", heat) for heat in HEATS) + sum(self._size("test", heat) for heat in test)

    def share(self, now: float) -> float | None:
        """How much of it is drawn, 0 to 1: counted at the end of a part, and guessed by the pace so far in between."""
        total, used = self.total(), self.told - self.begun
        if not total or self.done >= total:
            return 1.0 if total else None
        guessed = self.done * (now - self.told) / used if used > 0 else 0.0
        return min(0.99, (self.done + guessed) / total)

    def rate(self) -> str:
        """``310 completions per second``, as of the last part."""
        used = self.told - self.begun
        if not self.done or used <= 0:
            return ""
        pace = self.done / used
        return f"{pace:,.0f} completions per second" if pace >= 10 else f"{pace:.1f} completions per second"

    def left(self, now: float) -> float | None:
        """Seconds to go at the pace so far."""
        total, used = self.total(), self.told - self.begun
        if not total or not self.done or used <= 0:
            return None
        return max(0.0, (total - self.done) * used / self.done - (now - self.told))

    def pace(self, now: float) -> str:
        """Rate and time left in words; the time only while there is something to come."""
        left = self.left(now) if self.done != self.total() else None
        parts = (self.rate(), f"{duration(left)} left" if left is not None else "")
        return ", ".join(part for part in parts if part)
