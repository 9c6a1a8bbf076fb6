"""How hard to steer at the end of a step, from how sure the step was and how much that changed: ReBalance's control."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from truegain.core.errors import SettingError

# Sharpness of the gates, as in the published code: practically steps. The last one keeps the scale below 1/2.
SHARP, SOFT, BOUND = 1200.0, 12.0, 60.0
TOP = 0.01


@dataclass(frozen=True)
class Balance:
    """The fitted numbers: quartiles of confidence c in (0, 1] and of its variance v >= 0, and how hard to steer there.

    ``low`` < 0 at c = ``sure[0]``, ``hard_low`` where the step is unsure and restless, ``hard_high`` where it is sure
    and calm; 0 at c = ``sure[1]``, `TOP` at c = 1. Raises SettingError for numbers that no control function fits.
    """

    sure: tuple[float, float] = (0.65, 0.9)
    restless: tuple[float, float] = (0.0005, 0.01)
    low: float = -1.0
    hard_low: float = -2.0
    hard_high: float = 0.1

    def __post_init__(self) -> None:
        fits = 0 < self.sure[0] < self.sure[1] < 1 and 0 <= self.restless[0] < self.restless[1]
        if not fits or not self.low < 0:
            raise SettingError(
                f"steering: the quartiles {self.sure} of confidence must rise between 0 and 1, {self.restless} of its "
                f"variance rise from 0, and low={self.low} be below 0"
            )


@functools.lru_cache(maxsize=64)
def steepness(balance: Balance) -> float:
    """k of the control function: F(1) = `TOP`, by bisection of tanh(k (1 - m)) / tanh(k s) = 2 (TOP - a) / (0 - low).

    The left side falls in k from (1 - m) / s to 1. Raises SettingError where it never takes the value.
    """
    middle, half = sum(balance.sure) / 2, (balance.sure[1] - balance.sure[0]) / 2
    wanted = 1 - 2 * TOP / balance.low
    if not 1 < wanted < (1 - middle) / half:
        raise SettingError(
            f"steering: no curve through {balance.low} at confidence {balance.sure[0]} and 0 at {balance.sure[1]} "
            f"reaches {TOP} at 1: the upper quartile is too near to 1, or low too near to 0"
        )
    low, high = 1e-6, 1e6
    for _ in range(200):
        k = math.sqrt(low * high)
        low, high = (k, high) if math.tanh(k * (1 - middle)) / math.tanh(k * half) > wanted else (low, k)
    return math.sqrt(low * high)


def curve(confidence: Tensor, balance: Balance) -> Tensor:
    """F(c) = a + b tanh(k (c - m)) with a = low / 2 and b = -low / (2 tanh(k s)), m the quartiles' middle and s half
    their distance: ``low`` at the lower quartile, 0 at the upper one, rising everywhere."""
    middle, half = sum(balance.sure) / 2, (balance.sure[1] - balance.sure[0]) / 2
    k = steepness(balance)
    return balance.low / 2 - balance.low / (2 * math.tanh(k * half)) * (k * (confidence - middle)).tanh()


def coefficient(confidence: Tensor, variance: Tensor, balance: Balance) -> Tensor:
    """u = F(c) + (hard_low - low) w_low + (hard_high - TOP) w_high, within [min(low, hard_low), max(TOP, hard_high)].

    With sig the logistic function of an argument within +-60 and the quartiles' distances as units,

        w_low  = min(1, sig(1200 (q25c - c) / IQRc) sig(1200 (v - q75v) / IQRv) / 0.25)
        w_high = min(1, sig(1200 (c - q75c) / IQRc) sig(1200 (q25v - v) / IQRv) / (0.5 sig(12 (1 - q75c) / IQRc)))

    c and v are of any one shape; v is 0 or more.
    """
    (c25, c75), (v25, v75) = balance.sure, balance.restless
    span, spread = c75 - c25, v75 - v25
    unsure, sure = _gate(SHARP * (c25 - confidence) / span), _gate(SHARP * (confidence - c75) / span)
    restless, calm = _gate(SHARP * (variance - v75) / spread), _gate(SHARP * (v25 - variance) / spread)
    scale = 0.5 / (1 + math.exp(-min(SOFT * (1 - c75) / span, BOUND)))
    low, high = (unsure * restless / 0.25).clamp(max=1), (sure * calm / scale).clamp(max=1)
    found = curve(confidence, balance) + (balance.hard_low - balance.low) * low + (balance.hard_high - TOP) * high
    return found.clamp(min(balance.low, balance.hard_low), max(TOP, balance.hard_high))


def _gate(argument: Tensor) -> Tensor:
    return torch.sigmoid(argument.clamp(-BOUND, BOUND))
