"""Best of K against an imperfect acceptor: what resampling until the first acceptance is worth, and where it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError

_CITE = ("arXiv:2411.17501", "benediktstroebl/inference-scaling-limits limits_to_inference_scaling_model.ipynb")
Array = Float[np.ndarray, "P"]


@component("metric", cite=_CITE)
def resampling_reward(
    rate: Array,
    prior: Array,
    *,
    completeness: float = 1.0,
    soundness: float = 0.75,
    wrong: float = -1.0,
    cost: float = 0.0,
    attempts: int = 10,
) -> Float[np.ndarray, "K"]:
    """Expected reward of at most K = 1..``attempts`` tries, stopped at the first one that the verifier accepts.

    A type of task has single-sample accuracy ``rate`` r and share ``prior`` p. The verifier accepts a right answer with
    chance ``completeness`` and rejects a wrong one with chance ``soundness``; an accepted right answer earns 1, an
    accepted wrong one ``wrong`` <= 0, nothing accepted 0; every try costs ``cost``:

        beta = (1 - cpl) r + snd (1 - r),   c = cpl r,   f = (1 - snd)(1 - r)
        R(K) = sum_{k <= K} sum_i p_i beta_i^(k-1) (c_i + wrong f_i - cost)

    The k-th try counts by the chance to get there, ``beta^(k-1)``, once: the released notebook weighs beliefs by a
    survival that is itself weighted by beliefs, which uses the prior twice. Raises DataError for numbers that are no
    chances, a prior that does not sum to 1, or no attempt.

    >>> resampling_reward(np.array([0.87, 0.13]), np.array([0.58, 0.42]), attempts=3).round(4).tolist()
    [0.449, 0.4724, 0.4614]
    """
    if attempts < 1:
        raise DataError(f"resampling: attempts={attempts} must be 1 or more")
    beta, right, false = _chances(rate, prior, completeness, soundness)
    tries = beta[:, None] ** np.arange(attempts)
    return (prior[:, None] * tries * (right + wrong * false - cost)[:, None]).sum(0).cumsum()


@component("metric", cite=_CITE)
def resampling_accuracy(
    rate: Array, prior: Array, *, completeness: float = 1.0, soundness: float = 0.75, attempts: int = 10
) -> Float[np.ndarray, "K"]:
    """Share of tasks that end with a right accepted answer, for at most K = 1..``attempts`` tries; see the reward.

    >>> resampling_accuracy(np.array([0.87, 0.13]), np.array([0.58, 0.42]), attempts=3).round(4).tolist()
    [0.5592, 0.644, 0.6721]
    """
    return resampling_reward(rate, prior, completeness=completeness, soundness=soundness, wrong=0.0, attempts=attempts)


@component("metric", cite=_CITE)
def resampling_ceiling(rate: Array, prior: Array, *, completeness: float = 1.0, soundness: float = 0.75) -> float:
    """What the accuracy tends to with ever more tries: ``sum_i p_i c_i / (1 - beta_i)``, the precision of acceptance.

    A type of which nothing is ever accepted counts 0. With ``soundness`` 1 there is no ceiling but that.

    >>> round(resampling_ceiling(np.array([0.13]), np.array([1.0])), 4)
    0.3741
    """
    beta, right, _ = _chances(rate, prior, completeness, soundness)
    ends = 1 - beta > 1e-12
    return float((prior * np.where(ends, right / np.where(ends, 1 - beta, 1.0), 0.0)).sum())


@component("metric", cite=_CITE)
def best_attempts(
    rate: Array,
    prior: Array,
    *,
    completeness: float = 1.0,
    soundness: float = 0.75,
    wrong: float = -1.0,
    cost: float = 0.0,
    attempts: int = 1000,
) -> int:
    """The number of tries with the largest expected reward, at most ``attempts``; 0 where any try loses on average.

    Of equal ones the fewest.

    >>> [best_attempts(np.array([0.87, 0.13]), np.array([0.58, 0.42]), wrong=w) for w in (-1.0, -2.0, -30.0)]
    [2, 1, 0]
    """
    curve = resampling_reward(
        rate,
        prior,
        completeness=completeness,
        soundness=soundness,
        wrong=wrong,
        cost=cost,
        attempts=attempts,
    )
    return int(curve.argmax()) + 1 if curve.max() > 0 else 0


def resampling_study(
    *,
    weak: tuple[float, float] = (0.9, 2.1),
    strong: tuple[float, float] = (7.0, 3.0),
    tasks: int = 1000,
    soundness: float = 0.75,
    completeness: float = 1.0,
    wrong: float = -1.0,
    attempts: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Simulate resampling by a weak and a strong model against a weak test, and compare with the formulas.

    The accuracy of each model on each of ``tasks`` tasks is drawn from a Beta distribution. Returns by model ``single``
    (the accuracy of one sample), ``at_100`` and ``at_all`` tries, ``ceiling`` (by the formula, of what was drawn),
    ``best`` (the number of tries that pays most when a wrong answer costs ``wrong``) and ``false`` (share of wrong ones
    among what was accepted).
    """
    rng = np.random.default_rng(seed)
    record: dict[str, Any] = {"soundness": soundness, "completeness": completeness, "wrong": wrong, "tasks": tasks}
    prior = np.full(tasks, 1 / tasks)
    for name, (a, b) in (("weak", weak), ("strong", strong)):
        rate = rng.beta(a, b, tasks)
        knobs = {"completeness": completeness, "soundness": soundness}
        right, accepted_at = _simulated(rate, completeness, soundness, attempts, rng)
        taken = accepted_at < attempts
        record |= {
            f"{name}_single": float((rng.random(tasks) < rate).mean()),
            f"{name}_at_100": float((right & (accepted_at < 100)).mean()),
            f"{name}_at_all": float((right & taken).mean()),
            f"{name}_ceiling": resampling_ceiling(rate, prior, **knobs),
            f"{name}_best": best_attempts(rate, prior, wrong=wrong, attempts=attempts, **knobs),
            f"{name}_best_free": best_attempts(rate, prior, wrong=0.0, attempts=attempts, **knobs),
            f"{name}_false": float((~right & taken).sum() / max(taken.sum(), 1)),
        }
    return record


def _simulated(
    rate: Array, completeness: float, soundness: float, attempts: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each task's first accepted answer is right, and the number of tries before it (``attempts`` if none)."""
    right, at = np.zeros(len(rate), dtype=bool), np.full(len(rate), attempts)
    for k in range(attempts):
        open_ = at == attempts
        if not open_.any():
            break
        good = rng.random(len(rate)) < rate
        accepted = rng.random(len(rate)) < np.where(good, completeness, 1 - soundness)
        taken = open_ & accepted
        right[taken], at[taken] = good[taken], k
    return right, at


def _chances(rate: Array, prior: Array, completeness: float, soundness: float) -> tuple[Array, Array, Array]:
    """A try is rejected, accepted and right, accepted and wrong."""
    if not (0 <= completeness <= 1 and 0 <= soundness <= 1):
        raise DataError(f"resampling: completeness={completeness} and soundness={soundness} must lie in [0, 1]")
    chances = all(((x >= 0) & (x <= 1)).all() for x in (rate, prior))  # a NaN is none
    if rate.shape != prior.shape or not chances or not np.isclose(prior.sum(), 1):
        raise DataError("resampling: rate must hold chances, and prior as many shares that sum to 1")
    beta = (1 - completeness) * rate + soundness * (1 - rate)
    return beta, completeness * rate, (1 - soundness) * (1 - rate)
