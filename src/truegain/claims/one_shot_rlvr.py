"""One prompt trained on, many asked: what is shared between prompts is learned from a single one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods.exploration import gain_after_saturation
from truegain.recipes.one_shot_rlvr import one_shot_rlvr

# A completion is a choice of format (one of two) and an answer (one of ten); both must be right. The format depends on
# features of the prompt, by weights that all prompts share; answers are each prompt's own.
PROMPTS, FEATURES, ANSWERS, COPIES, SAMPLES, UPDATES, LR = 201, 8, 10, 16, 8, 150, 2.0
FORMAT, ANSWER = 0.85, 3.1  # logit of the right format (30 % errors), logit of the right answer over the others' 0
SPREAD = 0.5  # how much the prompts' features differ
FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": 2}


def _logits(weights: Tensor, own: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs of the two formats [P,2] and of the answers [P,A]; the first of each is right."""
    right = features @ weights
    return torch.stack([right, torch.zeros_like(right)], dim=1).log_softmax(1), own.log_softmax(1)


def _entropy(logp: Tensor) -> Tensor:
    return -(logp.exp() * logp).sum(1)


def _accuracy(weights: Tensor, own: Tensor, features: Tensor) -> Tensor:
    form, answer = _logits(weights.detach(), own.detach(), features)
    return (form[:, 0] + answer[:, 0]).exp()


def _trained(form: Train, seed: int) -> tuple[float, float]:
    """Gain in mean accuracy on the prompts that were not trained on; the part of it after training saturated."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.cat([torch.ones(PROMPTS, 1), SPREAD * torch.randn(PROMPTS, FEATURES - 1, generator=rng)], dim=1)
    weights, own = torch.zeros(FEATURES), 0.5 * torch.randn(PROMPTS, ANSWERS, generator=rng)
    weights[0] = FORMAT
    own[:, 0] += ANSWER
    weights.requires_grad_()
    own.requires_grad_()
    start = [x[:1].detach() for x in _logits(weights, own, features)]
    rows = COPIES * SAMPLES
    accuracy = _accuracy(weights, own, features)
    trained, held = [float(accuracy[0])], [float(accuracy[1:].mean())]
    for _ in range(UPDATES):
        forms, answers = (x[0] for x in _logits(weights, own[:1], features[:1]))
        drawn = [torch.multinomial(p.detach().exp(), rows, replacement=True, generator=rng) for p in (forms, answers)]
        logp = torch.stack([forms[drawn[0]], answers[drawn[1]]], dim=1)
        entropy = torch.stack([_entropy(forms[None]), _entropy(answers[None])], dim=1).expand(rows, 2)
        batch = Batch(
            mask=torch.ones(rows, 2, dtype=torch.bool),
            group=torch.arange(rows) // SAMPLES,
            reward=((drawn[0] == 0) & (drawn[1] == 0)).float(),
            old_logp=logp.detach(),
            ref_logp=torch.stack([start[0][0, drawn[0]], start[1][0, drawn[1]]], dim=1),
        )
        step = step_on(form, batch)
        current = {"logp": logp, "entropy": entropy}
        loss, _ = arithmetic.loss_of(form, step, torch.arange(rows), current, FACTS)
        grads = torch.autograd.grad(loss, [weights, own])
        with torch.no_grad():
            for value, grad in zip((weights, own), grads, strict=True):
                value -= LR * grad
        accuracy = _accuracy(weights, own, features)
        trained.append(float(accuracy[0]))
        held.append(float(accuracy[1:].mean()))
    after = gain_after_saturation(np.array(trained), np.array(held))
    return held[-1] - held[0], 0.0 if np.isnan(after) else after


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    for name, form in {
        "one example": one_shot_rlvr(),
        "without the policy gradient": one_shot_rlvr(policy=False),
    }.items():
        arms[name], arms[f"{name}: after saturation"] = _trained(form, seed)
    return arms


CLAIM = Claim(
    name="one-shot-rlvr",
    system="one-shot-rlvr",
    states="Trained on one of 201 prompts that share how they weigh features of the prompt into a format, the accuracy "
    "on the other 200 rises by more than 7 points more than with penalty and bonus alone; what came after training "
    "accuracy reached 0.99 stands beside it.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["one example"] - arms["without the policy gradient"],
    threshold=0.07,
    seeds=10,
)
