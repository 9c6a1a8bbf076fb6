"""Corrections of the reward for a verifier that errs at known or estimated rates."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward, verifier


@system(
    "verifier",
    paper="arXiv:2510.00915",
    cite="Cai et al. 2025, verifiable yet noisy rewards",
    differs="known from a secondary source and derived anew: no deviation divides the advantages, as that would cancel "
    "any correction at equal rates (how the paper hooks it into GRPO is not known); the share of appeals, the way the "
    "rate is smoothed and the floor of the correction by prompt are chosen here; the noise of embedded tasks, whose "
    "checkers do not err, is simulated on request; lr suits the tiny policy",
)
def noisy_verifier_correction(
    correction: Literal["backward", "forward", "none"] = "backward",
    rates: Literal["estimated", "given", "prompt"] = "estimated",
    false_accept: float = 0.0,
    false_reject: float = 0.0,
    appeals: float = 0.25,
    judge: str = "task",
    noise: tuple[float, float] = (0.0, 0.0),
    noisy_share: float = 1.0,
) -> Train:
    """Policy gradients from a verdict of 0 or 1 that accepts some wrong answers and rejects some right ones.

    ``backward`` makes the reward right on average, with the group's others as baseline; ``forward`` takes weights that
    need the rate of right answers rejected alone, without a baseline. ``rates``: as ``given`` by ``false_accept`` and
    ``false_reject``; ``estimated`` from ``appeals``, the share of rejected answers that ``judge`` (``task`` or
    ``openai:MODEL@URL``) looks at again; by ``prompt``, from the columns of these names (backward only). ``noise`` (two
    rates, for ``noisy_share`` of the problems) errs on purpose; ``--reward`` puts your own checker in its place.
    """
    if correction == "forward" and rates == "prompt":
        raise SettingError("noisy_verifier_correction: rates=prompt goes with correction=backward, not with forward")
    most = 1 - verifier.false_reject_rate.cap
    if correction == "backward" and rates == "estimated" and not false_accept < most:
        raise SettingError(
            f"noisy_verifier_correction: false_accept={false_accept} must be below {most:g} while the other rate is "
            "estimated, so that the two stay below 1 together"
        )
    score = partial(verifier.noisy_checker, false_accept=noise[0], false_reject=noise[1], share=noisy_share)
    fixed: tuple[Any, ...] = ()
    setting = "unbiased_verdict.false_reject"
    if correction == "backward":
        own = partial(verifier.unbiased_verdict, false_accept=false_accept, false_reject=false_reject)
        fixed = (verifier.unbiased_by_prompt if rates == "prompt" else own,)
    elif correction == "forward":
        setting = "forward_correction.false_reject"
        fixed = (partial(verifier.forward_correction, false_reject=false_reject),)
    estimated = rates == "estimated" and correction != "none"
    term = Term(
        credit=credit.return_to_go if correction == "forward" else credit.leave_one_out,
        surrogate=objective.policy_gradient,
        weight=objective.sequence_mean,
    )
    return Train(
        score=score,
        reward=(reward.user_score, *fixed),
        probe=partial(verifier.appeals, share=appeals, judge=judge) if estimated else (),
        fold=partial(verifier.false_reject_rate, setting=setting) if estimated else (),
        terms=(term,),
        loop=Loop(samples=8, lr=1e-4),
    )
