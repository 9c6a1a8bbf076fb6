"""ACE: asymmetric confidence penalties for overconfident errors."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2602.21420",
    cite="ACE 2026, Overconfident errors need stronger correction",
    differs="the abstract fixes no details: phi is relu (`shape`), alpha 1 (other sources name 0.5 to 2), the shift is "
    "summed over the row (`level`), bounded at 5 nats (`bound`), and taken of the policy that drew the row; nothing is "
    "normalised afterwards; one optimiser step per batch; lr suits the tiny policy",
)
def ace(alpha: float = 1.0, bound: float | None = 5.0, clip: float = 0.2) -> Train:
    """GRPO in which a wrong answer that training has made likelier than it was at the start is punished harder.

    Right answers, and errors that the policy is already giving up, weigh what they did. ``alpha`` scales the extra
    penalty; 0 is GRPO. ``bound``, in nats, limits the shift that counts. ``clip`` bounds the ratio.
    """
    term = Term(
        credit=(credit.group_normalise, partial(credit.amplify_overconfident, alpha=alpha, bound=bound)),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    roles = {"reference": Role(source="init", fills="ref_logp")}
    return Train(reward=reward.outcome, terms=(term,), roles=roles, loop=Loop(samples=16, lr=1e-4))
