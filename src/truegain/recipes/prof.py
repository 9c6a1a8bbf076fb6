"""PROF: rows whose process agrees with their outcome, chosen from more than are needed."""

from __future__ import annotations

from functools import partial

from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, exploration, objective, reward
from truegain.recipes.implicit_prm import implicit_roles


@system(
    "credit",
    paper="arXiv:2509.03403",
    cite="Ye et al. 2025, PROF",
    differs="rewards of steps are the task's own exact verdicts, 1 or 0, unless `model` names a process reward model; "
    "samples 8, of which 4 are kept, the mean over steps, and no penalty on the number of steps, as the paper's values "
    "are not known to us (`process_consistent.penalty`, `.most_steps`); a group of one outcome keeps 4 too; steps are "
    "lines; no KL penalty; lr suits the tiny policy",
)
def prof(keep: int = 4, clip: float = 0.2, model: str = "", implicit: str = "") -> Train:
    """GRPO on ``keep`` of the samples: right ones with the best steps, wrong ones with the worst, equally many.

    ``model`` is the folder of a process reward model, ``implicit`` that of one without a head (`implicit_prm`), whose
    log-ratio to the policy before training is the reward. It chooses rows and never enters the loss.
    """
    if model and implicit:
        raise SettingError("prof: give model or implicit, one process reward model")
    roles = {"steps": Role(source=model, fills="step_reward", head=True)} if model else {}
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(
        reward=partial(reward.outcome, wrong=-1.0),
        segment={"step": credit.by_step},
        probe=reward.implicit_steps if implicit else () if model else partial(reward.judged_steps, wrong=0.0),
        select=partial(exploration.process_consistent, keep=keep),
        terms=(term,),
        roles=implicit_roles(implicit) if implicit else roles,
        loop=Loop(samples=8, lr=1e-4),
    )
