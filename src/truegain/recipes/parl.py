"""PARL: a reward learned from preferences over what its own best policy does, counting how that policy moves."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Study
from truegain.core.system import system
from truegain.methods import reward
from truegain.methods.reward import Solver


@system(
    "reward",
    paper="arXiv:2308.02585",
    cite="Chakraborty et al. 2023, PARL: a unified framework for policy alignment in reinforcement learning",
    differs="a study on random processes of 4 states and 3 actions with a reward per state and action; the inner "
    "problem, whose entropy makes its solution unique, has known dynamics, so that its second derivatives are exact "
    "(paper: estimated from the same samples); they are solved for directly, `solver` has a Neumann series and "
    "conjugate gradients too; the pairs' chance is scored with the mean loss as baseline; Adam on the reward",
)
def parl(
    solver: Solver = "direct",
    seed: int = 0,
    rounds: int = 100,
    pairs: int = 8,
    outer_rate: float = 0.1,
    temperature: float = 0.5,
) -> Study:
    """The step on the reward takes the derivative through the policy that the reward trains, and so through its pairs.

    ``solver="none"`` leaves that out: a reward model that is fitted round by round. The other knobs are those of
    `reward.preference_study`, which says what is returned.
    """
    function = partial(reward.preference_study, solver=solver, seed=seed, rounds=rounds, pairs=pairs)
    return Study(partial(function, outer_rate=outer_rate, temperature=temperature))
