"""InT: self-proposed interventions, then reinforcement learning."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from truegain.core.forms import Decode, Fit, Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, exploration, objective
from truegain.recipes.grpo import grpo


@system(
    "credit",
    paper="arXiv:2601.14209",
    cite="InT 2026, self-proposed interventions",
    name="int",
    differs="steps are lines (paper: blank lines); by default the task's exact judge names the first wrong step, and "
    "the policy proposes what should stand there by trying, as the embedded policy cannot verify its own steps "
    "(judge=policy shows it the reference, as the paper does, in a wording of ours); the prefix is learned too, which "
    "the paper's notes leave open (mask_prefix); one correction per problem; the cosine falls to 0 (paper 0.1 of the "
    "peak); lr suits the tiny policy (paper 1e-6)",
)
def int_(
    judge: Literal["verdicts", "policy"] = "verdicts", continuations: int = 32, mask_prefix: bool = False
) -> tuple[Decode, Fit, Train]:
    """Correct the first wrong step of failed rollouts, learn prefix and correction, then train on the outcome.

    ``judge`` is ``verdicts`` (the task's) or ``policy`` (the model, shown the reference). A correction counts if one of
    ``continuations`` from it is right. ``mask_prefix`` learns the correction alone.
    """
    search = partial(exploration.splice_corrections, judge=judge, continuations=continuations, mask_prefix=mask_prefix)
    return (
        Decode(segment={"step": credit.by_step}, search=search, loop=Loop(steps=16, prompts=32, samples=4)),
        Fit(
            terms=(Term(surrogate=objective.negative_logp, weight=objective.token_mean),),
            loop=Loop(steps=32, prompts=64, lr=1e-4, warmup=3, decay="cosine", micro_tokens=4096),
        ),
        replace(grpo(), loop=Loop(prompts=32, samples=8, lr=1e-4)),
    )
