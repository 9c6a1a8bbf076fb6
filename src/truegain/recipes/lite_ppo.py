"""Lite PPO: two tricks, and the matrix of tricks that they were chosen from."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, length, objective, reward


@system(
    "objective",
    paper="arXiv:2508.08221",
    cite="Liu et al. 2025, Tricks or traps? A deep dive into RL for LLM reasoning",
    differs="the deviation is that of the rewards as they are (`std='centred'` takes it after centring; the two differ "
    "by one factor per batch, and the paper leaves open which is meant); one optimiser step per batch; lr suits the "
    "tiny policy",
)
def lite_ppo(
    mean: Literal["group", "batch", "none"] = "group",
    std: Literal["group", "batch", "centred", "none"] = "batch",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    loss: Literal["token", "sequence"] = "token",
    overlong_filter: bool = False,
) -> Train:
    """Rewards centred by prompt and scaled by the whole batch, in a clipped loss averaged over tokens.

    No critic, no reference. One scale for the batch: a prompt that is nearly always solved does not have its rare
    failures magnified against those of other prompts. The knobs are the axes of the study. What it found: a group's
    mean is a robust baseline; the batch's deviation beats the group's, and none is better still on easy prompts;
    ``clip_high`` above ``clip_low`` helps instruct models and hardly base models; the token ``loss`` helps base
    models; ``overlong_filter``, which leaves truncated completions out of the loss, helps where the limit is short or
    medium. Without a mean, ``std`` can only be ``batch`` or ``none``. Raises SettingError for a combination that does
    not exist.
    """
    if loss not in ("token", "sequence"):
        raise SettingError(f"recipe 'lite-ppo': loss={loss!r}; it is token or sequence")
    weights: Stage = (objective.token_mean if loss == "token" else objective.sequence_mean,)
    if overlong_filter:
        weights = (*weights, length.drop_truncated)
    term = Term(
        credit=_normaliser(mean, std),
        surrogate=partial(objective.ppo_clip, clip_low=clip_low, clip_high=clip_high),
        weight=weights,
    )
    return Train(reward=reward.outcome, terms=(term,), loop=Loop(samples=8, lr=1e-4))


def _normaliser(mean: Literal["group", "batch", "none"], std: Literal["group", "batch", "centred", "none"]) -> Stage:
    if mean != "none":
        return partial(credit.group_normalise, mean=mean, std=std)
    if std == "none":
        return credit.return_to_go
    if std == "batch":
        scale = partial(credit.whiten, per="row", mean="scale", eps=1e-6, eps_in="deviation")
        return (credit.return_to_go, scale)
    raise SettingError(f"recipe 'lite-ppo': mean='none' goes with std='batch' or 'none', not {std!r}")
