from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.length._reflections import REFLECTIONS, pattern

_SENTENCE_END = re.compile(r"[.!?\n]")


@component("segment", cite=("arXiv:2508.10293", "arXiv:2509.25827"))
def by_reflection(
    text: str,
    spans: Sequence[tuple[int, int]],
    *,
    words: tuple[str, ...] = REFLECTIONS,
    skip: int = 1000,
    gap: int = 400,
    opening: str = "<think>",
    closing: str = "</think>",
) -> list[int]:
    r"""Cut the thought where it turns to reflect: a new step begins with the sentence that holds a reflection word.

    ``words`` are whole words or phrases, in any case. Those in the first ``skip`` characters of the thought are not
    looked at, nor those less than ``gap`` characters behind the place where the last step began. A step begins behind
    the sentence or line that ended before the word, at the word itself where none did. The thought lies between
    ``opening`` and ``closing``, either of which may be missing; what comes after ``closing``, it included, is outside
    and gets -1: an answer is no step, so that it is never called redundant. A token belongs to the step in which it
    begins; one with the span (-1, -1), which the policy did not write, gets -1.

    Raises SettingError for no words, or a ``skip`` or ``gap`` below 0. Source: Yue et al. 2025 (VSRM), section 3.1 and
    its published code, which has ``skip`` 1000 and ``gap`` 400; Jiang et al. 2025 (DECS), which has neither.

    >>> by_reflection("a=1\nwait, b\nc</think>1", [(0, 4), (4, 8), (8, 12), (12, 13), (13, 21), (21, 22)], skip=0)
    [0, 1, 1, 1, -1, -1]
    """
    if not words or min(skip, gap) < 0:
        raise SettingError(f"by_reflection: words={words} must name one at least, skip={skip} and gap={gap} 0 or more")
    end = text.find(closing) if closing and closing in text else len(text)
    # A marker behind the thought's end opens nothing.
    begin = text.find(opening, 0, end) + len(opening) if opening and opening in text[:end] else 0
    ends = [hit.end() for hit in _SENTENCE_END.finditer(text, begin, end)]
    starts, last = [0], None
    for found in pattern(words).finditer(text, begin, end):
        place = found.start()
        if place - begin < skip or (last is not None and place - last < gap):
            continue
        before = bisect_right(ends, place)
        start = last = ends[before - 1] if before else place
        if text[begin:start].strip() and start > starts[-1]:
            starts.append(start)
    return [bisect_right(starts, at) - 1 if 0 <= at < end else -1 for at, _ in spans]
