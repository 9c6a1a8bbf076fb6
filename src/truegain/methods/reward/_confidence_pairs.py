from __future__ import annotations

from dataclasses import replace

from truegain.core.errors import SettingError
from truegain.core.types import Pair


def confidence_pairs(pair: Pair, *, high: float = 9, low: float = 2) -> tuple[Pair, Pair]:
    """What a reward model should learn of stated confidence from one preference pair (PPO-M).

    The chosen completion with high confidence is preferred to itself with low, the rejected one with low to itself
    with high: fitted by `bradley_terry` this is ``-log sigmoid(r(chosen, high) - r(chosen, low)) - log sigmoid(r(
    rejected, low) - r(rejected, high))``. The statement is a last line, ``Confidence: N``, N of 10. Mix the original
    pairs in to keep what the model knows. Raises SettingError unless ``high`` is above ``low``.
    Source: Leng et al. 2024, section 4.

    >>> for made in confidence_pairs(Pair("p", "2+2?", "4", "5")):
    ...     print([made.chosen, made.rejected])
    ['4\\nConfidence: 9', '4\\nConfidence: 2']
    ['5\\nConfidence: 2', '5\\nConfidence: 9']
    """
    if not high > low:
        raise SettingError(f"confidence_pairs: high={high} must be above low={low}")

    def said(text: str, number: float) -> str:
        return f"{text}\nConfidence: {number:g}"

    good, bad = pair.chosen, pair.rejected
    return (
        replace(pair, id=f"{pair.id}/chosen", chosen=said(good, high), rejected=said(good, low)),
        replace(pair, id=f"{pair.id}/rejected", chosen=said(bad, low), rejected=said(bad, high)),
    )
