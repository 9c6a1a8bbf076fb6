from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.methods.credit._bundles import bundles_of


@component("fold", cite=("arXiv:2510.00911", "RTkenny/RiskPO quantile_tracking"))
@dataclass(frozen=True, kw_only=True)
class track_quantiles:
    """Follow two quantiles of the scores of bundled prompts over the run, and hand them to `bundled_risk`.

    The first step takes the quantiles of all its papers, pooled over the bundles; every later one moves them by ``q
    <- q + rate * (level - share of papers below q)``. ``bundle``, ``lower`` and ``upper`` are those of
    `bundled_risk`, ``rate`` > 0 is in units of reward. ``setting`` names the component whose ``lower_at`` and
    ``upper_at`` are set for the next step. Source: Ren et al. 2025; a level is followed without regard to the others,
    so the two in use are followed and not its whole grid.

    >>> import torch
    >>> fold, rows = track_quantiles(bundle=1, lower=0.25, upper=0.5), torch.arange(5)
    >>> state, out = fold.update(fold.init(), reward=rows.float(), group=0 * rows, key=rows)
    >>> out
    {'bundled_risk.lower_at': 1.0, 'bundled_risk.upper_at': 2.0}
    >>> state, out = fold.update(state, reward=rows.float() - 2, group=0 * rows, key=rows)
    >>> {name: round(value, 3) for name, value in out.items()}  # 1 + 0.1 (0.25 - 3/5), 2 + 0.1 (0.5 - 4/5)
    {'bundled_risk.lower_at': 0.965, 'bundled_risk.upper_at': 1.97}
    """

    bundle: int = 5
    lower: float = 0.2
    upper: float = 0.8
    rate: float = 0.1
    setting: str = "bundled_risk"

    def init(self) -> dict[str, float]:
        """Nothing seen."""
        return {"seen": 0.0, "lower": 0.0, "upper": 0.0}

    def update(
        self, state: Mapping[str, float], *, reward: Float[Tensor, "B"], group: Int[Tensor, "B"], key: Int[Tensor, "B"]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The next quantiles, from the step's papers; a step without rows changes nothing."""
        score = bundles_of(reward.double(), group, key, self.bundle).score
        score = score[~score.isnan()]
        if not score.numel():
            return dict(state), {}
        now = {"seen": state["seen"] + 1}
        for name, level in (("lower", self.lower), ("upper", self.upper)):
            if state["seen"]:
                now[name] = state[name] + self.rate * (level - float((score < state[name]).double().mean()))
            else:
                now[name] = float(score.quantile(level))
        return now, {f"{self.setting}.{name}_at": now[name] for name in ("lower", "upper")}
