"""How reward models that earlier forms left judge pairs: rewards of the chosen less those of the rejected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy
from truegain.policy.reward_model import HEAD, Ids, RewardModels
from truegain.train.dataset import pair_of
from truegain.train.pairs import pair_ids
from truegain.train.stages.stage import Given

ROWS = 32


def margins_of(
    given: Given, dtype: str = "float32", device: str = "cpu"
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, np.ndarray]]:
    """What judges rows with prompt, chosen and rejected: margins [N] by role, of every role that was left.

    A model with a head gives its own reward; one without, its log-ratio in nats to the model that the chain began with.
    """

    def margins(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        base = Policy.load(given.base, dtype=dtype, device=device)
        pairs = [pair_ids(base, pair_of(row)) for row in rows]
        prompts = [pair.prompt for pair in pairs]
        found: dict[str, np.ndarray] = {}
        for name, folder in given.roles.items():
            score = _scorer(Path(folder), base, dtype, device)
            chosen, rejected = (score(prompts, [getattr(p, side) for p in pairs]) for side in ("chosen", "rejected"))
            found[name] = (chosen - rejected).double().numpy()
        return found

    return margins


def _scorer(folder: Path, base: Policy, dtype: str, device: str) -> Callable[[list[Ids], list[Ids]], Tensor]:
    if (folder / HEAD).is_file():
        models = RewardModels.load(folder, dtype=dtype, device=device)
        return lambda prompts, completions: models.score(prompts, completions)[:, 0]
    policy = Policy.load(folder, dtype=dtype, device=device)
    return lambda prompts, completions: _logp(policy, prompts, completions) - _logp(base, prompts, completions)


def _logp(policy: Policy, prompts: list[Ids], completions: list[Ids]) -> Tensor:
    """Log-prob of each completion [N]."""
    found: list[Tensor] = []
    for start in range(0, len(prompts), ROWS):
        part = completions[start : start + ROWS]
        lengths = torch.tensor([len(ids) for ids in part])
        tokens = torch.zeros(len(part), max(1, int(lengths.max())), dtype=torch.long)
        for row, ids in enumerate(part):
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        found.append(token_logp(policy, prompts[start : start + ROWS], tokens, lengths, grad=False)[0].sum(dim=1).cpu())
    return torch.cat(found)
