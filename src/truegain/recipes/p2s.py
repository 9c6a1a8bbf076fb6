"""P2S: probabilistic process supervision."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2601.20649",
    cite="Zhong et al. 2026, P2S",
    differs="log-probs are means per token, the masked prefix is left out altogether, the weights are sigmoid(8 (i/m - "
    "1/2)) and the sum is divided by theirs (`steps_if_unsolved`), as the source leaves these open; right means an "
    "exact check (paper: an overlap of words); the candidates for the good chain do not see the answer, which the tiny "
    "model cannot read in a prompt (`hint`); step rewards speak from the start (`start`); lr suits the tiny policy",
)
def p2s(
    candidates: int = 4, parts: int = 4, hint: str = "", start: float = 0.0, malformed: float = -1.0, clip: float = 0.2
) -> Train:
    """Groups without a right answer are told apart by how far their steps lead along a good chain of thought.

    ``candidates`` completions per problem are drawn for that chain, after ``hint`` (``{answer}`` in it). Rollouts and
    chain are cut into ``parts`` equal steps. Step rewards speak once the share ``start`` of the run is done.
    ``malformed`` is the reward without a well-formed answer. ``clip`` bounds the ratio.
    """
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(
        reward=(
            reward.outcome,
            partial(reward.steps_if_unsolved, start=start),
            partial(reward.malformed, value=malformed),
        ),
        segment={"step": partial(credit.by_share, parts=parts)},
        probe=partial(credit.path_faithfulness, candidates=candidates, parts=parts, hint=hint),
        terms=(term,),
        loop=Loop(samples=8, lr=1e-4),
    )
