from __future__ import annotations

import re
from random import Random

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("edit", cite=("arXiv:2410.09918", "github.com/facebookresearch/dualformer"))
def drop_trace(
    text: str,
    rng: Random,
    *,
    chances: tuple[float, float, float, float] = (0.1667, 0.1667, 0.1667, 0.05),
    clause: str = r"[^\n]+\n?",
    closes: str = r"close\b",
    costs: str = r" c[0-9]+",
    share: tuple[int, int] = (10, 40),
    on: int = 1,
    independent: bool = False,
    opening: str = "<think>",
    closing: str = "</think>",
) -> str:
    r"""Leave out a random part of the trace each time an example is learned, at one of four levels; never of the plan.

    ``chances`` are those of levels 1 to 4; what is left of 1 keeps the whole trace. With the trace the text between
    ``opening`` and ``closing``, and its clauses the matches of ``clause``:

        1  clauses that begin with a match of ``closes`` are gone
        2  and of the others all matches of ``costs``
        3  level ``on`` (1 or 2), and of its clauses a share of percent, drawn evenly from ``share``, whichever they are
        4  the trace is gone, marks and all

    The share of level 3 is rounded down; ``independent`` drops each clause with that chance instead. What lies between
    clauses goes with the one before it; white space that a trace did not end with is taken off its end. A text without
    the marks has no trace and stays as it is. So one model learns to answer at once, with a short trace, or with a long
    one; the first token decides (`force_first`).

    Raises SettingError for chances that are negative or add up to more than 1, a share outside 0 to 100 or a level
    other than 1 and 2. Source: Su et al. 2024 (Dualformer), section 3.2, and its published code.

    >>> text = "<think>create 1 0 c1 c3\nclose 1 0 c1 c3\n</think>plan 1 0"
    >>> drop_trace(text, Random(0), chances=(0, 1, 0, 0))
    '<think>create 1 0\n</think>plan 1 0'
    """
    low, high = share
    if min(chances) < 0 or sum(chances) > 1 + 1e-9 or not 0 <= low <= high <= 100 or on not in (1, 2):
        raise SettingError(
            f"drop_trace: chances={chances} are 0 or more and 1 in all at most, share={share} rises from 0 to 100 "
            f"percent, on={on} is 1 or 2"
        )
    luck, level = rng.random(), 0
    for n, reached in enumerate((sum(chances[: k + 1]) for k in range(4)), 1):
        if luck < reached:
            level = n
            break
    begin, end = text.find(opening), text.find(closing)
    if level == 0 or begin < 0 or end < begin:
        return text
    before, body, after = text[:begin], text[begin + len(opening) : end], text[end + len(closing) :]
    if level == 4:
        return before + after
    starts = [found.start() for found in re.finditer(clause, body)]
    parts = [body[a:b] for a, b in zip(starts, [*starts[1:], len(body)], strict=True)]
    head = body[: starts[0]] if starts else body
    parts = [part for part in parts if not re.match(closes, part)]
    if level == 2 or (level == 3 and on == 2):
        parts = [re.sub(costs, "", part) for part in parts]
    if level == 3:
        percent = rng.randint(low, high)
        if independent:
            parts = [part for part in parts if rng.random() >= percent / 100]
        else:
            gone = set(rng.sample(range(len(parts)), len(parts) * percent // 100))
            parts = [part for n, part in enumerate(parts) if n not in gone]
    kept = head + "".join(parts)
    return before + opening + (kept if body[-1:].isspace() else kept.rstrip()) + closing + after
