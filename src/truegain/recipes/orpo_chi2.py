"""Occupancy-regularised policy optimisation for language models: the root of chi-squared in place of KL."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "reward",
    paper="arXiv:2403.03185",
    cite="Laidlaw, Singhal and Dragan 2024, Correlated proxies; github:cassidylaidlaw/llm_optimization",
    differs="a leave-one-out baseline in place of PPO's critic; chi-squared of the completion's log-ratio, without the "
    "discriminator of their control tasks; the root's scale is taken before the update, which is exact on its one step",
)
def orpo_chi2(scale: float = 0.01, bound: float = 10.0, models: str = "runs/reward-model") -> Train:
    """Optimise a proxy with sqrt(chi^2) to the policy before training in the loss: rare completions cost the most.

    ``scale`` weighs the root, in units of the proxy's deviation under that policy (source: 0.01 to 1). ``bound`` is the
    log-ratio beyond which the exponential goes on as its tangent. ``models`` is what `truegain fit reward-model` wrote.
    """
    roles = {"reward_model": Role(models, "model_reward", head=True), "reference": Role("init", "ref_logp")}
    gain = Term(objective.policy_gradient, objective.sequence_sum, credit.leave_one_out)
    root = partial(objective.chi2_root, bound=bound)
    stay = Term(partial(objective.chi2_to_reference, bound=bound), root, scale=scale)
    return Train(reward=reward.mean_member, terms=(gain, stay), roles=roles, loop=Loop(samples=16, lr=1e-4))
