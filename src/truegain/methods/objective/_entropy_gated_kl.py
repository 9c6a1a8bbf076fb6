from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError

WINDOW = 50


@component("fold", cite="arXiv:2602.04651")
@dataclass(frozen=True, kw_only=True)
class entropy_gated_kl:
    """A KL penalty that is off below a moving threshold, and the stronger the less entropy is left.

    ``kl_short <- 0.9 kl_short + 0.1 kl`` (begun at the first KL). The threshold follows the mean reward: with
    ``ema <- 0.95 ema + 0.05 R``, velocity its change, ``e = velocity - 0.001``, ``I <- clip(I + e, -1, 1)``,
    ``pid = kp e + ki I + kd (e - e_before)``, 0 at the first step,

        ``thr = clip((base + pid) * phase, low, high)``,
        ``penalty = strength * (kl_short - thr)^2 * g`` above thr, else 0, ``g = max(0.5, 2 / (H + 0.1))``.

    ``phase`` is 1.5 in the first 50 steps, 1.2 while the mean of the last 50 rewards is more than 0.01 above that of
    the 50 before, 1 once their deviation is below 0.02 and their mean above 0.7, else 0.8. H is the entropy in nats,
    estimated as minus the mean log-prob of the tokens drawn.

    ``form`` says what is set as ``setting`` for the next step, the weight of a differentiable KL: ``"gradient"`` the
    penalty's own derivative ``2 * strength * (kl_short - thr) * g``; ``"penalty"`` its value; ``"log_only"`` 0, as the
    published code gives it no gradient. With ``lr`` above 0, ``loop.lr`` becomes ``lr * min(1, preview / kl)``.
    A step without a KL, a reward, a token or with a NaN among them changes nothing. Raises SettingError for an unknown
    ``form`` or ``low > high``. Source: Maity 2026 (SAFE) and its published controllers.

    >>> import torch
    >>> control = entropy_gated_kl(form="penalty")
    >>> drawn = {"engine_logp": torch.tensor([[-2.0]]), "mask": torch.tensor([[True]])}
    >>> _, out = control.update(control.init(), line={"kl": 0.65, "reward": 0.0}, **drawn)
    >>> round(out["kl_to_reference.beta"], 4)  # thr = 0.3 * 1.5 = 0.45: 0.1 * 0.2^2 * 2 / 2.1
    0.0038
    """

    base: float = 0.3
    low: float = 0.1
    high: float = 0.6
    kp: float = 0.3
    ki: float = 0.01
    kd: float = 0.05
    strength: float = 0.1
    form: Literal["gradient", "penalty", "log_only"] = "gradient"
    lr: float = 0.0
    preview: float = 0.5
    setting: str = "kl_to_reference.beta"

    def __post_init__(self) -> None:
        """Refuse knobs that make no sense."""
        if self.form not in ("gradient", "penalty", "log_only") or self.low > self.high:
            raise SettingError(
                f"entropy_gated_kl: form={self.form!r} is gradient, penalty or log_only; low={self.low} is at most "
                f"high={self.high}"
            )

    def init(self) -> dict[str, Any]:
        """Nothing seen yet."""
        return {"kl_short": None, "ema": None, "integral": 0.0, "error": 0.0, "rewards": []}

    def update(
        self, state: Mapping[str, Any], *, line: Mapping[str, Any], engine_logp: Tensor, mask: Tensor
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """The weight of the penalty in the next step, from this one's KL, reward and entropy."""
        kl, reward = float(line.get("kl", "nan")), float(line.get("reward", "nan"))
        entropy = float(-engine_logp[mask].mean()) if bool(mask.any()) else float("nan")
        if not all(abs(value) < float("inf") for value in (kl, reward, entropy)):
            return dict(state), {}
        short = kl if state["kl_short"] is None else 0.9 * state["kl_short"] + 0.1 * kl
        ema = reward if state["ema"] is None else 0.95 * state["ema"] + 0.05 * reward
        integral, error, pid = state["integral"], state["error"], 0.0
        if state["ema"] is not None:
            error = ema - state["ema"] - 0.001
            integral = min(max(integral + error, -1.0), 1.0)
            pid = self.kp * error + self.ki * integral + self.kd * (error - state["error"])
        rewards = [*state["rewards"], reward][-2 * WINDOW :]
        threshold = min(max((self.base + pid) * phase_of(rewards), self.low), self.high)
        new = {"kl_short": short, "ema": ema, "integral": integral, "error": error, "rewards": rewards}
        out = {self.setting: self.weight(short, threshold, entropy)}
        if self.lr > 0:
            out["loop.lr"] = self.lr * min(1.0, self.preview / max(kl, 1e-12))
        return new, out

    def weight(self, kl: float, threshold: float, entropy: float) -> float:
        """What ``form`` asks for at this KL, threshold and entropy."""
        over = max(kl - threshold, 0.0)
        # A mean log-prob is never above 0, but one that rounds to 0 must not turn the gate around.
        gate = max(0.5, 2 / (max(entropy, 0.0) + 0.1))
        if self.form == "gradient":
            return 2 * self.strength * over * gate
        return self.strength * over**2 * gate if self.form == "penalty" else 0.0


def phase_of(rewards: list[float]) -> float:
    """The multiplier of the training phase that the last 100 mean rewards show."""
    if len(rewards) < WINDOW:
        return 1.5
    last, before = rewards[-WINDOW:], rewards[:-WINDOW]
    mean = sum(last) / WINDOW
    if before and mean > sum(before) / len(before) + 0.01:
        return 1.2
    deviation = (sum((r - mean) ** 2 for r in last) / WINDOW) ** 0.5
    return 1.0 if deviation < 0.02 and mean > 0.7 else 0.8
