"""PURE: process rewards in min-form."""

from __future__ import annotations

from functools import partial

from truegain.core.component import Member
from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward
from truegain.recipes.implicit_prm import implicit_roles


@system(
    "credit",
    paper="arXiv:2504.15275",
    cite="Cheng et al. 2025, PURE",
    differs="rewards of steps are the task's own exact verdicts, 1 or -1, unless `model` names a process reward model "
    "(its head's numbers are taken as they are, best in [-1, 1]); steps are lines (paper: blank lines); sampled at "
    "temperature 1 (paper 0.5); the penalty to the reference is summed over the tokens to come (its place differs "
    "between the source's two ports); lr suits the tiny policy",
)
def pure(
    temperature: float = 0.1,
    verifiable: float = 1.0,
    beta: float = 0.001,
    clip: float = 0.2,
    model: str = "",
    implicit: str = "",
) -> Train:
    """A row is worth its worst step: process rewards weighed by a soft minimum, returns to go, siblings as baseline.

    ``temperature`` is that of the soft minimum, ``verifiable`` the reward of a right answer beside the steps, ``beta``
    the penalty to the policy before training (0 loads no reference), ``model`` the folder of a process reward model,
    ``implicit`` that of one without a head (`implicit_prm`), whose log-ratio to the policy before training rewards.
    """
    if model and implicit:
        raise SettingError("pure: give model or implicit, one process reward model")
    parts: list[Member] = [partial(credit.min_form, temperature=temperature), credit.leave_one_out]
    roles: dict[str, Role] = {}
    if beta > 0:
        parts.append(partial(credit.reference_kl_to_go, beta=beta))
        roles["reference"] = Role(source="init", fills="ref_logp")
    if model:
        roles["steps"] = Role(source=model, fills="step_reward", head=True)
    if implicit:
        roles |= implicit_roles(implicit)
    term = Term(
        credit=(*parts, credit.spare_separators),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(
        reward=partial(reward.outcome, right=verifiable),
        segment={"step": credit.by_step},
        probe=reward.implicit_steps if implicit else () if model else reward.judged_steps,
        terms=(term,),
        roles=roles,
        loop=Loop(samples=4, lr=1e-4),
    )
