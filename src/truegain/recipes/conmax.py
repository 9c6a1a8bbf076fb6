"""ConMax: a compressor learns to keep what makes a reader sure of the answer; its short traces are then learned."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from truegain.core.forms import Decode, Fit, Loop, Role, Study, Term, Train
from truegain.core.system import system
from truegain.methods import credit, length, objective
from truegain.methods.length import REWRITING
from truegain.recipes.sft import sft


@system(
    "length",
    paper="arXiv:2601.04973",
    cite="ConMax 2026",
    differs="no official code; the weight of the trace (beta) and the clip are not known: 0.1 and 0.2; the reasoner is "
    "the policy before training (paper: another, larger model: --set role.reasoner.source=FOLDER), which is also the "
    "reference of the penalty; its traces are drawn during training, not beforehand; the loop's own first draw is "
    "dropped, so keep loop.samples at 1; an empty trace gets its group's smallest reward; lr suits the tiny policy "
    "(paper 1e-6 and 5e-6), which cannot rewrite: use a model that follows instructions, and its template",
)
def conmax(
    beta: float = 0.1,
    candidates: int = 8,
    template: str = REWRITING,
    clip: float = 0.2,
    kl: float = 1e-3,
) -> tuple[Train, Decode, Study, Fit]:
    """GRPO on rewriting traces, rewarded by a frozen reader's certainty of the answer; no length is rewarded as such.

    ``beta`` weighs how natural the short trace is to the reader, ``candidates`` rewritings of a trace are compared,
    ``template`` asks for them (``{prompt}``, ``{trace}``). ``clip`` bounds the ratio, ``kl`` weighs the penalty to the
    policy before training. Then the compressor shortens right traces of the reasoner, the reasoner finishes them, and
    the model that the recipe began with learns the result.
    """
    surrogates: tuple[Any, ...] = (partial(objective.ppo_clip, clip_low=clip, clip_high=clip),)
    if kl > 0:
        surrogates = (*surrogates, partial(objective.kl_to_reference, beta=kl))
    compressor = Train(
        resample=partial(length.rewrite_traces, candidates=candidates, template=template),
        probe=length.read_by_reasoner,
        reward=partial(length.confidence_kept, beta=beta),
        terms=(Term(credit=credit.group_normalise, surrogate=surrogates, weight=objective.sequence_mean),),
        roles={"reasoner": Role(source="init", fills="ref_logp")},
        loop=Loop(samples=1, lr=1e-4),
    )
    compress = Decode(
        search=partial(length.compress_traces, template=template),
        roles={"reasoner": Role(source="base", fills="ref_logp")},
        loop=Loop(steps=20, prompts=16),
    )
    return compressor, compress, Study(length.begin_anew), replace(sft(), loop=Loop(steps=100, lr=1e-4, warmup=10))
