"""The discount of likely answers on a bandit with one likely and five rare right arms: how many stay alive?"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.unlikeliness_reward import unlikeliness_reward

RIGHT, WRONG = (0.3, *[0.01] * 5), 14
# Plain gradient ascent: Adam moves the logit of a rare arm as fast as that of a likely one, so nothing is sharpened.
PROMPTS, SAMPLES, EPOCHS, BATCHES, LR, ALIVE = 8, 32, 2, 400, 0.2, 0.02


def _trained(form: Train, seed: int) -> tuple[float, float]:
    """Right arms above 2 %, and the probability of a right one, after training."""
    rng = torch.Generator().manual_seed(seed)
    start = torch.tensor([*RIGHT, *[(1 - sum(RIGHT)) / WRONG] * WRONG]).log()
    logits = start.requires_grad_()
    optimiser = torch.optim.SGD([logits], lr=LR)
    rows = PROMPTS * SAMPLES
    group, mask = torch.arange(PROMPTS).repeat_interleave(SAMPLES), torch.ones(rows, 1, dtype=torch.bool)
    facts = {"progress": 0.0, "step_index": 0, "max_tokens": 1}
    for _ in range(BATCHES):
        before = logits.detach().log_softmax(0)
        arms = torch.multinomial(before.exp(), rows, replacement=True, generator=rng)
        right = (arms < len(RIGHT)).float()
        batch = Batch(
            mask=mask,
            group=group,
            correct=right,
            old_logp=before[arms, None],
            engine_logp=before[arms, None],
        )
        step = step_on(form, arithmetic.reward_stage(form, batch, facts)[0])
        for _ in range(EPOCHS):
            optimiser.zero_grad()
            loss_on(form, step, logits.log_softmax(0)[arms, None]).backward()
            optimiser.step()
    odds = logits.detach().softmax(0)[: len(RIGHT)].double()
    return float((odds > ALIVE).sum()), float(odds.sum())


def _one_seed(seed: int) -> Mapping[str, float]:
    # No penalty to the reference in either arm: it would hold the right arms at their first proportions.
    ours, accuracy = _trained(unlikeliness_reward(beta=0.0), seed)
    theirs, plain = _trained(unlikeliness_reward(beta_rank=0.0, beta=0.0), seed)
    return {"discount": ours, "no discount": theirs, "pass@1, discount": accuracy, "pass@1, no discount": plain}


CLAIM = Claim(
    name="unlikeliness-reward",
    system="unlikeliness-reward",
    states="On a bandit with one right arm of probability 0.3 and five of 0.01, the number of right arms above 0.02 "
    "after 400 batches is larger by more than 1 with the discount of likely answers than without.",
    unit="right arms",
    one_seed=_one_seed,
    effect=lambda arms: arms["discount"] - arms["no discount"],
    threshold=1.0,
)
