from __future__ import annotations

from typing import Any

from truegain.core.component import component
from truegain.core.types import Rollout
from truegain.methods.length._reflections import REFLECTIONS, pattern, thought


@component("score", cite=("arXiv:2602.12113", "github.com/ZeweiYu1/ARLCP"), fills="reflections")
def count_reflections(
    problem: Any,
    rollout: Rollout,
    *,
    words: tuple[str, ...] = REFLECTIONS,
    opening: str = "<think>",
    closing: str = "</think>",
) -> float:
    """How often the thought turns back: reflection words in it, whole ones, in any case.

    The thought lies between ``opening`` and ``closing``, either of which may be missing. A phrase counts once, not by
    its words. No words count nothing. Source: Yu et al. 2026 (ARLCP), its list of words.

    >>> from truegain.core.types import Problem
    >>> row = Rollout(Problem("a", "a"), (), (), (), "<think>Wait, wait. But hold on: awaits</think>but", "eos", ())
    >>> count_reflections(row.problem, row)
    4.0
    """
    if not words:
        return 0.0
    return float(sum(1 for _ in pattern(words).finditer(thought(rollout.text, opening, closing))))
