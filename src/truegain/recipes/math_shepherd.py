"""Math-Shepherd: a process reward model fitted to the policy's own Monte Carlo labels of steps."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Decode, Fit, Loop, Role, Term
from truegain.core.system import system
from truegain.methods import credit, objective


@system(
    "credit",
    paper="arXiv:2312.08935",
    cite="Wang et al. 2024, Math-Shepherd",
    differs="soft labels and a squared error (paper: hard and soft, cross-entropy on special tokens); completions come "
    "from the policy itself (paper: a stronger completer); steps are lines; lr suits the tiny policy",
)
def math_shepherd(samples: int = 8, lr: float = 3e-4) -> tuple[Decode, Fit]:
    """Label each step by the share of right answers among continuations from its end, then fit a head to the labels.

    ``samples`` continuations per step; ``lr`` of the reward model, whose body starts from the policy. What it leaves
    fills ``step_reward`` of any recipe whose role ``steps`` names its folder.
    """
    term = Term(role="steps", credit=credit.at_step_ends, surrogate=objective.value_square, weight=objective.step_mean)
    return (
        Decode(
            segment={"step": credit.by_step},
            search=partial(credit.label_steps, samples=samples),
            loop=Loop(steps=16, prompts=16, samples=4),
        ),
        Fit(
            terms=(term,),
            roles={"steps": Role(source="init", fills="step_reward", head=True, lr=lr)},
            loop=Loop(steps=200, prompts=32, warmup=10, decay="linear", lr=lr),
        ),
    )
