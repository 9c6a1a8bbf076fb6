"""MatchTIR: turns are paid by how well their tool calls match a reference trace."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2601.10712",
    cite="MatchTIR: Fine-Grained Supervision for Tool-Integrated Reasoning via Bipartite Matching, 2026",
    differs="calls are assigned by the Hungarian method, which the paper describes; the released code takes best pairs "
    "first (matching=greedy); Sinkhorn runs until the marginals hold to 1e-9, at most 1000 rounds (unknown); words of "
    "an answer are split at white space, punctuation stays; one optimiser step per batch; lr suits the tiny policy",
)
def matchtir(
    matching: Literal["hungarian", "greedy", "soft"] = "hungarian",
    gamma: float = 0.9,
    beta: float = 0.001,
    entropy: float = 0.001,
    clip: float = 0.2,
) -> Train:
    """The mean of two advantages: the row's sum of turn rewards, and each turn's discounted return at its place.

    A call's reward is its similarity to the gold call it is matched with (``matching``: hungarian, greedy or soft), the
    answer's the F1 of its words. ``gamma`` discounts per turn. ``beta`` weighs the k3 penalty to the policy before
    training, 0 loads no reference; ``entropy`` the bonus. Needs recorded calls and reference calls: ``calculator``,
    ``search``.
    """
    surrogates: tuple[object, ...] = (partial(objective.ppo_clip, clip_low=clip, clip_high=clip),)
    roles: dict[str, Role] = {}
    if entropy > 0:
        surrogates = (*surrogates, partial(objective.entropy_bonus, coefficient=entropy))
    if beta > 0:
        surrogates = (*surrogates, partial(objective.kl_to_reference, beta=beta))
        roles = {"reference": Role(source="init", fills="ref_logp")}
    dual = (
        partial(credit.group_normalise, singleton="raw"),
        partial(credit.turn_returns, gamma=gamma),
        partial(credit.scaled, factor=0.5),
    )
    term = Term(credit=dual, surrogate=surrogates, weight=objective.token_mean)  # pyright: ignore[reportArgumentType]
    return Train(
        score=partial(reward.match_calls, matching=matching),
        reward=reward.turn_sum,
        terms=(term,),
        roles=roles,
        loop=Loop(samples=16, lr=1e-4),
    )
