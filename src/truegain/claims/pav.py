"""PAV on the planted sequence: find eight hidden symbols in order, with provers of several strengths.

Plain gradient steps: under Adam, whose steps have one size whatever the reward says, every arm is near the fewest
updates possible, and the outcome alone takes 1.6 times as many as a prover of strength 10.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.pav import pav

SYMBOLS, HIDDEN, TOKENS = 15, 8, 14
BASE, PROVERS = 5.0, (5.0, 10.0, 20.0)
GROUPS, SAMPLES, LR, LIMIT, WANTED = 8, 4, 1.0, 600, 0.8


def _chance(strength: float) -> float:
    """Chance that a policy of this strength writes the next hidden symbol: its odds are ``strength`` to 1 each."""
    return strength / (strength + SYMBOLS - 1)


def _values(hit: Tensor) -> Tensor:
    """Exact chance to finish, [tokens left, symbols found], when the next is hit with chance ``hit`` [HIDDEN]."""
    table = torch.zeros(TOKENS + 1, HIDDEN + 1)
    table[:, HIDDEN] = 1.0
    for left in range(1, TOKENS + 1):
        table[left, :-1] = hit * table[left - 1, 1:] + (1 - hit) * table[left - 1, :-1]
    return table


def _updates_needed(form: Train, prover: float, seed: int) -> int:
    """Updates until the whole sequence is found in `WANTED` of the tries, at most `LIMIT`."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randint(SYMBOLS, (HIDDEN,), generator=rng)
    start = torch.zeros(HIDDEN, SYMBOLS)
    start[torch.arange(HIDDEN), hidden] = torch.tensor(BASE).log()
    logits = start.requires_grad_()
    optimiser = torch.optim.SGD([logits], lr=LR)
    value = _values(torch.full((HIDDEN,), _chance(prover)))
    rows = GROUPS * SAMPLES
    for update in range(LIMIT):
        hit = logits.detach().softmax(1)[torch.arange(HIDDEN), hidden]
        if float(_values(hit)[TOKENS, 0]) >= WANTED:
            return update
        found = torch.zeros(rows, dtype=torch.long)
        symbols, states = [], [found]
        for _ in range(TOKENS):
            at = found.clamp(max=HIDDEN - 1)
            symbol = torch.multinomial(logits.detach().softmax(1)[at], 1, generator=rng)[:, 0]
            found = found + ((symbol == hidden[at]) & (found < HIDDEN)).long()
            symbols.append(symbol)
            states.append(found)
        state = torch.stack(states, 1)
        mask = state[:, :-1] < HIDDEN
        left = torch.arange(TOKENS, -1, -1)
        progress = value[left, state].diff(dim=1)
        logp = logits.log_softmax(1)[state[:, :-1].clamp(max=HIDDEN - 1), torch.stack(symbols, 1)]
        batch = Batch(
            mask=mask,
            group=torch.arange(rows) // SAMPLES,
            reward=(found == HIDDEN).float(),
            step=torch.where(mask, torch.arange(TOKENS), -1),
            step_reward=progress.masked_fill(~mask, float("nan")),
            old_logp=logp.detach(),
        )
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logp).backward()
        optimiser.step()
    return LIMIT


def _one_seed(seed: int) -> Mapping[str, float]:
    arms = {"outcome": float(_updates_needed(pav(alpha=0.0), BASE, seed))}
    return arms | {f"prover {p:g}": float(_updates_needed(pav(), p, seed)) for p in PROVERS}


CLAIM = Claim(
    name="pav",
    system="pav",
    states="On a planted sequence of 8 out of 15 symbols within 14 tokens, from a policy of strength 5, the outcome "
    "alone needs more than 3 times as many updates to 80 % success as with the progress of a prover of strength 10; "
    "the policy's own first strength and strength 20 stand beside it.",
    unit="ratio of updates",
    one_seed=_one_seed,
    effect=lambda arms: arms["outcome"] / arms["prover 10"],
    threshold=3.0,
)
