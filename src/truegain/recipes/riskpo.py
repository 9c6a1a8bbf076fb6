"""RiskPO: risk-based policy optimisation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward
from truegain.methods.credit._bundled_risk import Share


@system(
    "objective",
    paper="arXiv:2510.00911",
    cite="Ren et al. 2025, Risk-based policy optimization via verifiable reward",
    differs="bundles and papers are drawn by lot among the step's prompts (how the paper draws them is not "
    "published); the tracked quantiles are those before the step, and the step's bundles have their own at "
    "the first one; shares of a paper are clamped at 10 (`share_bound`), as small sums of mixed signs have no"
    " bound; a bundle whose papers score alike is not divided by its deviation of 0 (`floor`); no mean "
    "baseline; one optimiser step per batch; lr suits the tiny policy",
)
def riskpo(
    bundle: int = 5,
    lower: float = 0.2,
    upper: float = 0.8,
    mixing: float = 1.5,
    rate: float = 0.1,
    share: Share = "excess",
    natural: bool = False,
    clip: float = 0.2,
) -> Train:
    """Bundles of prompts by the mixed value at risk of their score: weight on the lower tail, none on the upper.

    ``lower`` and ``upper`` are the levels of the quantiles between which a score counts linearly; they are followed
    over the run with steps of ``rate``. ``mixing`` weighs the lower tail. The settings are those for DAPO-math; for
    MATH the paper takes ``upper`` 0.9, ``share`` deviation and ``natural``.
    """
    risk = partial(
        credit.bundled_risk, bundle=bundle, lower=lower, upper=upper, mixing=mixing, share=share, natural=natural
    )
    term = Term(
        credit=risk,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.token_mean,
    )
    follow = partial(credit.track_quantiles, bundle=bundle, lower=lower, upper=upper, rate=rate)
    return Train(reward=reward.outcome, terms=(term,), fold=follow, loop=Loop(prompts=20, samples=10, lr=1e-4))
