"""What of verl the adapter stands on, as JSON: signatures, what is handed to what, settings. Run by `against.py`."""

from __future__ import annotations

import dataclasses
import inspect
import json
import warnings
from typing import Any

warnings.simplefilter("ignore")

import torch  # noqa: E402
from batches import actor, advantage, masks, policy_loss, ppo_loss, rewards, uids, v1_advantage  # noqa: E402
from verl.trainer.config import AlgoConfig  # noqa: E402
from verl.trainer.config.algorithm import FilterGroupsConfig  # noqa: E402
from verl.trainer.ppo import core_algos  # noqa: E402
from verl.trainer.ppo.ray_trainer import compute_advantage  # noqa: E402
from verl.trainer.ppo.reward import get_custom_reward_fn  # noqa: E402
from verl.workers.config import ActorConfig, PolicyLossConfig  # noqa: E402

FUNCTIONS = (
    core_algos.agg_loss,
    core_algos.register_adv_est,
    core_algos.register_policy_loss,
    core_algos.get_adv_estimator_fn,
    core_algos.get_policy_loss_fn,
    compute_advantage,
    get_custom_reward_fn,
)
MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


class Patch:
    """The one thing that is used of pytest's monkeypatch."""

    def setattr(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)


def handed() -> dict[str, list[str]]:
    """Names of what an estimator, a loss and the v1 trainer are given."""
    seen: dict[str, list[str]] = {}

    def estimator(**given: Any) -> Any:
        seen["estimator"] = sorted(given)
        return given["token_level_rewards"], given["token_level_rewards"]

    def loss(**given: Any) -> Any:
        seen["loss"] = sorted(given)
        seen["global_batch_info"] = sorted(given["config"].global_batch_info)
        return given["log_prob"].sum(), {}

    core_algos.register_adv_est("surface_spy")(estimator)
    core_algos.register_policy_loss("surface_spy")(loss)
    mask = masks(4, 5, 0)
    advantage("surface_spy", rewards(mask, 0), mask, uids(4))
    columns = {"response_mask": mask, "old_log_probs": torch.zeros(4, 5), "advantages": torch.zeros(4, 5)}
    spied = actor(policy_loss=PolicyLossConfig(loss_mode="surface_spy"))
    _, metrics = ppo_loss(spied, torch.zeros(4, 5, requires_grad=True), columns, int(mask.sum()), 4)
    seen["metrics"] = sorted(metrics)
    rows = {"rm_scores": list(rewards(mask, 0)), "response_mask": list(mask), "uid": uids(4)}
    seen["v1 fields"] = sorted(v1_advantage(Patch(), "surface_spy", rows)[1])
    old = torch.zeros(4, 5)
    _, vanilla = policy_loss("vanilla", old, old, old, mask, actor())
    return {**seen, "vanilla metrics": sorted(vanilla)}


def works(mode: str) -> bool:
    try:
        core_algos.agg_loss(torch.ones(2, 2), torch.ones(2, 2), mode)
    except ValueError:
        return False
    return True


def surface() -> dict[str, Any]:
    """Everything, by name."""
    kinds = (ActorConfig, AlgoConfig, PolicyLossConfig, FilterGroupsConfig)
    own = lambda names: sorted(str(n) for n in names if not str(n).startswith(("truegain_", "surface_")))  # noqa: E731
    return {
        **{f"signature of {f.__name__}": list(inspect.signature(f).parameters) for f in FUNCTIONS},
        **{f"handed to {name}": value for name, value in handed().items()},
        **{f"fields of {kind.__name__}": sorted(f.name for f in dataclasses.fields(kind)) for kind in kinds},
        "ways to average": [mode for mode in MODES if works(mode)],
        "estimators": own(core_algos.ADV_ESTIMATOR_REGISTRY),
        "losses": own(core_algos.POLICY_LOSS_REGISTRY),
    }


if __name__ == "__main__":
    print(json.dumps(surface()))
