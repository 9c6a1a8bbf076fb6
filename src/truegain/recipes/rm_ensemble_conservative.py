"""Reward models in an ensemble, optimised by what they agree on."""

from __future__ import annotations

from functools import partial

from truegain.core.errors import SettingError, nearest
from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward

AGGREGATES = {
    "uncertainty_weighted": reward.uncertainty_weighted,
    "worst_member": reward.worst_member,
    "mean_member": reward.mean_member,
    "median_member": reward.median_member,
}


@system(
    "reward",
    paper="arXiv:2310.02743",
    cite="Coste et al. 2023; github:tlc4418/llm_optimization",
    differs="a leave-one-out baseline in place of PPO's critic; the KL penalty stands in the reward of the whole "
    "completion; the variance is divided by M for RL too (their code: M - 1), so one member is its own ensemble",
)
def rm_ensemble_conservative(
    aggregate: str = "uncertainty_weighted", penalty: float = 0.1, beta: float = 0.01, models: str = "runs/reward-model"
) -> Train:
    """Optimise the worst, or the uncertainty-weighted, score of several reward models, with a small KL penalty.

    ``aggregate`` is uncertainty_weighted (UWO), worst_member (WCO), mean_member or median_member; ``penalty`` weighs
    the variance in the first. ``beta`` weighs the KL to the policy before training. ``models`` is what
    `truegain fit reward-model --members M --standardise --out FOLDER` wrote.
    """
    return on_members(aggregated(aggregate, penalty), beta, models)


def aggregated(name: str, penalty: float) -> Stage:
    """The aggregate of this name. Raises SettingError for an unknown one."""
    if name not in AGGREGATES:
        legal = ", ".join(AGGREGATES)
        raise SettingError(f"aggregate {name!r} is unknown{nearest(name, set(AGGREGATES))}; there are {legal}")
    if name == "uncertainty_weighted":
        return partial(reward.uncertainty_weighted, penalty=penalty)
    return AGGREGATES[name]


def on_members(aggregate: Stage, beta: float, models: str) -> Train:
    """REINFORCE with a leave-one-out baseline on an aggregate of reward models; ``beta`` 0 loads no reference."""
    roles = {"reward_model": Role(models, "model_reward", head=True)}
    rewards: tuple[Stage, ...] = (aggregate,)
    if beta > 0:
        roles["reference"] = Role("init", "ref_logp")
        rewards = (aggregate, partial(reward.reference_kl, beta=beta))
    term = Term(objective.policy_gradient, objective.sequence_sum, credit.leave_one_out)
    return Train(reward=rewards, terms=(term,), roles=roles, loop=Loop(samples=16, lr=1e-4))  # pyright: ignore
