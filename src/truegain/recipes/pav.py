"""PAV: rewarding progress, the advantage of a step under a prover."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2410.08146",
    cite="Setlur et al. 2024, rewarding progress",
    differs="the prover's values are Monte Carlo shares (paper: a verifier fitted to such shares); the prover is the "
    "best of 4 of the policy before training unless `prover` names another model; the policy's own value is its "
    "outcome above its siblings'; alpha 3 is what is recalled of the paper's reinforcement learning; a step is a line; "
    "lr suits the tiny policy",
)
def pav(alpha: float = 3.0, best_of: int = 4, samples: int = 4, prover: str = "init", clip: float = 0.2) -> Train:
    """Each step earns, beside the outcome, what it adds to the chance that a prover finishes from there.

    ``alpha`` >= 0 weighs progress against the outcome; 0 leaves the outcome alone. ``prover`` is a model folder or
    ``init``, taken as the best of ``best_of`` tries, its chance estimated from ``samples``. ``clip`` bounds the ratio.
    """
    progress = partial(credit.prover_progress, samples=samples, best_of=best_of)
    term = Term(
        credit=(
            partial(credit.step_returns, gamma=0.0),
            partial(credit.scaled, factor=alpha),
            credit.leave_one_out,
        ),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_sum,
    )
    return Train(
        reward=reward.outcome,
        segment={"step": credit.by_step},
        probe=progress,
        terms=(term,),
        roles={"prover": Role(source=prover, fills="ref_logp")},
        loop=Loop(samples=4, lr=1e-4),
    )
