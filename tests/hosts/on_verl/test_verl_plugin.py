"""How verl finds the plugin, and what becomes of a failure, which verl itself swallows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import actor, advantage, masks, policy_loss, rewards, uids
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.workers.config import PolicyLossConfig

import truegain.hosts.verl as plugin
from truegain.cli import doctor
from truegain.core.errors import WiringError
from truegain.hosts import verl_record
from truegain.hosts.verl_config import Config, entries
from truegain.hosts.verl_names import registered, shipped

FRESH = """
import json, verl
from verl.trainer.ppo import core_algos
ours = lambda names: sorted(name for name in names if name.startswith("truegain_"))
print(json.dumps([ours(core_algos.ADV_ESTIMATOR_REGISTRY), ours(core_algos.POLICY_LOSS_REGISTRY)]))
"""


def fresh(tmp_path: Path, **environment: str) -> tuple[list[str], list[str]]:
    """The names that a new process has after `import verl`, nothing of ours imported."""
    given = {**os.environ, "TRUEGAIN_STATE": str(tmp_path), **environment}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH], env=given, capture_output=True, text=True, check=True, cwd="/"
    )
    estimators, losses = json.loads(done.stdout.splitlines()[-1])
    return estimators, losses


def test_importing_verl_registers_every_name_with_no_edit_to_verl(tmp_path: Path) -> None:
    estimators, losses = fresh(tmp_path)
    assert estimators == sorted(e.name for e in entries(Config()) if e.kind == "credit")
    assert losses == sorted(e.name for e in entries(Config()) if e.kind == "surrogate")
    assert {"truegain_dr_grpo", "truegain_group_normalise"} <= {*estimators}
    kept = json.loads((tmp_path / "verl.json").read_text())
    assert "failed" not in kept
    assert kept["loaded"]["versions"]["verl"] == version("verl")


def test_verls_own_switch_leaves_the_plugin_out(tmp_path: Path) -> None:
    assert fresh(tmp_path, VERL_USE_EXTERNAL_PLUGINS="none") == ([], [])
    assert not (tmp_path / "verl.json").exists()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A record of the test's own; the names that were there are registered again after it."""
    monkeypatch.setenv("TRUEGAIN_STATE", str(tmp_path))
    yield tmp_path
    monkeypatch.undo()
    plugin.install()


def fails(said: str) -> None:
    mask = masks(4, 5, 0)
    with pytest.raises(WiringError) as caught:
        advantage("truegain_dr_grpo", rewards(mask, 0), mask, uids(4))
    assert said in str(caught.value)
    old = torch.zeros(4, 5)
    with pytest.raises(WiringError) as caught:
        policy_loss("truegain_dr_grpo", old, old, old, mask, actor())
    assert said in str(caught.value)


def test_a_faulty_file_is_raised_at_every_name_and_shown_by_the_doctor(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "knobs.toml").write_text("[dr-gpro]\nclip = 0.1\n")
    monkeypatch.setenv("TRUEGAIN_VERL_CONFIG", str(state / "knobs.toml"))
    plugin.install()
    fails("'dr-gpro' is no recipe, reward, credit or surrogate (did you mean 'dr-grpo'?)")
    (found,) = doctor._verl()
    assert found.state == "note"
    assert "'dr-gpro' is no recipe" in found.value
    assert str(state) in found.mend


def test_a_faulty_table_is_raised_at_its_name_alone(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "knobs.toml").write_text("[dr-grpo]\nclipp = 0.1\n")
    monkeypatch.setenv("TRUEGAIN_VERL_CONFIG", str(state / "knobs.toml"))
    plugin.install()
    fails("unknown setting 'clipp' (did you mean")
    mask = masks(4, 5, 0)
    assert advantage("truegain_grpo", rewards(mask, 0), mask, uids(4))[0].isfinite().all()
    assert "clipp" in verl_record.read()["failed"]["error"]


def test_a_load_that_breaks_down_leaves_names_that_raise_and_a_record(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Config) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr("truegain.hosts.verl_config.entries", broken)
    plugin.install()
    fails("RuntimeError: out of order; see `truegain doctor`")
    names = {registered(name) for name in shipped("credit")}
    assert names <= set(core_algos.ADV_ESTIMATOR_REGISTRY)
    assert "out of order" in next(iter(doctor._verl())).value


def test_verl_refuses_keys_of_ours_in_its_own_configuration() -> None:
    for kind in (AlgoConfig, PolicyLossConfig):
        with pytest.raises(TypeError, match="unexpected keyword"):
            kind(truegain_clip_high=0.3)


def test_the_reward_function_is_found_by_the_setting_that_the_docs_name(tmp_path: Path) -> None:
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn

    given = {"path": "pkg://truegain.hosts.verl", "name": "compute_score"}
    given["reward_kwargs"] = {"reward": "exact", "abstain": "drop"}  # type: ignore[assignment]
    function = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": given}}))
    found = function(data_source="gsm8k", solution_str="<answer>4</answer>", ground_truth="4", extra_info={})
    assert found == {"score": 1.0, "truegain_abstained": 0.0}


def test_verls_naive_reward_manager_scores_a_converted_parquet_by_as_verl(tmp_path: Path) -> None:
    import asyncio

    import datasets
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

    from truegain.hosts.data import problems_of, to_verl_parquet
    from truegain.hosts.rewards import Reward

    to_verl_parquet("sort,level=4", tmp_path / "train.parquet", "train", 2)
    rows = list(datasets.Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=str(tmp_path)))
    numbers = [
        sorted(int(n) for n in re.findall(r"\d+", problem.prompt))
        for problem in problems_of("sort,level=4", "train", 2)
    ]
    reward = Reward.of("sort,level=4", workers=1)

    class Letters:
        """A tokenizer of single characters."""

        def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
            return "".join(chr(i) for i in ids.tolist())

    async def judged(row: dict[str, Any], text: str) -> dict[str, Any]:
        ids = torch.tensor([[ord(letter) for letter in text]])
        others = {name: np.array([row[name]], dtype=object) for name in ("data_source", "reward_model", "extra_info")}
        data = DataProto.from_dict(
            tensors={"responses": ids, "attention_mask": torch.ones_like(ids)}, non_tensors=others
        )
        manager = NaiveRewardManager(OmegaConf.create({}), Letters(), reward.as_verl(abstained=0.0))
        return await manager.run_single(data)

    for row, right in zip(rows, numbers, strict=True):
        for text, score in ((" ".join(map(str, right)), 1.0), ("no", 0.0)):
            found = asyncio.run(judged(row, f"<answer>{text}</answer>"))
            assert found["reward_score"] == score
            assert found["reward_extra_info"] == {"score": score, "truegain_abstained": 0.0}
    reward.close()


RAY = """
import json, os, ray
ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

@ray.remote
def used():
    import numpy, torch, verl
    from verl.trainer.ppo import core_algos
    whiten = core_algos.get_adv_estimator_fn("truegain_whiten")
    index = numpy.array(list("aaaa"), dtype=object)
    found, _ = whiten(
        token_level_rewards=torch.tensor([[1.0], [0.0], [0.0], [0.0]]), response_mask=torch.ones(4, 1), index=index
    )
    return os.getpid(), found.flatten().tolist()

print(json.dumps([os.getpid(), *ray.get(used.remote())]))
ray.shutdown()
"""


def test_a_ray_worker_has_the_names_and_reads_the_file_of_knobs(tmp_path: Path) -> None:
    (tmp_path / "knobs.toml").write_text('[whiten]\nwith = ["leave_one_out"]\n')
    environment = {
        **os.environ,
        "TRUEGAIN_STATE": str(tmp_path),
        "TRUEGAIN_VERL_CONFIG": str(tmp_path / "knobs.toml"),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RAY],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    driver, worker, found = json.loads(done.stdout.splitlines()[-1])
    assert worker != driver
    # leave_one_out gives 1 and three times -1/3; their mean is 0 and their sample deviation 2/3.
    assert found == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    assert json.loads((tmp_path / "verl.json").read_text())["loaded"]["process"] == worker
