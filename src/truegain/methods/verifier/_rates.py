"""The error rates of a checker, and the bound that makes them invertible."""

from __future__ import annotations

from truegain.core.errors import SettingError


def check_rates(who: str, false_accept: float, false_reject: float) -> None:
    """Raise SettingError unless both are chances and together below 1: a checker that is better than a coin."""
    if not (0 <= false_accept <= 1 and 0 <= false_reject <= 1 and false_accept + false_reject < 1):
        raise SettingError(
            f"{who}: false_accept={false_accept} and false_reject={false_reject} must be 0 or more and below 1 together"
        )
