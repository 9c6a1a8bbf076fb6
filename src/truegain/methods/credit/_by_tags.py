from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from truegain.core.component import component

KEEP, SWITCH, GOAL, ACTION = 0, 1, 2, 3
_TAGS = re.compile(r"<(switch|subgoal|action)>((?:(?!</?(?:switch|subgoal|action)>).)*)</\1>", re.DOTALL)


@component("segment", cite=("arXiv:2602.16165", "JonP07/HiPER-agent hier_mask.py"))
def by_tags(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Number the parts of an agent's turns: 0 a decision to keep the subgoal, 1 to switch, 2 the subgoal, 3 the action.

    A turn, tokens of the policy without a tool's between them, is written ``<switch>SWITCH|KEEP</switch>
    <subgoal>..</subgoal><action>..</action>``. The first of each tag counts, and what stands inside it; everything else
    is -1. A turn without a readable action is all action, apart from its other parts; one without a decision keeps.
    What a tool wrote, with the span (-1, -1), never completes a tag. A token belongs to where it begins.

    >>> text = "<switch>SWITCH</switch><subgoal>key</subgoal><action>up</action>"
    >>> by_tags(text, [(0, 8), (8, 14), (14, 32), (32, 35), (35, 53), (53, 55), (55, 64)])
    [-1, 1, -1, 2, -1, 3, -1]
    """
    out = [-1] * len(spans)
    turns = (list(run) for own, run in groupby(range(len(spans)), key=lambda n: spans[n][0] >= 0) if own)
    for tokens in turns:
        start, end = spans[tokens[0]][0], max(spans[n][1] for n in tokens)
        found: dict[str, re.Match[str]] = {}
        for tag in _TAGS.finditer(text, start, end):
            found.setdefault(tag[1], tag)
        decided = "switch" in found and found["switch"][2].strip().upper() == "SWITCH"
        part = {"switch": SWITCH if decided else KEEP, "subgoal": GOAL, "action": ACTION}
        for n in tokens:
            inside = [name for name, tag in found.items() if tag.start(2) <= spans[n][0] < tag.end(2)]
            if inside:
                out[n] = part[inside[0]]
            elif "action" not in found:
                out[n] = ACTION
    return out
