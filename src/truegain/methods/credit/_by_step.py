from __future__ import annotations

from collections.abc import Sequence

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("segment", cite="truegain")
def by_step(
    text: str, spans: Sequence[tuple[int, int]], *, delimiter: str = "\n", closing: str = "</think>"
) -> list[int]:
    r"""Count reasoning steps: ``delimiter`` ends one, and so does ``closing``: the answer is a step of its own.

    A blank piece belongs to the step before it, if any. A token belongs to the step in which it begins; a token with
    the span (-1, -1), which the policy did not write, is outside and gets -1. ``closing=""`` ends nothing.
    Raises SettingError for an empty delimiter.

    >>> by_step("a\nb</think>c", [(0, 1), (1, 2), (2, 3), (3, 11), (11, 12)])
    [0, 0, 1, 1, 2]
    """
    if not delimiter:
        raise SettingError("segment by_step: delimiter must not be empty")
    number: list[int] = []
    count, at, written = 0, 0, False
    while at < len(text):
        found = [(place, len(mark)) for mark in (delimiter, closing) if mark and (place := text.find(mark, at)) >= 0]
        place, size = min(found, default=(len(text), 0))
        # What is only marks and white space is no step of its own.
        if text[at:place].strip():
            count += int(written)
            written = True
        number += [count] * (place + size - at)
        at = place + size
    number.append(count)
    return [number[start] if start >= 0 else -1 for start, _ in spans]
