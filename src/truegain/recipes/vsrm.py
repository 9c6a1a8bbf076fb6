"""VSRM: steps of a thought paid by what they change in the accuracy of an answer forced there."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, length, objective, reward


@system(
    "length",
    paper="arXiv:2508.10293",
    cite="Yue et al. 2025, Promoting efficient reasoning with verifiable stepwise reward",
    differs="the words of the embedded tasks (check, back) are among those that begin a step, and steps may be close "
    "together and early (`by_reflection.skip` 1000 and `.gap` 400 characters there), as their traces are short; forced "
    "answers have 32 tokens (source 768); no KL penalty (source 0.001, whose script does not turn it on); one sample "
    "per prompt as there, 256 prompts, temperature 1 (source 0.6, top-p 0.95); one optimiser step per batch; lr "
    "suits the tiny policy",
)
def vsrm(
    estimator: Literal["reinforce-pp", "ppo"] = "reinforce-pp",
    discount: float = 0.7,
    lookahead: int = 4,
    samples: int = 5,
    skip: int = 0,
    gap: int = 0,
    lam: float = 1.0,
    clip: float = 0.2,
) -> Train:
    """The thought is cut where it turns back; each piece earns the change in forced-answer accuracy that it made.

    Flat steps inherit a change up to ``lookahead`` steps later, times ``discount`` per step; what leads nowhere earns
    nothing, what undoes progress is fined. ``samples`` answers are forced after each step. ``skip`` and ``gap``, in
    characters, say how early and how close steps may begin. The returns are whitened (``estimator="reinforce-pp"``) or
    a critic's value is taken off (``"ppo"``, with ``lam``). ``clip`` bounds the ratio. Raises SettingError for an
    unknown estimator.
    """
    if estimator not in ("reinforce-pp", "ppo"):
        raise SettingError(f"recipe 'vsrm': estimator={estimator!r}; it is reinforce-pp or ppo")
    gains = partial(credit.accuracy_gains, discount=discount, lookahead=lookahead)
    clipped = partial(objective.ppo_clip, clip_low=clip, clip_high=clip)
    terms: tuple[Term, ...]
    roles: dict[str, Role] = {}
    if estimator == "ppo":
        # Estimates are linear in the rewards, so the steps' share is their sum to go at the estimator's discount.
        own: Stage = (partial(credit.gae, lam=lam), partial(gains, gamma=lam), credit.whiten)
        target: Stage = (partial(credit.gae_returns, lam=lam), partial(gains, gamma=lam))
        fit = Term(credit=target, surrogate=objective.value_clip, weight=objective.token_mean, role="critic")
        terms = (Term(credit=own, surrogate=clipped, weight=objective.token_mean), fit)
        roles = {"critic": Role(source="init", fills="value", head=True, lr=3e-4)}
    else:
        own = (credit.return_to_go, gains, credit.whiten)
        terms = (Term(credit=own, surrogate=clipped, weight=objective.token_mean),)
    return Train(
        reward=reward.outcome,
        segment={"step": partial(length.by_reflection, skip=skip, gap=gap)},
        probe=partial(credit.forced_answers, samples=samples),
        terms=terms,
        roles=roles,
        loop=Loop(prompts=256, samples=1, lr=1e-4),
    )
