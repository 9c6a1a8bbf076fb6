"""Log-sigmoid-centred rewards: good on every count, measured against what the model could do before."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "reward",
    paper="arXiv:2402.00742",
    cite="Wang et al. 2024, Transforming and combining rewards for aligning large language models",
    differs="the two rewards are verdicts of the task's checker (right, well formed) as log-odds of plus or minus "
    "`odds`, in the place of two Bradley-Terry models: replace them by your own; both are measured against a quantile "
    "of the start's samples, drawn anew each step (the paper: also a canned answer, `reward.known_reference`); "
    "advantages within a prompt's samples instead of PPO with a critic; k2 penalty in the loss; lr suits the tiny "
    "policy",
)
def lsc_transform(
    quantile: float = 0.85, samples: int = 8, odds: float = 2.0, beta: float = 0.05, clip: float = 0.2
) -> Train:
    """Each reward becomes the log-probability of being good; their sum, of being good on every count.

    ``quantile`` of the rewards of ``samples`` completions of the model before training is what counts as good enough
    for a prompt. ``odds`` is the size of a verdict in log-odds. ``beta`` weighs the KL to that model, ``clip`` bounds
    the ratio.
    """
    verdicts = (
        partial(reward.outcome, right=odds, wrong=-odds),
        partial(reward.well_formed, scale=2 * odds),
        reward.log_sigmoid,
    )
    surrogates = (
        partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        partial(objective.kl_to_reference, beta=beta, estimator="k2"),
    )
    term = Term(
        credit=partial(credit.group_normalise, std="none"), surrogate=surrogates, weight=objective.sequence_mean
    )
    return Train(
        reward=verdicts,
        probe=partial(reward.reference_quantile, quantile=quantile, samples=samples),
        terms=(term,),
        roles={"reference": Role(source="init", fills="ref_logp")},
        loop=Loop(samples=16, lr=1e-4),
    )
