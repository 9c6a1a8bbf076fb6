"""ProRAG on questions of two hops whose answers the policy mostly knows by heart, with a judge of steps 80 % right.

The first hop has one right way and three corrupt ones, the second gives one of four answers. Each way leads to an
answer of its own, the right one to the right one. After a corrupt hop the policy gives the right answer by heart in
70 % of the tries, a lucky answer, and the one it was led to in 20 %. (At 40 % each, the first set-up, the outcome alone
ends at 88 %, as a corrupt hop halves the success, and leaves nothing to gain.)

The judge finds a step sound that goes the right way, or that gives the answer it was led to, and errs on a fifth of all
steps, always on the same ones. Compute counts forward passes: one to draw a row, three to train on it, one for the
judge; the arm without a judge takes that many more updates.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.prorag import prorag

QUESTIONS, WAYS, SAMPLES = 16, 4, 8
BY_HEART, LED, SURE, WRONG, LOGIT = 0.7, 0.2, 0.8, 0.2, 2.0
UPDATES, MORE, LR = 80, 100, 8.0
ALLOWED = 0.02


def _start() -> tuple[Tensor, Tensor]:
    """Log-odds of the ways [Q, W], all alike, and of the answers after each way [Q, W, A]; number 0 is right."""
    answers = torch.full((WAYS, WAYS), (1 - BY_HEART - LED) / (WAYS - 2))
    answers[:, 0] = BY_HEART
    answers.fill_diagonal_(LED)
    answers[0] = (1 - SURE) / (WAYS - 1)
    answers[0, 0] = SURE
    return torch.zeros(QUESTIONS, WAYS), answers.log().expand(QUESTIONS, -1, -1).clone()


def _judge(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits of the steps [Q, W] and [Q, W, A]."""
    ways = (torch.arange(WAYS) == 0).expand(QUESTIONS, -1)
    answers = torch.eye(WAYS, dtype=torch.bool).expand(QUESTIONS, -1, -1)
    said = [sound ^ (torch.rand(sound.shape, generator=rng) < WRONG) for sound in (ways, answers)]
    return LOGIT * (2 * said[0].float() - 1), LOGIT * (2 * said[1].float() - 1)


def _trained(form: Train, updates: int, seed: int) -> tuple[float, float]:
    """Accuracy, and the share of right answers that the right way led to, both exact."""
    rng = torch.Generator().manual_seed(seed)
    judge = _judge(rng)
    ways, answers = (logits.requires_grad_() for logits in _start())
    optimiser = torch.optim.SGD([ways, answers], lr=LR)
    asked = torch.arange(QUESTIONS).repeat_interleave(SAMPLES)
    mask = torch.ones(len(asked), 2, dtype=torch.bool)
    for _ in range(updates):
        way = torch.multinomial(ways.detach().softmax(1)[asked], 1, generator=rng)[:, 0]
        answer = torch.multinomial(answers.detach().softmax(2)[asked, way], 1, generator=rng)[:, 0]
        logp = torch.stack([ways.log_softmax(1)[asked, way], answers.log_softmax(2)[asked, way, answer]], 1)
        batch = Batch(
            mask=mask,
            group=asked,
            step=torch.arange(2).expand(len(asked), -1),
            step_reward=torch.stack([judge[0][asked, way], judge[1][asked, way, answer]], 1),
            reward=1 + 2 * (answer == 0).float(),
            old_logp=logp.detach(),
        )
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, 2), logp).backward()
        optimiser.step()
    both = ways.detach().softmax(1) * answers.detach().softmax(2)[:, :, 0]
    right = both.sum(1)
    return float(right.mean()), float((both[:, 0] / right).mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    dual = _trained(prorag()[-1], UPDATES, seed)
    outcome = _trained(prorag(beta=0.0)[-1], MORE, seed)
    return {"dual": dual[1], "outcome": outcome[1], "accuracy, dual": dual[0], "accuracy, outcome": outcome[0]}


def _effect(arms: Mapping[str, float]) -> float:
    """0 for a seed that pays with accuracy."""
    paid = arms["accuracy, outcome"] - arms["accuracy, dual"] > ALLOWED
    return 0.0 if paid else arms["dual"] - arms["outcome"]


CLAIM = Claim(
    name="prorag",
    system="prorag",
    states="On two-hop questions whose answers the policy gives by heart in 70 % of the tries after a corrupt hop, the "
    "share of right answers that a right hop led to is more than 10 points higher with beta 0.3 and a judge of steps "
    "that is 80 % right than with the outcome alone at as much compute; a seed whose accuracy is more than 2 points "
    "lower counts as no gain.",
    unit="share of right answers",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.1,
    seeds=10,
)
