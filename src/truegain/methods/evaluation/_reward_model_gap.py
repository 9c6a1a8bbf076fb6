"""An explicit and an implicit reward model, trained on the same pairs, on sets that are shifted against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from truegain.core.errors import WiringError
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._preference_gap import preference_gap

Pairs = Sequence[Mapping[str, Any]]


def reward_model_gap(
    dataset: Pairs,
    records: Mapping[str, Pairs],
    margins: Callable[[Pairs], Mapping[str, np.ndarray]],
    *,
    explicit: str = "exrm",
    implicit: str = "dporm",
) -> dict[str, Any]:
    """`preference_gap` on the pairs that both were trained on, and on each set of ``records``, by its name.

    ``margins`` gives, for each role that was trained, the rewards of the chosen less those of the rejected
    completions. Of every set the record tells the pairs, both accuracies and the gap, each as value, low, high; and
    ``mean_gap`` and ``largest_gap`` over the sets of ``records``, None without any. A role whose rewards are NaN drops
    pairs, which are counted.

    Raises WiringError when one of the two roles was not trained. Source: Lin et al. 2024.

    >>> pairs = [{"chosen": "a", "rejected": "b"}] * 2
    >>> found = reward_model_gap(pairs, {}, lambda rows: {"exrm": np.ones(2), "dporm": np.array([1.0, -1.0])})
    >>> found["train"]["exrm_acc"][0], found["train"]["gap"][0], found["mean_gap"]
    (1.0, 0.5, None)
    """
    told: dict[str, Any] = {}
    for name, pairs in {"train": dataset, **records}.items():
        given = margins(pairs)
        for role in (explicit, implicit):
            if role not in given:
                raise WiringError(f"reward_model_gap compares role {role!r}, which no form before it trains")
        gap, each = preference_gap(given[explicit], given[implicit])
        told[name] = {"pairs": gap.clusters, "dropped": gap.dropped, **{n: _told(e) for n, e in each.items()}}
        told[name]["gap"] = _told(gap)
    gaps = [told[name]["gap"][0] for name in records]
    return {
        **told,
        "mean_gap": sum(gaps) / len(gaps) if gaps else None,
        "largest_gap": max(gaps) if gaps else None,
    }


def _told(estimate: Estimate) -> list[float | None]:
    return [None if np.isnan(x) else float(x) for x in (estimate.value, estimate.low, estimate.high)]
