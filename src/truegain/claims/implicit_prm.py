"""An implicit PRM on running sums: does it find the step that went wrong, when it was told the outcome alone?

A completion of four steps adds digits up modulo five. A step is two tokens, the digit and the sum after it; now and
then the sum is wrong, and later steps go on from the wrong sum. The language model is a table over the sum before, the
digit and the token to come; its reference is the writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.component import call
from truegain.core.forms import Fit, members
from truegain.methods.reward import implicit_outcome, implicit_steps, weakest_step
from truegain.recipes.implicit_prm import implicit_prm

STEPS, BASE, SLIP = 4, 5, 0.2
ROWS, HELD_OUT, UPDATES, LR = 1500, 4000, 300, 0.1
MASK = torch.ones(1, 2 * STEPS, dtype=torch.bool)
STEP = torch.arange(2 * STEPS)[None] // 2


@dataclass(frozen=True)
class Sums:
    """Completions: the sum before each step, its digit and the sum it writes [N, STEPS]; which steps are wrong."""

    before: Tensor
    digit: Tensor
    after: Tensor
    wrong: Tensor

    @property
    def correct(self) -> Tensor:
        """Whether the last sum is that of the digits: errors may cancel."""
        return ((self.before[:, 0] + self.digit.sum(1)) % BASE == self.after[:, -1]).float()


def _written(rows: int, rng: torch.Generator) -> Sums:
    now = torch.randint(BASE, (rows,), generator=rng)
    found: dict[str, list[Tensor]] = {"before": [], "digit": [], "after": [], "wrong": []}
    for _ in range(STEPS):
        digit = torch.randint(BASE, (rows,), generator=rng)
        off = torch.randint(1, BASE, (rows,), generator=rng)
        wrong = torch.rand(rows, generator=rng) < SLIP
        after = (now + digit + off * wrong) % BASE
        for name, value in (("before", now), ("digit", digit), ("after", after), ("wrong", wrong)):
            found[name].append(value)
        now = after
    return Sums(**{name: torch.stack(value, 1) for name, value in found.items()})


class _Table:
    """A language model of digits given the sum, and of sums given sum and digit."""

    def __init__(self) -> None:
        sums = torch.full((BASE, BASE, BASE), SLIP / (BASE - 1)).log()
        for a in range(BASE):
            for b in range(BASE):
                sums[a, b, (a + b) % BASE] = torch.tensor(1 - SLIP).log()
        self.digits, self.sums = torch.zeros(BASE, BASE).requires_grad_(), sums.requires_grad_()

    def logp(self, rows: Sums) -> Tensor:
        """Log-prob of each token [N, 2 * STEPS]."""
        digit = self.digits.log_softmax(1)[rows.before, rows.digit]
        return torch.stack([digit, self.sums.log_softmax(2)[rows.before, rows.digit, rows.after]], 2).flatten(1)


def _fitted(form: Fit, rows: Sums, told: Tensor, *, step_labels: bool = False) -> _Table:
    """The model after training on the outcomes; with ``step_labels``, on every step's verdict beside them."""
    model, start = _Table(), _Table().logp(rows).detach()
    optimiser = torch.optim.Adam([model.digits, model.sums], lr=LR)
    mask = MASK.expand(len(start), -1)
    columns = Batch(mask=mask, group=torch.arange(len(start)), ref_logp=start, correct=told)
    ((made,), _), everyone = arithmetic.plan_stage(form, columns, (None,), {}), torch.arange(len(start))
    (term,) = form.terms
    (surrogate,) = members(term.surrogate)
    for _ in range(UPDATES):
        logp = model.logp(rows)
        loss = arithmetic.loss_of(form, made, everyone, {"logp": logp}, {}, term.role)[0]
        if step_labels:  # each step is a completion of its own, of two tokens
            one, ref = logp.reshape(-1, 2), start.reshape(-1, 2)
            right = (~rows.wrong).float().flatten()
            each = {"logp": one, "ref_logp": ref, "mask": torch.ones_like(one).bool(), "correct": right}
            loss = loss + call(surrogate, each, {})[0][:, 0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def _ranked(score: Tensor, correct: Tensor) -> float:
    """The chance that a right completion scores above a wrong one, ties half."""
    ahead = score[correct == 1][:, None] - score[correct == 0][None]
    return float(((ahead > 0) + 0.5 * (ahead == 0)).double().mean())


def _measured(model: _Table, rows: Sums, name: str) -> dict[str, float]:
    logp, ref = model.logp(rows).detach(), _Table().logp(rows).detach()
    step, mask = STEP.expand(len(logp), -1), MASK.expand(len(logp), -1)
    steps = implicit_steps(logp, ref, step, mask)["step_reward"]
    planted = rows.wrong.sum(1) == 1
    found = steps[planted].argmin(1) == rows.wrong[planted].int().argmax(1)
    whole = implicit_outcome(logp, ref, mask, beta=0.05)
    return {
        f"{name}: error found": float(found.double().mean()),
        f"{name}: ranking by sum": _ranked(whole, rows.correct),
        f"{name}: ranking by worst step": _ranked(weakest_step(steps, step, mask), rows.correct),
    }


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = torch.Generator().manual_seed(seed)
    _, form, _ = implicit_prm()
    train, held_out = _written(ROWS, rng), _written(HELD_OUT, rng)
    told = train.correct
    arms = _measured(_fitted(form, train, told), held_out, "outcomes")
    arms |= _measured(_fitted(form, train, told, step_labels=True), held_out, "with step labels")
    blind = _fitted(form, train, told[torch.randperm(ROWS, generator=rng)])
    return arms | _measured(blind, held_out, "shuffled outcomes")


def _effect(arms: Mapping[str, float]) -> float:
    gap = abs(arms["with step labels: ranking by worst step"] - arms["outcomes: ranking by worst step"])
    return min(arms["outcomes: error found"] - 0.8, 0.02 - gap)


CLAIM = Claim(
    name="implicit-prm",
    system="implicit-prm",
    states="Trained on the outcomes of 1500 sums of four steps, the least step reward stands at the wrong step in "
    "more than 80 % of held-out completions with one (by chance 25 %), and training on every step's verdict too moves "
    "the ranking of right above wrong, by the worst step, by less than 2 points: the smaller of the two margins is "
    "above 0. Outcomes that are shuffled stand beside it.",
    unit="smaller margin",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
