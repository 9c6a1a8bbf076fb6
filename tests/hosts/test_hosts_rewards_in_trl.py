"""Our rewards inside TRL's own trainer, on data that we converted: logged by name, abstentions apart."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import GRPOTrainer
from trl_runs import LETTERS, settings, trainer_of, write_model

from truegain.core.types import Problem
from truegain.hosts.data import trl_rows
from truegain.hosts.rewards import Reward

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

MOODY = """
def moody(completions, tests, log_metric, **columns):
    log_metric("seen", float(tests[0]["case"]))
    return [None if n % 2 else float(len(text)) for n, text in enumerate(completions)]

def dead(completions, **columns):
    raise ValueError("no")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


def problems() -> list[Problem]:
    return [
        Problem(str(i), f"{LETTERS[2 + i % 3]}{1 + i % 4}", LETTERS[i % 2], {"tests": {"case": 7}}) for i in range(16)
    ]


def trained(model: str, place: Path, *rewards: Any, **changed: Any) -> list[dict[str, Any]]:
    data = Dataset.from_list(trl_rows(problems()).rows)
    args = settings(place, max_steps=2, **changed)
    trainer = trainer_of(model, args, GRPOTrainer, reward_funcs=list(rewards), train_dataset=data)
    trainer.train()
    return [line for line in trainer.state.log_history if "reward" in line]


def test_trl_trains_on_our_rewards_and_logs_them_by_name(model: str, tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(MOODY)
    exact, moody = Reward.of("exact", workers=1), Reward.of(f"{tmp_path}/my_rewards.py:moody")
    lines = trained(model, tmp_path, exact.as_trl(), moody.as_trl())
    assert len(lines) == 2
    for line in lines:
        assert 0.0 <= line["rewards/exact/mean"] <= 1.0
        assert line["truegain/abstained/exact"] == 0.0
        assert line["truegain/abstained/moody"] == 0.5
        assert line["seen"] == 7.0
    exact.close()
    moody.close()


def test_a_reward_that_always_fails_teaches_nothing_and_says_so(model: str, tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(MOODY)
    dead = pickle.loads(pickle.dumps(Reward.of(f"{tmp_path}/my_rewards.py:dead").as_trl()))
    for line in trained(model, tmp_path, dead):
        assert line["truegain/abstained/dead"] == 1.0
        assert line["loss"] == 0.0
        assert line["grad_norm"] == 0.0
    dead.reward.close()
