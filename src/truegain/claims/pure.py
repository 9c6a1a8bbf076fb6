"""PURE against the same run with summed process rewards, where useless steps earn a little."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import credit
from truegain.recipes.pure import pure

CAREFUL, SLOPPY, FILLER, ANSWER = range(4)
WORK, LIMIT, GROUPS, SAMPLES, UPDATES, LR = 3, 12, 16, 8, 60, 0.1
SAYS, NOISE = torch.tensor([0.6, -0.6, 0.3, 0.0]), 0.1  # what the process reward model says of an action


def _episode(logits: Tensor, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Actions and work done before each [rows, LIMIT], steps taken and success [rows]."""
    done, right = torch.zeros(rows, dtype=torch.long), torch.zeros(rows)
    steps, going, sound = torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool), torch.ones(rows)
    actions, seen = [], []
    for _ in range(LIMIT):
        action = torch.multinomial(logits.softmax(-1)[done], 1, generator=rng)[:, 0]
        actions.append(action)
        seen.append(done)
        steps += going
        right = torch.where(going & (action == ANSWER), sound * (done == WORK), right)
        sound = sound * ~(going & (action == SLOPPY))
        going = going & (action != ANSWER)
        done = torch.where(going & (action <= SLOPPY), done + 1, done).clamp(max=WORK)
    return torch.stack(actions, 1), torch.stack(seen, 1), steps, right


def _batch(logits: Tensor, rng: torch.Generator) -> tuple[Batch, Tensor]:
    """An episode as columns, each step an action and a line's end, and the log-probs with gradient."""
    rows = GROUPS * SAMPLES
    actions, done, steps, right = _episode(logits.detach(), rows, rng)
    says = SAYS[actions] + NOISE * torch.randn(actions.shape, generator=rng)
    # Work beyond what is needed is filler; an answer is judged as a step, by whether it is right.
    says = torch.where((done == WORK) & (actions <= SLOPPY), SAYS[FILLER] + 0 * says, says)
    says = torch.where(actions == ANSWER, (1.2 * right[:, None] - 0.6).expand(says.shape), says)
    step = torch.arange(LIMIT).repeat_interleave(2).expand(rows, -1)
    mask = step < steps[:, None]
    chosen = logits.log_softmax(-1)[done, actions]
    logp = torch.stack([chosen, torch.zeros_like(chosen)], dim=2).flatten(1).masked_fill(~mask, 0.0)
    batch = Batch(
        mask=mask,
        group=torch.arange(rows) // SAMPLES,
        step=torch.where(mask, step, -1),
        step_reward=says.masked_fill(torch.arange(LIMIT) >= steps[:, None], float("nan")),
        correct=right,
        reward=right,
        old_logp=logp.detach(),
    )
    return batch, logp


def _trained(form: Train, seed: int) -> tuple[float, float]:
    """Accuracy and mean number of steps after training."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.zeros(WORK + 1, 4, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR)
    for _ in range(UPDATES):
        batch, logp = _batch(logits, rng)
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, max_tokens=2 * LIMIT), logp).backward()
        optimiser.step()
    _, _, steps, right = _episode(logits.detach(), 4000, rng)
    return float(right.mean()), float(steps.float().mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    form = pure(beta=0.0)
    shared = (credit.leave_one_out, credit.spare_separators)
    # Returns less the group's mean at the same place: a baseline that leaves the objective, the sum, as it is.
    summed = one_term(form, credit=(partial(credit.step_returns, after="place", scale=False), *shared))
    # Rewards less the group's mean per step, as the min-form's own baseline does: this taxes every further step.
    taxed = one_term(form, credit=(partial(credit.step_returns, before="group", scale=False), *shared))
    arms = {"min-form": form, "sum-form": summed, "sum-form less the mean step": taxed}
    found: dict[str, float] = {}
    for name, arm in arms.items():
        found[name], found[f"{name}, steps"] = _trained(arm, seed)
    return found


CLAIM = Claim(
    name="pure",
    system="pure",
    states="With a process reward of 0.3 for a useless step, 0.6 for a good and -0.6 for a bad one, and the verifiable "
    "reward beside it, accuracy after 60 updates is more than 10 points higher in min-form than in sum-form.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["min-form"] - arms["sum-form"],
    threshold=0.1,
)
