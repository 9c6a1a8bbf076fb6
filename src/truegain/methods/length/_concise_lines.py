from __future__ import annotations

from typing import Any

from truegain.core.component import component
from truegain.core.types import Rollout
from truegain.methods.length._reflections import REFLECTIONS, pattern, thought


@component("score", cite="truegain", fills="conciseness")
def concise_lines(
    problem: Any,
    rollout: Rollout,
    *,
    words: tuple[str, ...] = REFLECTIONS,
    least: float = 0.1,
    opening: str = "<think>",
    closing: str = "</think>",
) -> float:
    """How concise the thought is, by rule: the share of its lines that neither reflect nor repeat an earlier line.

    At least ``least``, as the scores of CRF's judge begin at 0.1; 1 for a thought without a line. A stand-in, without a
    model, for a reward model of conciseness (`conciseness_of_model`): it sees repetition and words, not relevance.

    >>> from truegain.core.types import Problem
    >>> row = Rollout(Problem("a", "a"), (), (), (), "<think>1:1\\n2:12\\n2:12\\ncheck 12 ok</think>", "eos", ())
    >>> concise_lines(row.problem, row)
    0.5
    """
    lines = [line.strip() for line in thought(rollout.text, opening, closing).splitlines() if line.strip()]
    if not lines:
        return 1.0
    new = dict.fromkeys(line for line in lines if not (words and pattern(words).search(line)))
    return max(least, len(new) / len(lines))
