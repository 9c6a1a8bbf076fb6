"""A reward model that likes confident wording: what PPO, PPO-C and PPO-M make a policy say about its own answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, steered, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train, members
from truegain.methods import reward
from truegain.methods.evaluation import calibration
from truegain.methods.preference import bradley_terry
from truegain.recipes.ppo_m_ppo_c import ppo_m_ppo_c

CONTEXTS, ANSWERS, LEVELS, SAMPLES, UPDATES, LR = 40, 4, 9, 8, 150, 0.1
SURE = torch.arange(1, LEVELS + 1) / 10  # the confidences that can be stated: 0.1 to 0.9
BIAS, NOISE = 0.5, 0.3
Model = Callable[[Tensor, Tensor], Tensor]  # (noisy quality, stated confidence) -> reward


def _plain_model(quality: Tensor, sure: Tensor) -> Tensor:
    return quality + BIAS * sure


def _calibrated_model(rng: torch.Generator) -> Model:
    """The plain model, linear in quality, confidence and their product, fitted further on confidence pairs."""
    quality = torch.cat([torch.ones(500), torch.zeros(500)]) + NOISE * torch.randn(1000, generator=rng)
    start = torch.tensor([1.0, BIAS, 0.0])
    w = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([w], lr=0.05)
    high, low = torch.tensor(0.9), torch.tensor(0.2)

    def score(sure: Tensor) -> Tensor:
        return w[0] * quality + w[1] * sure + w[2] * quality * sure

    for _ in range(100):
        optimiser.zero_grad()
        up, down = score(high), score(low)
        loss = bradley_terry(up[:500], down[:500]).mean() + bradley_terry(down[500:], up[500:]).mean()
        loss.backward()
        optimiser.step()
    done = w.detach()
    return lambda quality, sure: done[0] * quality + done[1] * sure + done[2] * quality * sure


def _trained(form: Train, model: Model, hides: bool, seed: int) -> tuple[float, float, float]:
    """Accuracy, mean confidence and calibration error of a policy that states how sure it is of its answer."""
    rng = torch.Generator().manual_seed(seed)
    rates = torch.linspace(0.05, 0.95, CONTEXTS)[:, None] * torch.tensor([1.0, 0.5, 0.5, 0.5])
    answers = torch.zeros(CONTEXTS, ANSWERS, requires_grad=True)
    levels = torch.zeros(CONTEXTS, ANSWERS, LEVELS, requires_grad=True)
    optimiser = torch.optim.Adam([answers, levels], lr=LR, betas=(0.9, 0.99))
    group, usual = torch.arange(CONTEXTS).repeat_interleave(SAMPLES), torch.zeros(CONTEXTS)
    fold = next((member() for member in members(form.fold)), None)
    state = None if fold is None else fold.init()
    for update in range(UPDATES):
        said = torch.multinomial(answers.detach().softmax(1), SAMPLES, replacement=True, generator=rng).flatten()
        level = torch.multinomial(levels.detach().softmax(2)[group, said], 1, generator=rng)[:, 0]
        right = (torch.rand(len(group), generator=rng) < rates[group, said]).float()
        quality = right + NOISE * torch.randn(len(group), generator=rng)
        seen = quality if hides else model(quality, SURE[level])

        def logps() -> Tensor:
            first = answers.log_softmax(1)[group, said]  # noqa: B023
            return torch.stack([first, levels.log_softmax(2)[group, said, level]], dim=1)  # noqa: B023

        columns = Batch(
            mask=torch.ones(len(group), 2, dtype=torch.bool),
            group=group,
            score=seen,
            confidence=SURE[level],
            old_logp=logps().detach(),
            old_value=usual[group, None].expand(-1, 2).clone(),
        )
        facts = {"progress": 0.0, "step_index": update, "max_tokens": 2}
        batch, logs = arithmetic.reward_stage(form, columns, facts)
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logps()).backward()
        optimiser.step()
        usual = usual + 0.1 * (batch["reward"].reshape(CONTEXTS, SAMPLES).mean(1) - usual)
        if fold is not None:
            state, out = fold.update(state, line={name: total / count for name, (total, count) in logs.items()})
            form = steered(form, out)
    return _measured(answers.detach(), levels.detach(), rates, rng)


def _measured(answers: Tensor, levels: Tensor, rates: Tensor, rng: torch.Generator) -> tuple[float, float, float]:
    context = torch.arange(CONTEXTS).repeat_interleave(500)
    said = torch.multinomial(answers.softmax(1), 500, replacement=True, generator=rng).flatten()
    sure = SURE[torch.multinomial(levels.softmax(2)[context, said], 1, generator=rng)[:, 0]]
    right = (torch.rand(len(context), generator=rng) < rates[context, said]).double()
    found = calibration(sure.double().numpy(), right.numpy(), context.numpy(), reps=100)
    return float(right.mean()), float(sure.mean()), float(found.ece.value)


def _one_seed(seed: int) -> Mapping[str, float]:
    ours = ppo_m_ppo_c()
    shaped = replace(ours, reward=(reward.user_score, members(ours.reward)[1]))
    plain = replace(ours, reward=reward.user_score, fold=())
    calibrated = _calibrated_model(torch.Generator().manual_seed(seed + 1000))
    arms: dict[str, float] = {}
    for name, form, model, hides in (
        ("ppo", plain, _plain_model, False),
        ("ppo-c", shaped, _plain_model, True),
        ("ppo-m", plain, calibrated, False),
    ):
        accuracy, sure, error = _trained(form, model, hides, seed)
        arms |= {f"{name}: calibration error": error, f"{name}: accuracy": accuracy, f"{name}: mean confidence": sure}
    return arms


def _effect(arms: Mapping[str, float]) -> float:
    """By how much the worse of the two variants lowers the calibration error, as a share of PPO's."""
    worse = max(arms["ppo-c: calibration error"], arms["ppo-m: calibration error"])
    return 1 - worse / arms["ppo: calibration error"]


CLAIM = Claim(
    name="ppo-m-ppo-c",
    system="ppo-m-ppo-c",
    states="On 40 contexts whose best answers are right 5 to 95 % of the time, under a reward model that pays for "
    "confident wording, PPO-C and PPO-M both end with a calibration error of less than half of PPO's; accuracies stand "
    "beside it.",
    unit="share of PPO's calibration error",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.5,
)
