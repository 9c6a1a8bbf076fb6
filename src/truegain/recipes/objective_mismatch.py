"""Objective mismatch: the links between reward model, reward and evaluation, measured instead of assumed."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Measure
from truegain.core.system import system
from truegain.methods import evaluation


@system(
    "reward",
    paper="arXiv:2311.00168",
    cite="Lambert and Calandra 2023, The alignment ceiling: objective mismatch in RLHF",
    differs="the paper is a position without an algorithm; what is measured, and that a link counts as broken only "
    "where chance would do so in 5 of 100 runs (alpha; 1 takes every negative correlation), is ours",
)
def objective_mismatch(
    downstream: tuple[str, ...] = ("gold",), alpha: float = 0.05, smooth: float = 0.15, across: bool = False
) -> Measure:
    """Whether what is wanted still rises with the reward, over logs of runs; or better reward models give better runs.

    Reads the log.jsonl of one run or several. ``downstream`` names the metrics of its looks that are held against the
    proxy; ``alpha`` and ``smooth`` are those of `evaluation.objective_links`. With ``across`` it reads a line per run
    or reward model instead: ``benchmark``, such as the reward model's accuracy, and ``outcome``, such as the best gold.
    """
    if across:
        return Measure(evaluation.score_correlation)
    return Measure(partial(evaluation.objective_links, downstream=downstream, alpha=alpha, smooth=smooth))
