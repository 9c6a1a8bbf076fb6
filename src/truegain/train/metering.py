"""Engines that components ask directly: what they score is charged to the step's ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from truegain.core.types import Request, Sample, Sampling
from truegain.train.ledger import Ledger, ModelCost, attended, model_cost, spend
from truegain.train.models import Model


@dataclass(frozen=True)
class Metered:
    """A model's engine, made when first asked; ``charge`` is told what each call of `score` costs."""

    model: Model
    charge: Callable[[Ledger], None]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """Continue every request; what the loop draws it charges itself."""
        return self.model.engine.generate(requests, sampling)

    def score(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        """Log-probs of each request's suffix, charged as ``scored``."""
        self.charge(scoring_cost(model_cost(self.model.policy.model), requests))
        return self.model.engine.score(requests)

    def load(self, weights: Mapping[str, Any]) -> None:
        """Take new weights."""
        self.model.engine.load(weights)


def metered(models: Mapping[str, Model], charge: Callable[[Ledger], None]) -> dict[str, Model]:
    """The models as components get them; they share weights, optimisers and engines with the given ones."""
    found: dict[str, Model] = {}
    for name, model in models.items():
        found[name] = copy(model)
        vars(found[name])["engine"] = Metered(model, charge)  # in place of the cached property
    return found


def scoring_cost(cost: ModelCost, requests: Sequence[Request]) -> Ledger:
    """Every suffix, and each trunk once up to the furthest cut, as requests that share a trunk share its prefill."""
    spent = Ledger()
    shared: dict[tuple[int, ...], int] = {}
    for request in requests:
        start = len(request.trunk) if request.cut is None else request.cut
        shared[request.trunk] = max(start, shared.get(request.trunk, 0))
        size = len(request.suffix)
        spent += spend(cost, "scored", size, attended(start, start + size))
    for size in shared.values():
        spent += spend(cost, "scored", size, attended(0, size))
    return spent
