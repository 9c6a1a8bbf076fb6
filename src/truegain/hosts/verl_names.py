"""The names under which verl's registries hold what is ours. Standard library only, so that it cannot fail to load."""

from __future__ import annotations

import json
from importlib.resources import files

VARIABLE = "TRUEGAIN_VERL_CONFIG"
"""The environment variable that names the TOML file with our knobs."""

DENSE = "dense_rewards"
"""The key of that file which states that a reward manager places a reward at the end of each step."""

PLACES = {"credit": "algorithm.adv_estimator", "surrogate": "actor_rollout_ref.actor.policy_loss.loss_mode"}
"""Kind -> the setting of verl that selects one."""


def registered(name: str) -> str:
    """The name in verl's registries.

    >>> registered("v0.5"), registered("dr-grpo")
    ('truegain_v0_5', 'truegain_dr_grpo')
    """
    return "truegain_" + name.replace("-", "_").replace(".", "_")


def shipped(kind: str) -> list[str]:
    """Names of every component of a kind and of every online recipe, by the index that is shipped.

    >>> "dr-grpo" in shipped("credit"), "group_normalise" in shipped("credit"), "ppo_clip" in shipped("credit")
    (True, True, False)
    """
    index = json.loads(files("truegain").joinpath("index.json").read_text(encoding="utf-8"))
    own = [row["name"].rpartition(".")[2] for row in index["components"] if row["kind"] == kind]
    return sorted({*own, *(row["name"] for row in index["systems"] if "Train" in row["form"])})
