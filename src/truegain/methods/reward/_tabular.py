"""Small Markov decision processes with known dynamics: exact returns, occupancies and policy gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Process:
    """``start`` [S], ``move`` [S, A, S] (rows may sum to less than 1: the rest ends the episode), ``steps`` at most."""

    start: Tensor
    move: Tensor
    steps: int

    @property
    def shape(self) -> tuple[int, int]:
        """States and actions."""
        return self.move.shape[0], self.move.shape[1]

    def policy(self, theta: Tensor) -> Tensor:
        """Softmax policy [S, A] from its logits [S * A]."""
        return theta.reshape(self.shape).softmax(1)

    def occupancy(self, chance: Tensor) -> Tensor:
        """Chance to be in each state at each step, [steps, S], under the policy [S, A]."""
        flow, now, found = torch.einsum("sa,sat->st", chance, self.move), self.start, list[Tensor]()
        for _ in range(self.steps):
            found.append(now)
            now = now @ flow
        return torch.stack(found)

    def returns(self, chance: Tensor, reward: Tensor, gamma: Tensor | float) -> Tensor:
        """Discounted return of taking each action at each step, [steps, S, A], for ``reward`` [S, A]."""
        value, found = torch.zeros(self.shape[0], dtype=reward.dtype), list[Tensor]()
        for _ in range(self.steps):
            q = reward + gamma * (self.move @ value)
            value = (chance * q).sum(1)
            found.append(q)
        return torch.stack(found[::-1])

    def value(self, theta: Tensor, reward: Tensor, gamma: Tensor | float) -> Tensor:
        """Expected discounted return from the start."""
        chance = self.policy(theta)
        return self.start @ (chance * self.returns(chance, reward, gamma)[0]).sum(1)

    def gradient(self, theta: Tensor, reward: Tensor, gamma: Tensor | float) -> Tensor:
        """``E[sum_t grad log pi(a_t | s_t) * sum_{k>=t} gamma^{k-t} r_k]``, [S * A]: the usual policy gradient.

        As implementations have it, without the factor gamma^t; differentiable in everything.
        """
        chance = self.policy(theta)
        q = self.returns(chance, reward, gamma)
        centred = q - (chance * q).sum(2, keepdim=True)
        return torch.einsum("ts,sa,tsa->sa", self.occupancy(chance), chance, centred).reshape(-1)
