"""A reward model trained on preference pairs."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Fit, Loop, Role
from truegain.core.system import system
from truegain.methods import preference


@system(
    "reward",
    paper="Bradley and Terry 1952",
    cite="trl 1.8 RewardTrainer; centring from arXiv:2312.09244",
    differs="The head has a learning rate of its own. One pass over the pairs unless told otherwise.",
)
def bradley_terry_rm(margin: float = 0.0, centring: float = 0.01, smoothing: float = 0.0) -> Fit:
    """Reward model: a scalar head on the last token, fitted so that the chosen completion beats the rejected one."""
    return Fit(
        terms=(),
        pair=partial(preference.bradley_terry, margin=margin, centring=centring, smoothing=smoothing),
        roles={"reward_model": Role("policy", "model_reward", head=True, lr=1e-3)},
        loop=Loop(prompts=32, lr=1e-4, warmup=10, decay="linear", beta2=0.999),
    )
