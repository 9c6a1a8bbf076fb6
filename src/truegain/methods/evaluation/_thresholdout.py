"""A hold-out set that may be asked many questions, each chosen after the answers to those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from truegain.core.errors import DataError, SettingError


@dataclass(frozen=True)
class Reusable:
    """Where a reusable hold-out is: what has to be kept between questions, numbers that JSON can hold.

    ``threshold`` and ``noise`` are T and s, ``budget`` how many more answers may come from the hold-out itself,
    ``asked`` how many questions there were, ``shift`` the noise on the threshold until the next such answer.
    """

    threshold: float
    noise: float
    budget: int
    seed: int
    asked: int
    shift: float

    @staticmethod
    def begin(*, threshold: float = 0.04, noise: float = 0.01, budget: int = 100, seed: int = 0) -> Reusable:
        """A fresh one. Raises SettingError for a threshold, a noise or a budget below 0."""
        if not (threshold >= 0 and noise >= 0 and budget >= 0):
            raise SettingError(f"thresholdout: threshold={threshold}, noise={noise}, budget={budget} must be 0 or more")
        return Reusable(threshold, noise, budget, seed, 0, _laplace(seed, 0, 2 * noise, "first"))


def thresholdout(state: Reusable, train: float, holdout: float) -> tuple[Reusable, float | None]:
    """Answer one question from the means that it has on the training set and on the hold-out, both in [0, 1].

    With That = T + Lap(2s) and eta ~ Lap(4s): where ``|a_h - a_t| > That + eta`` the answer is ``a_h + Lap(s)``, the
    budget falls by 1 and That is drawn anew; else it is a_t, which says no more of the hold-out than that it agrees.
    With the budget used up every question is refused: None. Answers are cut off at 0 and 1. Lap(b) has density
    ``exp(-|x| / b) / 2b``. Noise is a pure function of the seed and the number of the question, so that a state that
    was saved goes on as if it had not been; whoever asks must not know the seed.

    T = 0.04 and s = 0.01 suit sets of about 2000 to 10000 each. The noise on the threshold stays until the hold-out
    speaks, so a large draw of it keeps the hold-out silent for long: in about one of ten runs of `thresholdout_study`
    the answer to the last question is the training mean, wrong by 0.2. Raises DataError for means outside [0, 1], NaN
    among them.
    Source: Dwork et al. 2015, "Generalization in adaptive data analysis and holdout reuse", algorithm 2.

    >>> state = Reusable.begin(threshold=0.04, noise=0.0, budget=1)
    >>> answers = []
    >>> for train, holdout in ((0.70, 0.69), (0.62, 0.55), (0.55, 0.58)):
    ...     state, answer = thresholdout(state, train, holdout)
    ...     answers.append(answer)
    >>> answers, state.budget
    ([0.7, 0.55, None], 0)
    """
    if not (0 <= train <= 1 and 0 <= holdout <= 1):
        raise DataError(f"thresholdout: means {train} and {holdout} must lie in [0, 1]")
    if state.budget < 1:
        return replace(state, asked=state.asked + 1), None
    number = state.asked + 1
    eta = _laplace(state.seed, number, 4 * state.noise, "question")
    if not abs(holdout - train) > state.threshold + state.shift + eta:
        return replace(state, asked=number), train
    answer = holdout + _laplace(state.seed, number, state.noise, "answer")
    shift = _laplace(state.seed, number, 2 * state.noise, "first")
    return replace(state, asked=number, budget=state.budget - 1, shift=shift), min(max(answer, 0.0), 1.0)


def _laplace(seed: int, number: int, scale: float, what: str) -> float:
    """One draw of Lap(scale), its own for each question and use."""
    use = ("first", "question", "answer").index(what)
    return float(np.random.default_rng((seed, number, use)).laplace(scale=scale)) if scale > 0 else 0.0


class ReusableHoldout:
    """Rows that can be asked for means and are not shown: half are the training set, half the hold-out.

    The only way in is `query`; ``log`` says what was asked and answered. `state` and ``resumed`` carry the budget from
    one run to the next: a hold-out wears out by questions, whoever asks them.
    """

    def __init__(
        self, train: Sequence[Any], holdout: Sequence[Any], *, resumed: Mapping[str, Any] | None = None, **knobs: Any
    ) -> None:
        """``knobs`` are those of `Reusable.begin`, or ``resumed`` is an earlier `state`. Raises DataError if empty."""
        if not train or not holdout:
            raise DataError("thresholdout: the training set and the hold-out need a row or more each")
        self.__train, self.__holdout = tuple(train), tuple(holdout)
        self.__reusable = Reusable(**resumed) if resumed is not None else Reusable.begin(**knobs)
        self.log: list[dict[str, Any]] = []

    def query(self, question: Callable[[Any], float], name: str = "") -> float | None:
        """The mean of ``question`` over the rows, as `thresholdout` answers it; None when the budget is used up."""
        train, holdout = (float(np.mean([question(row) for row in rows])) for rows in (self.__train, self.__holdout))
        self.__reusable, answer = thresholdout(self.__reusable, train, holdout)
        self.log.append({"name": name, "answer": answer, "budget": self.__reusable.budget})
        return answer

    @property
    def state(self) -> dict[str, Any]:
        """What to keep, as JSON can hold it."""
        return asdict(self.__reusable)


def thresholdout_study(
    *,
    seed: int = 0,
    rows: int = 2000,
    features: int = 1500,
    keep: int = 200,
    threshold: float = 0.04,
    noise: float = 0.01,
    budget: int = 2000,
) -> dict[str, float]:
    """Choose features of pure noise with the help of a hold-out, and see what the hold-out then says of the choice.

    Labels and features are fair coins, so every classifier is right half of the time. The analyst asks for each
    feature's agreement with the label, keeps those whose answer and whose mean on the training set lie on the same
    side by more than a deviation, takes the ``keep`` strongest on the training set, and lets them vote. ``naive`` is
    what a hold-out that answers everything says of that vote, ``reusable`` what `thresholdout` says (NaN if it
    refuses), and ``fresh`` the same votes' accuracy on rows that nobody has seen (``naive fresh``, ``reusable fresh``).
    ``left`` is the budget that is left.
    """
    rng = np.random.default_rng(seed)
    sides = {name: rng.choice([-1.0, 1.0], size=(rows, features + 1)) for name in ("train", "holdout", "fresh")}
    means = {name: (1 + table[:, :1] * table[:, 1:]).mean(axis=0) / 2 for name, table in sides.items()}
    state = Reusable.begin(threshold=threshold, noise=noise, budget=budget, seed=seed)
    told = np.full(features, np.nan)
    for n in range(features):
        state, answer = thresholdout(state, float(means["train"][n]), float(means["holdout"][n]))
        told[n] = np.nan if answer is None else answer
    votes = {
        name: _vote(means["train"], seen, rows, keep)
        for name, seen in (("naive", means["holdout"]), ("reusable", told))
    }
    right = {name: {side: _accuracy(table, vote) for side, table in sides.items()} for name, vote in votes.items()}
    state, answer = thresholdout(state, right["reusable"]["train"], right["reusable"]["holdout"])
    return {
        "naive": right["naive"]["holdout"],
        "naive fresh": right["naive"]["fresh"],
        "reusable": float("nan") if answer is None else answer,
        "reusable fresh": right["reusable"]["fresh"],
        "left": float(state.budget),
    }


def _vote(train: np.ndarray, told: np.ndarray, rows: int, keep: int) -> np.ndarray:
    """A weight per feature: the side that it votes for, 0 for those that are not kept."""
    least = 0.5 / np.sqrt(rows)
    same = np.where(np.isnan(told), False, (np.abs(told - 0.5) > least) & (np.sign(told - 0.5) == np.sign(train - 0.5)))
    strength = np.where(same & (np.abs(train - 0.5) > least), np.abs(train - 0.5), 0.0)
    chosen = np.argsort(-strength, kind="stable")[:keep]
    weights = np.zeros(len(train))
    weights[chosen] = np.where(strength[chosen] > 0, np.sign(train[chosen] - 0.5), 0.0)
    return weights


def _accuracy(table: np.ndarray, vote: np.ndarray) -> float:
    """How often the vote's side is the label's; a tied vote is right half of the time."""
    return float(((1 + table[:, 0] * np.sign(table[:, 1:] @ vote)) / 2).mean())
