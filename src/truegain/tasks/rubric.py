"""A rubric as gold scorer, with a base policy and noisy preferences: the truth of the over-optimisation laboratory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.core.types import SPLITS, Abstain, Environment, Pair, Problem, Rollout, Split

BLOCK = 8192
"""Pairs or problems of a split, and completions of the base policy by which gold is standardised."""
GOOD = 1.0
"""Gold, in deviations of the base policy's texts, above which a text counts as correct."""


@dataclass(frozen=True)
class Rubric:
    """Texts of ``tokens`` letters; which rubric is the truth and how the base policy writes is drawn by ``seed``.

    Gold: letter k is an item of the rubric, worth ``v_k`` (standard normal); mentioned c times it earns
    ``v_k (1 - 2^-c)``: every further mention half as much. The sum over items is standardised over the base policy's
    texts, so that gold is 0 with deviation 1 there. Nothing else is in it: no trap, no cliff. A transformer can learn
    it from enough clean pairs.

    The base policy is a table: the next letter given the last, with a rank-frequency law like that of words. Pairs are
    two of its texts, labelled by gold, a share ``flip`` of the labels turned round.

    As a task every problem asks the same, after an empty prompt: a text, whoever writes it. Other characters than the
    letters earn nothing, and none counts beyond the first ``tokens``. ``score`` is its gold; ``correct`` says that gold
    is above `GOOD`.

    Raises SettingError for fewer than 2 or more than 26 letters, no tokens, or a flip outside [0, 0.5].
    """

    seed: int = 0
    letters: int = 20
    tokens: int = 20
    flip: float = 0.25

    def __post_init__(self) -> None:  # noqa: D105
        if not (2 <= self.letters <= 26 and self.tokens >= 1 and 0 <= self.flip <= 0.5):
            raise SettingError(
                f"task rubric: letters={self.letters} is 2 to 26, tokens={self.tokens} 1 or more, flip={self.flip:g} 0 "
                "to 0.5"
            )

    @property
    def name(self) -> str:
        """What the pairs are of."""
        return f"rubric,seed={self.seed},letters={self.letters},tokens={self.tokens},flip={self.flip:g}"

    @cached_property
    def base(self) -> Tensor:
        """Logits [letters + 1, letters] of the next letter; the last row stands for the beginning."""
        frequent = -0.7 * torch.log(torch.arange(1, self.letters + 1).float())
        return torch.randn(self.letters + 1, self.letters, generator=self._rng(1)) + frequent

    @cached_property
    def worth(self) -> Tensor:
        """What each letter is worth [letters]."""
        return torch.randn(self.letters, generator=self._rng(2))

    def sample(self, logits: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """Texts [count, tokens] of a policy with these logits."""
        chance = logits.softmax(dim=1)
        last, text = torch.full((count,), self.letters), list[Tensor]()
        for _ in range(self.tokens):
            last = torch.multinomial(chance[last], 1, generator=rng)[:, 0]
            text.append(last)
        return torch.stack(text, dim=1)

    def logp(self, logits: Tensor, texts: Tensor) -> Tensor:
        """Log-probs [count, tokens] of texts under a policy."""
        begin = torch.full((len(texts), 1), self.letters)
        return logits.log_softmax(dim=1)[torch.cat([begin, texts[:, :-1]], dim=1), texts]

    def kl(self, logits: Tensor) -> float:
        """KL(policy || base) of whole texts in nats, exact: over the chance to stand at each letter at each step."""
        log_chance, log_base = logits.double().log_softmax(dim=1), self.base.double().log_softmax(dim=1)
        chance = log_chance.exp()
        each = (chance * (log_chance - log_base)).sum(dim=1)
        at, total = torch.zeros(self.letters + 1, dtype=torch.float64), 0.0
        at[-1] = 1.0
        for _ in range(self.tokens):
            total += float(at @ each)
            at = torch.cat([at @ chance, at.new_zeros(1)])
        return max(total, 0.0)

    def gold(self, texts: Tensor) -> Tensor:
        """The truth [count], 0 with deviation 1 over texts of the base policy."""
        mean, deviation = self._scale
        return (self._earned(texts) - mean) / deviation

    @cached_property
    def _scale(self) -> tuple[float, float]:
        earned = self._earned(self.sample(self.base, BLOCK, self._rng(3)))
        return float(earned.mean()), float(earned.std())

    def _earned(self, texts: Tensor) -> Tensor:
        mentions = torch.zeros(len(texts), self.letters).scatter_add_(1, texts, torch.ones(texts.shape))
        return (1 - 0.5**mentions) @ self.worth

    def text(self, letters: Tensor) -> str:
        """Letters a, b, c, ..."""
        return "".join(chr(ord("a") + n) for n in letters.tolist())

    # What a task is asked

    @property
    def stop(self) -> tuple[str, ...]:
        """No stop strings: a text ends where its writer ends it."""
        return ()

    @property
    def supplies(self) -> tuple[str, ...]:
        """The columns that its checker fills."""
        return ("correct", "score")

    @property
    def max_tokens(self) -> int:
        """A letter is a token."""
        return self.tokens

    def size(self, split: Split) -> int:
        """How many pairs, and problems, a split has."""
        return BLOCK

    def problem(self, split: Split, index: int) -> Problem:
        """The same question again, under an id of its own."""
        return Problem(f"rubric-{self.seed}-{split}-{index}", "", None, {"task": "rubric"})

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        """Gold of the text as ``score``, and whether it is above `GOOD` as ``correct``."""
        mentions = torch.zeros(self.letters)
        for letter in rollout.text[: self.tokens]:
            if 0 <= ord(letter) - ord("a") < self.letters:
                mentions[ord(letter) - ord("a")] += 1
        mean, deviation = self._scale
        gold = (float((1 - 0.5**mentions) @ self.worth) - mean) / deviation
        return {"correct": float(gold > GOOD), "score": gold}

    def final(self, problem: Problem, text: str) -> str | None:
        """The text."""
        return text

    def environment(self) -> Callable[[], Environment] | None:
        """None: one turn."""
        return None

    def respond(self, env: Environment, text: str) -> str | None:
        """None: there is no tool."""
        return None

    # Preference pairs, as `truegain.train.reward_models` takes them

    def pair(self, split: Split, index: int) -> Pair:
        """Pair ``index`` of a split: two texts of the base policy, labelled by gold but for the flips."""
        texts, ahead, flipped = self._block(split)
        one, other = (self.text(texts[2 * index + side]) for side in (0, 1))
        first = (float(ahead[index]) > 0) != bool(flipped[index])
        chosen, rejected = (one, other) if first else (other, one)
        meta = {"task": "rubric", "flipped": bool(flipped[index])}
        return Pair(f"rubric-{self.seed}-{split}-{index}", "", chosen, rejected, meta)

    def _block(self, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        if split not in self._blocks:
            rng = self._rng(4 + SPLITS.index(split))
            texts = self.sample(self.base, 2 * BLOCK, rng)
            gold = self.gold(texts)
            self._blocks[split] = (texts, gold[0::2] - gold[1::2], torch.rand(BLOCK, generator=rng) < self.flip)
        return self._blocks[split]

    @cached_property
    def _blocks(self) -> dict[Split, tuple[Tensor, Tensor, Tensor]]:
        return {}

    def _rng(self, stage: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1009 + stage)
