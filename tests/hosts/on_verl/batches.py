"""Batches as verl makes them, and its calls of an estimator and of a loss, without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import trainer_base
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.utils import losses

GROUP = 4


def masks(rows: int, width: int, seed: int, turns: bool = False) -> Tensor:
    """Right-padded masks [rows, width] of 0 and 1; with ``turns`` a tool's tokens lie between the policy's."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, width + 1, (rows, 1), generator=draw)
    mask = (torch.arange(width) < lengths).long()
    if turns:
        mask[:, 1] = 0
        mask[::2, 4:6] = 0
    return mask


def rewards(mask: Tensor, seed: int, dense: bool = False, verdicts: bool = True) -> Tensor:
    """Token-level rewards [rows, width]: one on the last token of a row or, dense, some on the way too."""
    draw = torch.Generator().manual_seed(seed + 1)
    out = torch.zeros(mask.shape)
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    score = torch.rand(len(mask), generator=draw)
    out[torch.arange(len(mask)), last] = (score > 0.5).float() if verdicts else score
    if dense:
        out[:, 0] = torch.randn(len(mask), generator=draw)
        out[torch.arange(len(mask)), last] = torch.randn(len(mask), generator=draw)
    return out


def uids(rows: int) -> np.ndarray:
    """The uid of each row's prompt, GROUP rows to each, as verl has them: objects, not in order."""
    return np.array([f"u{(7 * (i // GROUP)) % 5}" for i in range(rows)], dtype=object)


def advantage(name: str, token_level_rewards: Tensor, mask: Tensor, index: Any, **config: Any) -> tuple[Tensor, Tensor]:
    """Advantages and returns by verl's `compute_advantage`, the call that every trainer of it makes."""
    from verl.trainer.ppo.ray_trainer import compute_advantage

    data = DataProto.from_dict(
        tensors={"token_level_rewards": token_level_rewards.clone(), "response_mask": mask},
        non_tensors={"uid": index},
    )
    out = compute_advantage(data, adv_estimator=name, config=AlgoConfig(**config))
    return out.batch["advantages"], out.batch["returns"]


def actor(**settings: Any) -> ActorConfig:
    """verl's settings of an actor, those of one micro-batch on one process."""
    given = {"strategy": "fsdp", "rollout_n": GROUP, "ppo_micro_batch_size_per_gpu": 4, **settings}
    return ActorConfig(**given)


def policy_loss(
    name: str, old: Tensor, new: Tensor, advantages: Tensor, mask: Tensor, config: ActorConfig, **more: Any
) -> tuple[Tensor, dict[str, Any]]:
    """A registered loss, called as verl calls it."""
    return core_algos.get_policy_loss_fn(name)(
        old_log_prob=old,
        log_prob=new,
        advantages=advantages,
        response_mask=mask.bool(),
        loss_agg_mode=config.loss_agg_mode,
        config=config,
        **{"rollout_is_weights": None, **more},
    )


def ppo_loss(
    config: ActorConfig,
    log_probs: Tensor,
    columns: dict[str, Tensor],
    tokens: int | None,
    rows: int | None,
    dp: int = 1,
) -> tuple[Tensor, dict[str, Any]]:
    """verl's `ppo_loss` of an actor worker: packed log-probs of prompt and response, nested columns, global counts.

    ``log_probs`` [B,T] are padded, as are ``columns``; every prompt has one token. ``tokens`` and ``rows`` are those of
    the whole mini-batch, over its micro-batches and the ``dp`` processes.
    """
    lengths = [int(row.nonzero().max()) + 1 if row.any() else 1 for row in columns["response_mask"]]

    def nested(value: Tensor) -> Tensor:
        return torch.nested.as_nested_tensor(
            [row[:n] for row, n in zip(value, lengths, strict=True)], layout=torch.jagged
        )

    # The log-prob of a response's token stands one place before it: at the prompt's last token, and so on.
    packed = torch.cat([torch.cat([row[:n], row.new_zeros(1)]) for row, n in zip(log_probs, lengths, strict=True)])
    fields = {name: nested(value) for name, value in columns.items()}
    fields["prompts"] = torch.nested.as_nested_tensor([torch.ones(1)] * len(lengths), layout=torch.jagged)
    fields["responses"] = nested(torch.ones(log_probs.shape))
    data = TensorDict(fields, batch_size=len(lengths))
    tu.assign_non_tensor(data, dp_size=dp, batch_num_tokens=tokens, global_batch_size=rows)
    return losses.ppo_loss(config, {"log_probs": packed}, data)


def v1_advantage(
    monkeypatch: Any, name: str, given: dict[str, Any], **config: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """`_compute_advantage` of verl's v1 trainer, its TransferQueue replaced; what it writes back and what it asked for.

    ``given`` holds rm_scores and response_mask as lists of rows without padding, and uid.
    """
    asked: list[str] = []
    written: dict[str, Any] = {}

    def get(keys: Any, partition_id: Any, select_fields: list[str]) -> TensorDict:
        asked.extend(select_fields)
        rows = {
            name: torch.nested.as_nested_tensor([torch.as_tensor(row) for row in value], layout=torch.jagged)
            for name, value in given.items()
            if name != "uid"
        }
        return tu.get_tensordict({**rows, "uid": list(given["uid"])})

    def put(keys: Any, partition_id: Any, fields: TensorDict) -> Any:
        written.update(fields.items())
        return SimpleNamespace(keys=keys, partition_id=partition_id)

    monkeypatch.setattr(trainer_base, "tq", SimpleNamespace(kv_batch_get=get, kv_batch_put=put))
    algorithm = AlgoConfig(adv_estimator=name, **config)
    rollout = SimpleNamespace(n=GROUP)
    trainer = SimpleNamespace(
        config=SimpleNamespace(algorithm=algorithm, actor_rollout_ref=SimpleNamespace(rollout=rollout))
    )
    keys = [f"{uid}_{i}_0" for i, uid in enumerate(given["uid"])]

    class Meta:
        def __init__(self) -> None:
            self.keys, self.partition_id = keys, "train"

        def __len__(self) -> int:
            return len(keys)

    base = next(c for c in vars(trainer_base).values() if isinstance(c, type) and "_compute_advantage" in vars(c))
    base._compute_advantage(trainer, Meta(), {})
    return written, asked
