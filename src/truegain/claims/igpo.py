"""IGPO against outcome credit on a search for three facts, each of which opens the next: updates to 80 % success."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import credit
from truegain.recipes.igpo import igpo

FACTS, QUERIES, TURNS = 3, 20, 5
BELIEF, NOISE = (0.05, 0.15, 0.4, 0.9), 0.02  # probability of the right answer by facts found, and its error
GROUPS, SAMPLES, LR, LIMIT, WANTED = 8, 8, 0.05, 600, 0.8


def _success(logits: Tensor) -> float:
    """Exact chance to find all facts within the turns."""
    hit = logits.softmax(1).diagonal()
    reach = torch.zeros(FACTS + 1)
    reach[0] = 1.0
    for _ in range(TURNS):
        step = reach[:-1] * hit
        reach = torch.cat([reach[:-1] - step, reach[-1:]]) + torch.cat([torch.zeros(1), step])
    return float(reach[-1])


def _updates_needed(form: Train, seed: int) -> int:
    """Updates until all facts are found in `WANTED` of the tries, at most `LIMIT`."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.zeros(FACTS, QUERIES, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR)
    rows = GROUPS * SAMPLES
    for update in range(LIMIT):
        if _success(logits.detach()) >= WANTED:
            return update
        found, queries, states = torch.zeros(rows, dtype=torch.long), [], [torch.zeros(rows, dtype=torch.long)]
        for _ in range(TURNS):
            # With all facts found what is asked next is idle: it is drawn from the last state's queries.
            chance = logits.detach().softmax(1)[found.clamp(max=FACTS - 1)]
            query = torch.multinomial(chance, 1, generator=rng)[:, 0]
            found = found + ((query == found) & (found < FACTS)).long()
            queries.append(query)
            states.append(found)
        belief = torch.tensor(BELIEF)[torch.stack(states, 1)]
        belief = (belief + NOISE * torch.randn(belief.shape, generator=rng)).clamp(0, 1)
        right = (torch.rand(rows, generator=rng) < torch.tensor(BELIEF)[found]).float()
        before = torch.stack(states[:-1], 1).clamp(max=FACTS - 1)
        asked = logits.log_softmax(1)[before, torch.stack(queries, 1)]
        # The last turn answers; how it does so is not learned here.
        logp = torch.cat([asked, torch.zeros(rows, 1)], 1)
        batch = Batch(
            mask=torch.ones(rows, TURNS + 1, dtype=torch.bool),
            group=torch.arange(rows) // SAMPLES,
            reward=right,
            step=torch.arange(TURNS + 1).expand(rows, -1),
            step_reward=torch.cat([belief.diff(dim=1), right[:, None]], 1),
            old_logp=logp.detach(),
        )
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logp).backward()
        optimiser.step()
    return LIMIT


def _one_seed(seed: int) -> Mapping[str, float]:
    outcome = one_term(igpo(), credit=credit.group_normalise)
    forms = {"igpo": igpo(), "igpo, code": igpo(normalise="code"), "outcome": outcome}
    return {name: float(_updates_needed(form, seed)) for name, form in forms.items()}


CLAIM = Claim(
    name="igpo",
    system="igpo",
    states="In a search for three facts, each of which opens the next, outcome credit standardised within the group "
    "needs more than 1.5 times as many updates to 80 % success as IGPO.",
    unit="ratio of updates",
    one_seed=_one_seed,
    effect=lambda arms: arms["outcome"] / arms["igpo"],
    threshold=1.5,
)
