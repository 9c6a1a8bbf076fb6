from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.length._decoupled_length import first_answer


@component("fold", cite=("arXiv:2509.25827", "github.com/pixas/DECS"))
@dataclass(frozen=True, kw_only=True)
class prefix_controller:
    """Let more easy problems into the batch as thoughts become all prefix, fewer when they ramble again.

    ``kappa <- kappa + rate * (n_t - n_{t-1})`` with n_t the mean, over right rows with an answer in some step, of
    (first such step + 1) / (number of steps): 1 where nothing follows the first answer. ``n_0 = before``. ``setting``
    is set to kappa, cut to [0, ``most``]; what is kept is not cut: it may be below 0 for a while, which lets none in.
    A step without such a row changes nothing. ``rate`` >= 0; ``most`` in [0, 1). Raises SettingError out of bounds.

    Source: Jiang et al. 2025 (DECS), and its published trainer.

    >>> import torch
    >>> control = prefix_controller()
    >>> step, answers = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    >>> seen = {"has_answer": answers, "step": step, "mask": step >= 0, "correct": torch.ones(1)}
    >>> control.update(control.init(), **seen)[1]
    {'resample.dosed_sampling.kappa': 0.05}
    """

    rate: float = 0.2
    start: float = 0.0
    before: float = 0.5
    most: float = 0.9
    setting: str = "resample.dosed_sampling.kappa"

    def __post_init__(self) -> None:
        """Check the knobs."""
        if self.rate < 0 or not 0 <= self.most < 1:
            raise SettingError(f"prefix_controller: rate={self.rate} must be 0 or more, most={self.most} in [0, 1)")

    def init(self) -> dict[str, float]:
        """No easy problems, and the share that is assumed before the first step."""
        return {"kappa": self.start, "prefix": self.before}

    def update(
        self, state: Mapping[str, float], *, has_answer: Any, step: Any, mask: Any, correct: Any
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The next share of easy problems, from how much of the thoughts was needed."""
        first = first_answer(has_answer, step, mask)
        # Steps are numbered in order, so the last one's number tells how many there are.
        count = torch.where(mask, step, -1).amax(1) + 1 if mask.shape[1] else torch.zeros_like(first)
        known = (first >= 0) & (correct >= 0.5)
        if not bool(known.any()):
            return dict(state), {}
        prefix = float(((first + 1)[known].double() / count[known]).mean())
        kappa = state["kappa"] + self.rate * (prefix - state["prefix"])
        return {"kappa": kappa, "prefix": prefix}, {self.setting: min(max(kappa, 0.0), self.most)}
