"""The functions that stand in verl's two registries: an advantage estimator and a policy loss around one of our forms.

`truegain.hosts.verl` registers them. Nothing here imports verl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from truegain.core.arithmetic import credit_stage, reward_stage, token_losses
from truegain.core.errors import WiringError
from truegain.hosts.verl_columns import Density, check_facts, check_fed, estimator_columns, loss_columns
from truegain.hosts.verl_settings import ACTOR, ALGORITHM, Entry, check

Function = Callable[..., Any]
HOST = "this verl"


def estimator(entry: Entry, facts: Mapping[str, Any], density: Density) -> Function:
    """An advantage estimator for verl: the form's reward and credit, by the arithmetic of our own loop.

    A verl that hands over its whole ``batch`` and ``non_tensor_batch`` feeds more components. A row whose reward is
    NaN, an abstention, is left out of every statistic and gets advantage 0. Gives the advantages twice, as verl's own
    outcome estimators do: the second is what a critic would fit, and none of ours has one. ``density`` knows of all
    estimators of this process whether the rewards are dense.
    """
    form = entry.form

    def advantages(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: Any = None,
        config: Any = None,
        non_tensor_batch: Any = None,
        batch: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        if form is None or (entry.refused and batch is None):
            raise WiringError(f"{entry.name}: {entry.refused}")
        if index is None:
            raise WiringError(f"{entry.name} groups rows by their uid, which this batch of verl does not have")
        check(entry.recipe, entry.asks, ALGORITHM, config)
        out = torch.zeros(response_mask.shape, dtype=torch.float32, device=response_mask.device)
        rows = (~token_level_rewards.sum(dim=1).isnan()).nonzero().flatten()
        if rows.numel():
            given = _rows(rows, token_level_rewards, response_mask, index, batch, non_tensor_batch)
            columns, missing = estimator_columns(*given, density)
            check_fed(form, columns, missing, facts, HOST)
            with torch.no_grad():
                rewarded, _logs = reward_stage(form, columns, facts)
                found = credit_stage(form, rewarded, facts)[0][0]
            out[rows] = out[rows] if found is None else found.float()
        return out, out

    return advantages


def _rows(
    rows: Tensor, rewards: Tensor, mask: Tensor, index: Any, batch: Any, non_tensor: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """The given rows of everything that verl hands over; all of it, untouched, where they are all."""
    if rows.numel() == rewards.shape[0]:
        return rewards, mask, index, batch, non_tensor
    numbers = rows.tolist()
    tensors = None if batch is None else {k: v[rows] for k, v in batch.items() if isinstance(v, Tensor)}
    others = None if non_tensor is None else {k: [v[i] for i in numbers] for k, v in non_tensor.items()}
    return rewards[rows], mask[rows], [index[i] for i in numbers], tensors, others


def policy_loss(entry: Entry, facts: Mapping[str, Any], agg_loss: Function) -> Function:
    """A policy loss for verl: the form's surrogates per token, averaged by ``agg_loss``, verl's own.

    Logs of the components come as ``truegain/...``, with ``actor/ppo_kl`` and, from a clipped ratio,
    ``actor/pg_clipfrac`` as verl spells them.
    """
    form = entry.form

    def loss(
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        if form is None:
            raise WiringError(f"{entry.name}: {entry.refused}")
        check(entry.recipe, entry.asks, ACTOR, config)
        columns = loss_columns(old_log_prob, log_prob, advantages, response_mask)
        check_facts(form, facts)
        per_token, logs = token_losses(form.terms[0], columns, facts)
        if rollout_is_weights is not None:
            per_token = per_token * rollout_is_weights
        info = {} if config is None else config.global_batch_info
        value = agg_loss(per_token, response_mask, loss_agg_mode, **info)
        return value, dict(_metrics(columns, logs))

    return loss


def _metrics(columns: Mapping[str, Tensor], logs: Mapping[str, tuple[float, float]]) -> Iterator[tuple[str, float]]:
    count = columns["mask"].sum().clamp(min=1)
    yield "actor/ppo_kl", float((columns["old_logp"] - columns["logp"].detach()).sum() / count)
    for name, (total, number) in logs.items():
        mean = total / number if number else 0.0
        yield name if name.startswith("truegain/") else f"truegain/{name}", mean
        if name == "clip_ratio/region_mean":
            yield "actor/pg_clipfrac", mean
