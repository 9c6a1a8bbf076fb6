"""Unlikeliness reward: rare right answers earn more than likely ones."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2506.02355",
    cite="He et al. 2025, Rewarding the unlikely",
    differs="equally likely completions share their ranks (code: the order of rows; `ties=order`); ranked by the "
    "mean log-prob per token as the code does, where the formula may mean the sum (`level=sum`); the log-probs are the "
    "sampler's (code: the learner's before the update); a long gradient is cut, where the code skips steps whose norm "
    "is above 20; samples are 32 and epochs 2 as in the paper; lr suits the tiny policy",
)
def unlikeliness_reward(beta_rank: float = 0.25, beta: float = 0.1, epochs: int = 2, clip: float = 0.2) -> Train:
    """GRPO in which a right answer is discounted by its rank in likelihood among the samples of its prompt.

    GRPO teaches what the policy does often already. Here a prompt whose samples are all right still has a signal: away
    from the likeliest answer. ``beta_rank`` is the largest discount; 0 is GRPO. ``epochs`` passes over each batch are
    the paper's second remedy, as a rare answer needs several steps to become likely. ``beta`` weighs the k3 penalty to
    the policy before training; 0 loads no reference. ``clip`` bounds the ratio.
    """
    surrogates: Stage = (partial(objective.ppo_clip, clip_low=clip, clip_high=clip),)
    roles: dict[str, Role] = {}
    if beta > 0:
        surrogates = (*surrogates, partial(objective.kl_to_reference, beta=beta))
        roles = {"reference": Role(source="init", fills="ref_logp")}
    term = Term(
        credit=partial(credit.group_normalise, singleton="raw"),
        surrogate=surrogates,
        weight=objective.sequence_mean,
    )
    return Train(
        reward=(reward.outcome, partial(reward.discount_likely, beta=beta_rank)),
        plan=partial(objective.minibatches, epochs=epochs),
        terms=(term,),
        roles=roles,
        loop=Loop(samples=32, lr=1e-4),
    )
