"""A trace as steps and thoughts: lines, and runs of lines of which the first one turns to something else."""

from __future__ import annotations

from dataclasses import dataclass

from truegain.core.errors import SettingError
from truegain.core.types import Rollout
from truegain.methods.length._reflections import pattern


@dataclass(frozen=True)
class Cutting:
    """How a text is cut: ``boundary`` ends a step, a step that begins with one of ``words`` begins a thought.

    The trace lies between ``opening`` and ``closing``, either of which may be missing.
    """

    words: tuple[str, ...]
    boundary: str = "\n"
    opening: str = "<think>"
    closing: str = "</think>"

    def __post_init__(self) -> None:
        """Raise SettingError without words or a boundary."""
        if not self.words or not self.boundary:
            raise SettingError(f"words={self.words} must name one at least, and boundary={self.boundary!r} be a text")

    def bounds(self, text: str) -> tuple[int, int]:
        """Where the trace begins and ends in the text."""
        end = text.find(self.closing) if self.closing and self.closing in text else len(text)
        begin = text.find(self.opening, 0, end) if self.opening else -1
        return (begin + len(self.opening) if begin >= 0 else 0), end

    def steps(self, text: str) -> list[int]:
        """The character at which each step of the trace begins; steps of white space alone are none."""
        begin, end = self.bounds(text)
        starts, at = list[int](), begin
        while at < end:
            stop = text.find(self.boundary, at, end)
            stop = end if stop < 0 else stop + len(self.boundary)
            if text[at:stop].strip():
                starts.append(at)
            at = stop
        return starts

    def turns(self, text: str, start: int) -> bool:
        """True if the step at this character begins with one of the words."""
        end = text.find(self.boundary, start)
        line = text[start : end if end >= 0 else len(text)].lstrip()
        found = pattern(self.words).match(line)
        return found is not None

    def thoughts(self, text: str) -> list[int]:
        """The character at which each thought begins, the first one with the trace."""
        steps = self.steps(text)
        return [start for n, start in enumerate(steps) if n == 0 or self.turns(text, start)]


def verdict(rollout: Rollout) -> float:
    """1 for a right answer, 0 for a wrong one or none that was judged."""
    return float("abstained" not in rollout.facts and float(rollout.facts.get("correct", 0.0)) >= 0.5)
