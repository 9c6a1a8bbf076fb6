"""Which benchmark says what becomes of best-of-n: one against nine in one style, or one against one in another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from truegain.claims.claim import Claim
from truegain.methods.evaluation import best_of_n, one_to_many, score_correlation

MODELS, ERRORS, CONTENT = 24, 9, 12
BENCH, PROMPTS, ANSWERS, N = 400, 60, 200, 64
RIGHT, HUMAN = 0.3, 0.1
"""Of the policy's answers, how many are right, and how many are in the human's style."""


class _World:
    """Solutions as features: what is right or wrong about them, and last the style, human or machine.

    Right ones lie on one side of the origin, and each of nine kinds of error on a side of its own.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.right = self._direction()
        self.wrong = np.stack([self._direction() for _ in range(ERRORS)])

    def _direction(self) -> np.ndarray:
        drawn = self.rng.normal(size=CONTENT)
        return 2.0 * drawn / np.linalg.norm(drawn)

    def solutions(self, kind: np.ndarray, human: np.ndarray) -> np.ndarray:
        """Features [N, CONTENT + 1] of solutions with errors of these kinds, -1 for none."""
        centre = np.where((kind < 0)[:, None], self.right, self.wrong[kind])
        style = np.where(human, 1.0, -1.0) + 0.3 * self.rng.normal(size=len(kind))
        return np.concatenate([centre + self.rng.normal(size=centre.shape), style[:, None]], axis=1)

    def reward_model(self, pairs: int, kinds: int, shortcut: bool) -> np.ndarray:
        """Weights fitted by Bradley-Terry to pairs with some kinds of error; with a shortcut, the right ones human."""
        seen = self.rng.permutation(ERRORS)[:kinds]
        good = self.solutions(np.full(pairs, -1), np.full(pairs, shortcut))
        ahead = good - self.solutions(self.rng.choice(seen, pairs), np.zeros(pairs, dtype=bool))
        weight = np.zeros(CONTENT + 1)
        for _ in range(200):
            miss = 1 / (1 + np.exp(ahead @ weight))
            weight += 0.5 * ((miss[:, None] * ahead).mean(axis=0) - 0.01 * weight)
        return weight

    def benchmark(self, wrong: int, mismatched: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, correctness and problem; one right solution and ``wrong`` others, each of another kind of error."""
        kinds = np.tile(np.arange(-1, wrong), BENCH)
        problem = np.repeat(np.arange(BENCH), wrong + 1)
        return self.solutions(kinds, (kinds < 0) & mismatched), (kinds < 0).astype(float), problem

    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of the policy's answers [PROMPTS * ANSWERS, CONTENT + 1] and which are right."""
        count = PROMPTS * ANSWERS
        kinds = np.where(self.rng.random(count) < RIGHT, -1, self.rng.integers(ERRORS, size=count))
        return self.solutions(kinds, self.rng.random(count) < HUMAN), (kinds < 0).astype(float)


def _one_seed(seed: int) -> Mapping[str, float]:
    world = _World(seed)
    models = [
        world.reward_model(round(50 * 16 ** world.rng.random()), int(world.rng.integers(1, ERRORS + 1)), m % 2 == 0)
        for m in range(MODELS)
    ]
    answers, right = world.answers()
    shape = (PROMPTS, ANSWERS)
    gold = right.reshape(shape)
    gain = np.array([best_of_n((answers @ w).reshape(shape), gold, n=N).mean() for w in models]) - right.mean()
    arms = {"best-of-n gain, mean": float(gain.mean()), "best-of-n gain, deviation": float(gain.std())}
    for name, wrong, mismatched in (
        ("one to nine, same style", ERRORS, False),
        ("one to one, same style", 1, False),
        ("one to nine, other style", ERRORS, True),
        ("one to one, other style", 1, True),
    ):
        features, correct, problem = world.benchmark(wrong, mismatched)
        accuracy = np.array([one_to_many(features @ w, correct, problem).accuracy.value for w in models])
        arms[name] = score_correlation(accuracy, gain).spearman
        arms[f"{name}: accuracy"] = float(accuracy.mean())
    return arms


CLAIM = Claim(
    name="rewardmath",
    system="rewardmath",
    states="Over 24 linear reward models fitted to pairs, half of them to pairs whose right solutions alone are in a "
    "human's style, the accuracy on one right against nine wrong solutions in one style correlates with the gain of "
    "the best of 64 by a Spearman's coefficient over 0.5 above that of the accuracy on one against one in another.",
    unit="Spearman correlation",
    one_seed=_one_seed,
    effect=lambda arms: arms["one to nine, same style"] - arms["one to one, other style"],
    threshold=0.5,
    seeds=10,
)
