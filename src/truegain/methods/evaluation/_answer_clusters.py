"""Which samples of a problem gave the same answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from truegain.core.component import component


@component("metric", cite="arXiv:2203.11171")
def answer_clusters(
    answers: Sequence[str | None], *, canonical: Callable[[str], str] = str.strip
) -> Int[np.ndarray, "K"]:
    """An id per sample, equal where the answers are; ids count up in the order of first appearance.

    A sample without an answer (None) agrees with nobody and gets an id of its own. ``canonical`` maps an answer to
    the form that is compared.

    >>> answer_clusters(["12", " 12", None, "7", None, "12"]).tolist()
    [0, 0, 1, 2, 3, 0]
    """
    seen: dict[str | int, int] = {}
    return np.array(
        [seen.setdefault(i if a is None else canonical(a), len(seen)) for i, a in enumerate(answers)], dtype=np.int64
    )
