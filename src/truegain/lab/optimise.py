"""Two ways to optimise a policy against a proxy, gold measured all along: best-of-n, and RL on a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.lab.proxies import Proxies
from truegain.methods import evaluation

Curve = dict[str, list[float]]
LOOK_GOLD, LOOK_PROXY = 2048, 256


def best_of_n(score: Tensor, gold: Tensor, ns: tuple[int, ...]) -> Curve:
    """Expected proxy and gold of the best of n from a pool of completions [N], with ``kl`` and ``n``."""
    s, g = score.double().numpy()[None], gold.double().numpy()[None]
    kl = evaluation.best_of_n_kl(np.array(ns))
    means = {name: [float(evaluation.best_of_n(s, v, n=n)[0]) for n in ns] for name, v in (("proxy", s), ("gold", g))}
    return {"n": [float(n) for n in ns], "kl": [float(k) for k in kl], **means}


def reinforce(
    proxies: Proxies, form: Train, *, members: int | None, steps: int, samples: int, lr: float, look_every: int
) -> Curve:
    """Train the base policy by the form's reward, credit and loss; the curve has a look every ``look_every`` steps.

    A look: exact KL, gold over many fresh texts, and the proxy (the form's first reward, penalties left out) over some.
    """
    looks: list[Mapping[str, float]] = []
    for step, logits in policies(proxies, form, members=members, steps=steps, samples=samples, lr=lr):
        if step % look_every == 0 or step == steps:
            looks.append(_look(proxies, form, logits, members, step))
    return {name: [look[name] for look in looks] for name in looks[0]}


def policies(
    proxies: Proxies, form: Train, *, members: int | None, steps: int, samples: int, lr: float
) -> Iterator[tuple[int, Tensor]]:
    """Train the base policy by the form's reward, credit and loss; yield its logits at the start and after each step.

    What is yielded is the policy that is trained: copy what is to be kept.
    """
    world = proxies.world
    logits = world.base.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=lr, betas=(form.loop.beta1, form.loop.beta2))
    rng = torch.Generator().manual_seed(world.seed * 1009 + 12)
    yield 0, logits.detach()
    for step in range(1, steps + 1):
        texts = world.sample(logits.detach(), samples, rng)
        logp = world.logp(logits, texts)
        batch, _ = arithmetic.reward_stage(form, columns(proxies, texts, logp, members), {})
        advantages, _ = arithmetic.credit_stage(form, batch, {})
        (planned,), _ = arithmetic.plan_stage(form, batch, advantages, {})
        loss, _ = arithmetic.loss_of(form, planned, torch.arange(samples), {"logp": logp}, {})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield step, logits.detach()


def columns(proxies: Proxies, texts: Tensor, logp: Tensor, members: int | None) -> Batch:
    """What the form's reward reads of texts: the proxies' scores, and their log-probs under both policies."""
    return Batch(
        mask=torch.ones_like(texts, dtype=torch.bool),
        group=torch.zeros(len(texts), dtype=torch.long),
        model_reward=proxies.score(texts, members),
        old_logp=logp.detach(),
        ref_logp=proxies.world.logp(proxies.world.base, texts),
    )


def _look(proxies: Proxies, form: Train, logits: Tensor, members: int | None, step: int) -> Mapping[str, float]:
    world, now = proxies.world, logits.detach()
    rng = torch.Generator().manual_seed(world.seed * 1009 + 13)
    texts = world.sample(now, LOOK_GOLD, rng)
    some = texts[:LOOK_PROXY]
    proxy: Any = arithmetic.reward_stage(form, columns(proxies, some, world.logp(now, some), members), {})[0]
    return {
        "step": float(step),
        "kl": world.kl(now),
        "proxy": float(proxy["reward_parts"][:, 0].mean()),
        "gold": float(world.gold(texts).mean()),
    }
