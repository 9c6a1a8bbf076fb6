from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("segment", cite="arXiv:2601.20649")
def by_share(text: str, spans: Sequence[tuple[int, int]], *, parts: int = 4) -> list[int]:
    """Cut a completion into ``parts`` steps of equal length, as nearly as its tokens allow.

    The n-th of N tokens that the policy wrote belongs to step ``n * parts // N``; with fewer tokens than parts each one
    is a step. A token with the span (-1, -1), which the policy did not write, is outside and gets -1. Raises
    SettingError for less than one part. Source: P2S, the steps of its path faithfulness.

    >>> by_share("abcde", [(0, 1), (1, 2), (-1, -1), (2, 3), (3, 5)], parts=2)
    [0, 0, -1, 1, 1]
    """
    if parts < 1:
        raise SettingError(f"segment by_share: parts must be 1 or more, not {parts!r}")
    own = [int(start >= 0) for start, _ in spans]
    count = sum(own)
    number = min(parts, count)
    return [(n - 1) * number // count if mine else -1 for n, mine in zip(accumulate(own), own, strict=True)]
