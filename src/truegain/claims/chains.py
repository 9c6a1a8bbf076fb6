"""Chains of useful steps, filler and a stop, over problems that need 2 to 7 useful steps: a toy reasoner of claims."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = 6
WORK, FILLER, STOP = 0, 1, 2
KNOWS, GUESSES = 0.95, 0.1
NEED = torch.arange(2, 2 + KINDS)  # steps of work that each kind of problem takes: 2 to 7
MOST = int(NEED[-1])


@dataclass(frozen=True)
class Drawn:
    """Chains of B rows: what was chosen [B,T], how much work was done before [B,T], which tokens there are."""

    kind: Tensor
    action: Tensor
    done: Tensor
    mask: Tensor
    correct: Tensor
    truncated: Tensor

    def logp(self, logits: Tensor) -> Tensor:
        """Log-probs of the chosen actions."""
        chosen = logits.log_softmax(-1)[self.kind[:, None], self.done, self.action]
        return chosen.masked_fill(~self.mask, 0.0)

    def take(self, rows: Tensor) -> Drawn:
        """Some of the rows."""
        return Drawn(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def chance_of(done: Tensor, kind: Tensor, knows: Tensor | float = KNOWS) -> Tensor:
    """Chance that an answer is right after so much work [B,...], for rows of a kind [B]."""
    known = torch.as_tensor(knows).expand(KINDS)[kind]
    shape = (-1, *[1] * (done.dim() - 1))
    return torch.where(done >= NEED[kind].reshape(shape), known.reshape(shape), GUESSES)


def start() -> Tensor:
    """Logits [kind, work done, action]: one useful step in three, and a stop once the work is done, rarely before."""
    ready = torch.arange(MOST + 1)[None, :] >= NEED[:, None]
    before, after = torch.tensor([0.332, 0.663, 0.005]), torch.tensor([0.1, 0.4, 0.5])
    return torch.where(ready[..., None], after, before).log()


def draw(logits: Tensor, kind: Tensor, limit: int, rng: torch.Generator, knows: Tensor | float = KNOWS) -> Drawn:
    """Sample a chain for each row: right with ``knows`` [kinds] if its work was done when it stopped, else a guess."""
    odds = logits.detach().softmax(-1)
    rows = len(kind)
    done, alive = torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool)
    actions, states, masks = list[Tensor](), list[Tensor](), list[Tensor]()
    for _ in range(limit):
        action = torch.multinomial(odds[kind, done], 1, generator=rng)[:, 0]
        actions.append(action)
        states.append(done)
        masks.append(alive)
        done = torch.where(alive & (action == WORK), done + 1, done).clamp(max=MOST)
        alive = alive & (action != STOP)
    chance = chance_of(done, kind, knows)
    right = (torch.rand(rows, generator=rng) < chance) & ~alive
    chosen, before, mask = (torch.stack(parts, dim=1) for parts in (actions, states, masks))
    return Drawn(kind, chosen, before, mask, right.float(), alive)
