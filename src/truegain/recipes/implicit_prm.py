"""Implicit PRM: a language model trained on outcomes rewards every step, and chooses the best of n."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Decode, Fit, Loop, Role, Term
from truegain.core.system import system
from truegain.methods import credit, objective, reward


def implicit_roles(model: str) -> dict[str, Role]:
    """Roles by which a folder that `implicit_prm` left gives step rewards beside a policy; its reference is the start.

    Use with the probe `reward.implicit_steps`.
    """
    return {
        "prm": Role(source=model, fills="rm_logp"),
        "prm_reference": Role(source="init", fills="rm_ref_logp"),
    }


@system(
    "reward",
    paper="arXiv:2412.01981",
    cite="Yuan et al. 2024, Free Process Rewards without Process Labels",
    differs="the cross-entropy form (`preference.dpo` on pairs is the other that is here; not NCA, KTO); completions "
    "and verdicts are the policy's own on the task (paper: several models'); steps are lines; by default a completion "
    "is worth its worst step (which of min of steps, min of sums and sum gives the headline is not known to us); no "
    "weighted majority vote; chosen among on the train problems, as a Decode does; lr suits the tiny policy (paper "
    "5e-7)",
)
def implicit_prm(
    beta: float = 0.05, by: Literal["step", "prefix", "sum"] = "step", lr: float = 1e-4
) -> tuple[Decode, Fit, Decode]:
    """Sample and judge, fit a copy of the policy whose log-ratio tells right from wrong, keep the best of n by it.

    ``beta`` is the reward per nat, ``lr`` the copy's learning rate, ``by`` what a completion is worth: its worst
    ``step``, its worst ``prefix`` or its ``sum``. What the second form leaves fills ``step_reward`` without a step's
    label: ``pure`` and ``prof`` take its folder as ``implicit``.
    """
    term = Term(role="prm", surrogate=partial(reward.outcome_cross_entropy, beta=beta), weight=objective.sequence_mean)
    chosen = {"prm": Role("chain", "rm_logp"), "prm_reference": Role("base", "rm_ref_logp")}
    return (
        Decode(loop=Loop(steps=32, prompts=16, samples=4)),
        Fit(
            terms=(term,),
            roles={"prm": Role("init", "rm_logp", lr=lr), "reference": Role("init", "ref_logp")},
            loop=Loop(steps=100, prompts=64, lr=lr, warmup=10, decay="cosine"),
        ),
        Decode(
            segment={"step": credit.by_step},
            search=partial(reward.implicit_best, by=by),
            roles=chosen,
            loop=Loop(steps=16, prompts=16, samples=8),
        ),
    )
