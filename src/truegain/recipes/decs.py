"""DECS: length is paid for after the first right answer only, and easy problems are let in by the dose."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, exploration, length, objective, reward


@system(
    "length",
    paper="arXiv:2509.25827",
    cite="Jiang et al. 2025, DECS: overthinking reduction with decoupled rewards and curriculum data scheduling",
    differs="the judge of a step is an answer forced after it, which needs no second model, or with judge=text the "
    "reference answer found in its text (paper: a small model that was trained for it); steps begin at reflection "
    "words of a longer list, the embedded tasks' among them, and a step of one line stands for itself; T of the "
    "length term is the token limit; a group of one has no advantage (`decoupled_length.singleton`); temperature "
    "1 (source 0.6); one optimiser step per batch; lr suits the tiny policy",
)
def decs(
    beta: float = 0.1,
    kappa_rate: float = 0.2,
    judge: Literal["forced", "text"] = "forced",
    samples: int = 4,
    clip: float = 0.2,
) -> Train:
    """Tokens up to the first right step keep the whole reward; those after it one that falls with the length.

    ``beta`` is what length can cost. All-wrong groups are drawn anew; all-right ones are a share kappa of the batch,
    which grows by ``kappa_rate`` times the growth of the necessary prefix, and may be 0 for long. ``judge`` says how a
    step is known to have the answer: of ``samples`` answers forced after it half are right, or its text states it.
    ``clip`` bounds the ratio. Raises SettingError for an unknown judge.
    """
    if judge not in ("forced", "text"):
        raise SettingError(f"recipe 'decs': judge={judge!r}; it is forced or text")
    forced: Stage = (partial(credit.forced_answers, samples=samples), length.answers_by_probe)
    term = Term(
        credit=partial(length.decoupled_length, beta=beta),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.token_mean,
    )
    return Train(
        reward=reward.outcome,
        resample=exploration.dosed_sampling,
        segment={"step": partial(length.by_reflection, skip=0, gap=0)},
        probe=forced if judge == "forced" else length.stated_answers,
        terms=(term,),
        fold=partial(length.prefix_controller, rate=kappa_rate),
        loop=Loop(samples=16, lr=1e-4),
    )
