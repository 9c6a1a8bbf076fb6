"""Reward models that were pre-trained apart, and their middle or worst score."""

from __future__ import annotations

from truegain.core.forms import Train
from truegain.core.system import system
from truegain.recipes.rm_ensemble_conservative import aggregated, on_members


@system(
    "reward",
    paper="arXiv:2312.09244",
    cite="Eisenstein et al. 2023",
    differs="a leave-one-out baseline in place of their PPO; whether members differ by pre-training or by fine-tuning "
    "is decided where they are fitted (`fit reward-model --model A --model B`, or one --model); the report of how far "
    "they part is `evaluation.ensemble_disagreement`",
)
def ensemble_aggregators_herding(
    aggregate: str = "median_member", beta: float = 0.01, models: str = "runs/reward-model"
) -> Train:
    """Optimise the median, mean or worst score of reward models, which mitigates what they do not all get wrong.

    ``aggregate`` is median_member, mean_member or worst_member, ``beta`` weighs the KL to the policy before training,
    ``models`` is what `truegain fit reward-model` wrote.
    """
    return on_members(aggregated(aggregate, penalty=0.0), beta, models)
