"""verl's reward function from ours. Needs no verl."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from truegain.core.errors import SettingError
from truegain.hosts.verl_names import VARIABLE
from truegain.hosts.verl_score import compute_score, made

REWARDS = """
import time

def brief(completions, **columns):
    return [None if "?" in text else 1.0 / (1 + len(text)) for text in completions]

def slow(completions, **columns):
    time.sleep(60)
"""


@pytest.fixture
def rewards(tmp_path: Path) -> str:
    (tmp_path / "rewards.py").write_text(REWARDS)
    return str(tmp_path / "rewards.py")


def test_a_checker_named_in_the_file_scores_with_the_same_keys_for_every_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "verl.toml").write_text('[compute_score]\nreward = "exact"\nabstain = 0.0\n')
    monkeypatch.setenv(VARIABLE, str(tmp_path / "verl.toml"))
    right = compute_score("gsm8k", "so <answer>4</answer>", "4", {"index": 3})
    wrong = compute_score("gsm8k", "so <answer>5</answer>", "4", {"index": 3}, reward_router_address=None)
    assert right == {"score": 1.0, "truegain_abstained": 0.0}
    assert wrong == {"score": 0.0, "truegain_abstained": 0.0}


@pytest.mark.parametrize(("abstain", "score"), [("drop", math.nan), (-0.5, -0.5)])
def test_an_abstention_is_what_the_settings_say_and_is_marked(rewards: str, abstain: Any, score: float) -> None:
    settings = {"reward": f"{rewards}:brief", "abstain": abstain}
    assert compute_score("mine", "ab", "x", None, **settings)["score"] == pytest.approx(1 / 3)
    found = compute_score("mine", "what?", "x", None, **settings)
    assert found["truegain_abstained"] == 1.0
    assert found["score"] == pytest.approx(score, nan_ok=True)


def test_a_function_that_passes_its_deadline_is_an_abstention(rewards: str) -> None:
    settings = {"reward": f"{rewards}:slow", "abstain": 0, "deadline": 0.5}
    assert compute_score("mine", "ab", "x", None, **settings) == {"score": 0.0, "truegain_abstained": 1.0}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reward": "exact"}, "say what a completion counts that cannot be judged"),
        ({"reward": "exact", "abstain": True}, "say what a completion counts"),
        ({"abstain": "drop"}, "reward is missing"),
        ({"reward": "exact", "abstain": 0, "deadlin": 3}, "unknown key 'deadlin' (did you mean 'deadline'?)"),
        ({"reward": "srot", "abstain": 0}, "did you mean 'sort'?"),
    ],
)
def test_an_incomplete_or_unknown_setting_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        made(settings)
    assert said in str(caught.value)
