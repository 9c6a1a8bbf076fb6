"""The verl plugin: ``pip install truegain``, then ``algorithm.adv_estimator=truegain_dr_grpo``.

verl imports this module wherever it is imported itself, by the entry point ``verl.plugins``. It puts every credit
component and every recipe into verl's registry of advantage estimators, and every surrogate and recipe into that of
policy losses, under ``truegain_NAME``. What verl cannot feed is registered too, and raises the reason when it is used:
a run never trains something else in its place. Knobs: `truegain.hosts.verl_config`; traps: ``docs/verl.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from truegain.core.arithmetic import credit_stage, reward_stage, token_losses
from truegain.core.errors import WiringError
from truegain.hosts import verl_record
from truegain.hosts.verl_columns import check_facts, check_fed, estimator_columns, loss_columns
from truegain.hosts.verl_names import PLACES, registered, shipped
from truegain.hosts.verl_score import compute_score
from truegain.hosts.verl_settings import ACTOR, ALGORITHM, Entry, check

try:
    from verl.trainer.ppo import core_algos  # pyright: ignore[reportMissingImports]
except ImportError as error:
    why = f"truegain.hosts.verl needs verl and what its trainer imports ({error}): pip install 'truegain[verl]'"
    if "verl" in sys.modules:  # verl swallows what a plugin raises
        verl_record.write("failed", why)
    raise ImportError(why) from error

__all__ = ["compute_score", "estimator", "install", "policy_loss", "refuser"]

Function = Callable[..., Any]
HOST = "this verl"


def estimator(entry: Entry, facts: Mapping[str, Any]) -> Function:
    """An advantage estimator for verl: the form's reward and credit, by the arithmetic of our own loop.

    A verl that hands over its whole ``batch`` and ``non_tensor_batch`` feeds more components. A row whose reward is
    NaN, an abstention, is left out of every statistic and gets no advantage. Gives the advantages twice, as verl's own
    outcome estimators do: the second is what a critic would fit, and none of ours has one.
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
            columns, missing = estimator_columns(*given)
            check_fed(form, columns, missing, facts, HOST)
            with torch.no_grad():
                rewarded, _logs = reward_stage(form, columns, facts)
                found = credit_stage(form, rewarded, facts)[0][0]
            out[rows] = out[rows] if found is None else found.float()
        return out, out

    return advantages


def _rows(rows: Tensor, rewards: Tensor, mask: Tensor, index: Any, batch: Any, non_tensor: Any) -> tuple[Any, ...]:
    """The given rows of everything that verl hands over; all of it, untouched, where they are all."""
    if rows.numel() == rewards.shape[0]:
        return rewards, mask, index, batch, non_tensor
    numbers = rows.tolist()
    tensors = None if batch is None else {k: v[rows] for k, v in batch.items() if isinstance(v, Tensor)}
    others = None if non_tensor is None else {k: [v[i] for i in numbers] for k, v in non_tensor.items()}
    return rewards[rows], mask[rows], [index[i] for i in numbers], tensors, others


def policy_loss(entry: Entry, facts: Mapping[str, Any]) -> Function:
    """A policy loss for verl: the form's surrogates per token, averaged by verl's own ``agg_loss``.

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
        value = core_algos.agg_loss(per_token, response_mask, loss_agg_mode, **info)
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


def refuser(name: str, reason: str) -> Function:
    """What stands under a name that could not be made: it raises the reason."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise WiringError(f"{name}: {reason}")

    return refuse


def _put(kind: str, name: str, function: Function) -> None:
    """Register, in the place of what this module registered before, should it be imported anew."""
    if kind == "surrogate":
        core_algos.register_policy_loss(name)(function)
        return
    before = core_algos.ADV_ESTIMATOR_REGISTRY.get(name)
    if before is not None and before.__module__ == __name__:
        del core_algos.ADV_ESTIMATOR_REGISTRY[name]
    core_algos.register_adv_est(name)(function)


def install() -> None:
    """Register everything, and keep how that went where `truegain doctor` shows it."""
    make = {"credit": estimator, "surrogate": policy_loss}
    try:
        from truegain.hosts.verl_config import entries, read

        config = read()
        found = list(entries(config))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}; see `truegain doctor`"
        verl_record.write("failed", reason, config=verl_record.config_path())
        for kind in PLACES:
            for name in shipped(kind):
                _put(kind, registered(name), refuser(registered(name), reason))
        return
    for entry in found:
        _put(entry.kind, entry.name, make[entry.kind](entry, config.facts))
    faults = [f"{entry.name}: {entry.refused}" for entry in found if entry.fault]
    if faults:
        verl_record.write("failed", faults[0], config=verl_record.config_path())
    else:
        counts = {kind: sum(e.kind == kind and not e.refused for e in found) for kind in PLACES}
        verl_record.write("loaded", runs=counts, config=verl_record.config_path())


install()
