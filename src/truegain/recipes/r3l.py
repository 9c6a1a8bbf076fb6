"""R3L: reflect, then retry, and learn from where the two differ."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, exploration, objective, reward


@system(
    "credit",
    paper="arXiv:2601.03715",
    cite="Shi et al. 2026, R3L",
    differs="steps are lines of a completion (source: turns of an agent); by default the task's exact judge names the "
    "step and says nothing, as the embedded policy cannot reflect (diagnoser=policy asks it, as the paper does); only "
    "failures are retried; the group's baseline is the mean (source also: tau log mean exp); a success is a reward of "
    "1; the retry's first action is no example of its own beside the retry; lr suits the tiny policy (source 1e-6)",
)
def r3l(
    alpha: float = 3.0,
    tau: float = 1.0,
    diagnoser: Literal["verdicts", "policy"] = "verdicts",
    judge: str = "task",
    hint: str = "",
    pivot: bool = True,
) -> Train:
    """Failed rollouts are tried again from their first wrong step; gradients flow only after it; successes count more.

    ``alpha`` multiplies advantages above 0, ``tau`` >= 0 divides the loss by 1 + tau. ``diagnoser`` is ``verdicts``
    (of ``judge``: ``task``, its own, or ``openai:MODEL@URL``) or ``policy``; ``hint`` is what the judge says, with
    ``{step}`` and ``{line}``. ``pivot=False`` trains what a rollout and its retry share as well. Needs a task that
    judges steps, a model as its judge, or a policy that can reflect.
    """
    term = Term(
        credit=(
            partial(credit.group_normalise, std="none", singleton="raw"),
            partial(credit.amplify_positive, alpha=alpha),
        ),
        surrogate=objective.policy_gradient,
        weight=(objective.token_mean, objective.after_cut) if pivot else objective.token_mean,
        scale=1 / (1 + tau),
    )
    return Train(
        reward=reward.outcome,
        resample=partial(exploration.reflect_retry, diagnoser=diagnoser, judge=judge, hint=hint),
        segment={"step": credit.by_step},
        probe=credit.fork_cuts,
        terms=(term,),
        loop=Loop(samples=4, lr=1e-4),
    )
