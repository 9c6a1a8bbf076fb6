"""Words by which a reasoner turns back on what it wrote, and how they are found in a text."""

from __future__ import annotations

import functools
import re

REFLECTIONS = (
    "wait", "but", "alternatively", "alternative", "however", "hmm", "oh", "hold on", "another thought", "verify",
    "think again", "check", "double-check", "let me double-check", "looking back", "no back", "back",
)  # fmt: skip
"""Words of ARLCP's and VSRM's lists that speak of turning back, and the embedded tasks' ``back`` and ``no back``."""


@functools.lru_cache(maxsize=64)
def pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the words or phrases as whole words, in any case; the longest one that fits is taken."""
    ordered = sorted(words, key=len, reverse=True)
    return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, ordered)) + r")(?![\w-])", re.IGNORECASE)


def thought(text: str, opening: str, closing: str) -> str:
    """What stands between the marks; from the start, or to the end, where one is missing."""
    before = text.partition(closing)[0] if closing else text
    return before.partition(opening)[2] if opening and opening in before else before
