from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truegain.core.component import component


@component("fold", cite="arXiv:2510.00915")
@dataclass(frozen=True, kw_only=True)
class false_reject_rate:
    """Estimate from appeals how many right answers the checker rejects, and set a correction's rate for the next step.

    Of the step's rows, ``n_1`` were accepted, ``n_0`` rejected; of the rejected ones that a second verifier looked at,
    the share ``a`` were right. ``rho1 = a n_0 / (n_1 + a n_0)``, taking accepted answers for right ones; smoothed over
    steps by numerator and denominator, ``S <- decay S + (1 - decay) s``, so that a step with few right answers counts
    little, and clipped to [0, ``cap``]. A step without an appeal changes nothing.

    ``decay`` in [0, 1), ``cap`` below 1. ``setting`` names the knob that is set. Source: Cai et al. 2025, appeals; the
    smoothing is ours.

    >>> import torch
    >>> rate = false_reject_rate(decay=0.0)
    >>> score, appeal = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([float("nan"), float("nan"), 1.0, 0.0])
    >>> {k: round(v, 4) for k, v in rate.update(rate.init(), score=score, appeal=appeal)[1].items()}
    {'unbiased_verdict.false_reject': 0.3333}
    """

    decay: float = 0.9
    cap: float = 0.49
    setting: str = "unbiased_verdict.false_reject"

    def init(self) -> dict[str, float]:
        """Nothing seen."""
        return {"rescued": 0.0, "right": 0.0}

    def update(
        self, state: Mapping[str, float], *, score: Any, appeal: Any
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The rate of the steps so far."""
        asked = ~appeal.isnan()
        if not bool(asked.any()):
            return dict(state), {}
        accepted = float((score >= 0.5).sum())
        rescued = float(appeal[asked].mean()) * float((score < 0.5).sum())
        new = {"rescued": rescued, "right": accepted + rescued}
        kept = {name: self.decay * state[name] + (1 - self.decay) * value for name, value in new.items()}
        rate = kept["rescued"] / kept["right"] if kept["right"] > 0 else 0.0
        return kept, {self.setting: min(max(rate, 0.0), self.cap)}
