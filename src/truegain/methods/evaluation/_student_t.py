"""Student's t: the distribution function and its inverse, without scipy."""

from __future__ import annotations

import functools
import math

from truegain.core.errors import SettingError


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the continued fraction of the incomplete beta function (Abramowitz, Stegun 26.5.8)."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 + term * d
            c = 1.0 + term / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), x in [0, 1]."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) * _continued_fraction(a, b, x) / a
    return 1.0 - math.exp(log_front) * _continued_fraction(b, a, 1.0 - x) / b


def student_t_cdf(t: float, *, df: float) -> float:
    """P(T <= t) for Student's t with ``df`` > 0 degrees of freedom (fractions allowed).

    >>> round(student_t_cdf(2.0, df=10), 6)
    0.963306
    """
    tail = 0.5 * _incomplete_beta(0.5 * df, 0.5, df / (df + t * t))
    return tail if t < 0 else 1.0 - tail


@functools.lru_cache(maxsize=4096)
def student_t_quantile(probability: float, *, df: float) -> float:
    """The t with P(T <= t) = ``probability`` in (0, 1); ``df`` > 0, fractions allowed. By bisection.

    Raises SettingError for a probability or ``df`` out of range.

    >>> round(student_t_quantile(0.975, df=4), 4)
    2.7764
    """
    if not 0.0 < probability < 1.0 or not df > 0.0:
        raise SettingError(f"student_t_quantile: probability {probability} must be in (0, 1) and df {df} above 0")
    if probability < 0.5:
        return -student_t_quantile(1.0 - probability, df=df)
    low, high = 0.0, 1.0
    while student_t_cdf(high, df=df) < probability and high < 1e12:
        low, high = high, 2.0 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if student_t_cdf(middle, df=df) < probability else (low, middle)
    return 0.5 * (low + high)
