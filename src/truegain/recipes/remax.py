"""ReMax: REINFORCE with the greedy completion as its baseline."""

from __future__ import annotations

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2310.10505",
    cite="Li et al. 2023, ReMax",
    differs="no KL penalty in the reward (paper 0.05); AdamW over rows averaged; lr suits the tiny policy",
)
def remax() -> Train:
    """Every token's log-prob weighed by its row's reward above that of the greedy completion of the same prompt.

    One sample per prompt is enough: neither a critic nor a group is needed, for the price of one more completion.
    """
    term = Term(credit=credit.greedy_baseline, surrogate=objective.policy_gradient, weight=objective.sequence_sum)
    return Train(
        reward=reward.outcome,
        probe=credit.greedy_reward,
        terms=(term,),
        loop=Loop(prompts=128, samples=1, lr=1e-4),
    )
