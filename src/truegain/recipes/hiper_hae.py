"""HiPER: hierarchical advantage estimation for agents that plan by subgoals."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2602.16165",
    cite="Peng et al. 2026, HiPER",
    differs="three critics with a head each instead of one with three heads; gamma and turn_lam are 1, the released "
    "trainer's defaults, as the published scripts do not set them; the decision's advantage is the released code's; "
    "critics are read before the first token of their part (source: subgoals and decisions at the turn's first token, "
    "actions after the subgoal's tag); what stands inside a tag is credited, the tag itself is not (source: both); "
    "only SWITCH switches (source: all but KEEP); a first turn never pays for keeping (source: if it says KEEP); a "
    "subgoal is compared with the last one written (source: the turn before); an invalid turn is one without tags "
    "(source: the environment says); no penalty to the reference (paper 0.01); a row without tags, as the tiny policy "
    "writes, is one segment of actions; learning rates suit the tiny policy (paper 1e-6 and 1e-5)",
)
def hiper_hae(
    gamma: float = 1.0,
    turn_lam: float = 1.0,
    goal_lam: float = 0.95,
    bootstrap: bool = False,
    keep: float = 0.3,
    per: Literal["turn", "share"] = "share",
    clip: float = 0.2,
    critic: str = "init",
    critic_lr: float = 3e-4,
) -> Train:
    """Actions, subgoals and decisions to switch are credited on their own tokens, each level by a critic of its own.

    ``gamma``, ``turn_lam`` (between turns of a segment) and ``goal_lam`` (between segments) in [0, 1]. ``bootstrap``
    takes a critic's word for what a row that was cut off would have earned. ``keep`` is what keeping the subgoal costs,
    ``per`` turn or as a share of the row's turns. ``critic`` is the body of the critics: init, policy (shared with it)
    or a model folder. Meant for tasks with turns, such as ``calculator`` and ``search``.
    """
    advantage = partial(
        credit.hierarchical_advantage, gamma=gamma, turn_lam=turn_lam, goal_lam=goal_lam, bootstrap=bootstrap
    )
    policy = Term(
        credit=tuple(partial(advantage, level=level) for level in ("action", "goal", "decision")),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.token_mean,
    )
    critics = tuple(
        Term(
            credit=partial(advantage, level=level, target=True),
            surrogate=objective.value_clip,
            weight=partial(credit.level_mean, level=level),
            role=f"{level}_critic",
        )
        for level in ("action", "goal", "decision")
    )
    return Train(
        reward=reward.outcome,
        segment={"part": credit.by_tags},
        probe=partial(credit.goal_penalties, keep=keep, per=per),
        terms=(policy, *critics),
        plan=partial(objective.minibatches, count=2),
        roles={term.role: Role(source=critic, fills="value", head=True, lr=critic_lr) for term in critics},
        loop=Loop(samples=8, lr=1e-4),
    )
