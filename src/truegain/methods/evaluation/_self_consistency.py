"""How sure a model is, read off its own samples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite="arXiv:2203.11171")
def self_consistency(clusters: Int[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """For each sample, the share of the problem's *other* samples that gave the same answer, in [0, 1].

    Leaving the sample itself out keeps the share unbiased: its expectation is the probability that the model gives
    this answer. With itself in, an answer given once in K would never fall below 1/K. Takes the ids that
    `answer_clusters` gives for one problem; raises DataError for fewer than two samples.

    Source: Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning" (arXiv 2203.11171).

    >>> self_consistency(np.array([0, 0, 1, 0, 2])).tolist()
    [0.5, 0.5, 0.0, 0.5, 0.0]
    """
    if clusters.size < 2:
        raise DataError("self_consistency: a problem needs at least two samples to agree or disagree")
    return ((clusters[:, None] == clusters[None, :]).sum(axis=1) - 1) / (clusters.size - 1)
