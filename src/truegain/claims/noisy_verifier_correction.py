"""Directions of the policy gradient under a checker that errs, corrected and not, on a bandit with two prompts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.noisy_verifier_correction import noisy_verifier_correction

ARMS, ROWS, SAMPLES = 5, 20_000, 8
EQUAL, BY_PROMPT = ((0.1, 0.3), (0.1, 0.3)), ((0.0, 0.0), (0.1, 0.6))


def _gradient(form: Train, rates: tuple[tuple[float, float], ...], logits: Tensor, seed: int) -> Tensor:
    """The ascent direction in the logits [2,ARMS] from ROWS samples, judged with each prompt's own rates."""
    rng = torch.Generator().manual_seed(seed)
    group = torch.arange(ROWS) // SAMPLES
    prompt = group % 2
    leaf = logits.clone().requires_grad_()
    logp = leaf.log_softmax(1)
    arm = torch.multinomial(logp.detach().exp()[prompt], 1, generator=rng)
    right = arm[:, 0] == prompt
    accept, reject = torch.tensor(rates, dtype=torch.float32)[prompt].T
    flipped = torch.rand(ROWS, generator=rng) < torch.where(right, reject, accept)
    batch = Batch(
        mask=torch.ones(ROWS, 1, dtype=torch.bool),
        group=group,
        score=(right != flipped).float(),
        false_accept=accept,
        false_reject=reject,
    )
    batch, _ = arithmetic.reward_stage(form, batch, {})
    loss_on(form, step_on(form, batch), logp[prompt].gather(1, arm)).backward()
    assert leaf.grad is not None
    return -leaf.grad.flatten()


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = torch.Generator().manual_seed(seed)
    logits = 0.5 * torch.randn(2, ARMS, generator=rng)
    plain = noisy_verifier_correction(correction="none")
    clean = _gradient(plain, ((0.0, 0.0), (0.0, 0.0)), logits, seed + 1000)
    given = {"rates": "given", "false_accept": 0.1, "false_reject": 0.3}
    forms = {
        "equal rates: uncorrected": (plain, EQUAL),
        "equal rates: backward": (noisy_verifier_correction(**given), EQUAL),  # pyright: ignore[reportArgumentType]
        "equal rates: forward": (noisy_verifier_correction("forward", **given), EQUAL),  # pyright: ignore[reportArgumentType]
        "by prompt: uncorrected": (plain, BY_PROMPT),
        "by prompt: backward": (noisy_verifier_correction(rates="prompt"), BY_PROMPT),
    }
    arms: dict[str, float] = {}
    for name, (form, rates) in forms.items():
        found = _gradient(form, rates, logits, seed)
        arms[f"{name}, cosine"] = float(torch.cosine_similarity(found, clean, dim=0))
        arms[f"{name}, size"] = float(found.norm() / clean.norm())
    return arms


CLAIM = Claim(
    name="noisy-verifier-correction",
    system="noisy-verifier-correction",
    states="On a bandit with two prompts, of which one is judged without error and the other accepts 10 % of the wrong "
    "and rejects 60 % of the right answers, the gradient corrected by each prompt's rates has a cosine with the clean "
    "one that is more than 0.03 above the uncorrected one's; the same at equal rates, where no correction turns it, "
    "stands beside it.",
    unit="cosine",
    one_seed=_one_seed,
    effect=lambda arms: arms["by prompt: backward, cosine"] - arms["by prompt: uncorrected, cosine"],
    threshold=0.03,
)
