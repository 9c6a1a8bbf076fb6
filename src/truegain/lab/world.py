"""The truth of the over-optimisation laboratory: a rubric as gold scorer, a base policy, and noisy preferences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from truegain.core.types import SPLITS, Pair, Split

BLOCK = 8192
"""Pairs of a split, and completions of the base policy by which gold is standardised."""


@dataclass(frozen=True)
class World:
    """Texts of ``tokens`` letters; which rubric is the truth and how the base policy writes is drawn by ``seed``.

    Gold: letter k is an item of the rubric, worth ``v_k`` (standard normal); mentioned c times it earns
    ``v_k (1 - 2^-c)``: every further mention half as much. The sum over items is standardised over the base policy's
    texts, so that gold is 0 with deviation 1 there. Nothing else is in it: no trap, no cliff. A transformer can learn
    it from enough clean pairs.

    The base policy is a table: the next letter given the last, with a rank-frequency law like that of words. Pairs are
    two of its texts, labelled by gold, a share ``flip`` of the labels turned round.
    """

    seed: int
    letters: int = 20
    tokens: int = 20
    flip: float = 0.25

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

    # Preference pairs, as `truegain.train.reward_models` takes them

    def size(self, split: Split) -> int:
        """How many pairs a split has."""
        return BLOCK

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
