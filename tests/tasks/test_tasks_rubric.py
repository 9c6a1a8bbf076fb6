"""The rubric as a task: its verdict is the laboratory's gold, its pairs fit a reward model that a policy climbs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from truegain.cli.__main__ import main
from truegain.core.errors import SettingError
from truegain.core.types import Rollout
from truegain.tasks import make
from truegain.tasks.rubric import GOOD, Rubric


def said(task: Rubric, text: str) -> tuple[float, float]:
    problem = task.problem("train", 0)
    found = task.score(problem, Rollout(problem, (), (), (), text, "stop", ()))
    assert isinstance(found, dict)
    return found["score"], found["correct"]


def test_the_checker_gives_the_gold_of_a_text_as_the_laboratory_does() -> None:
    task = make("rubric,seed=3,letters=5,tokens=4")
    assert isinstance(task, Rubric)
    texts = task.sample(task.base, 50, torch.Generator().manual_seed(0))
    gold = task.gold(texts).tolist()
    for row, value in zip(texts, gold, strict=True):
        score, correct = said(task, task.text(row))
        assert score == pytest.approx(value, abs=1e-5) and correct == float(value > GOOD)


def test_other_characters_and_what_comes_after_the_last_token_earn_nothing() -> None:
    task = Rubric(3, letters=5, tokens=4)
    assert said(task, "ab") == said(task, "a?b\u00e9") == said(task, "AabZ")
    assert said(task, "abab") == said(task, "ababcccc")
    assert said(task, "")[0] == pytest.approx(-task._scale[0] / task._scale[1])


@pytest.mark.parametrize("spec", ["rubric,letters=1", "rubric,letters=27", "rubric,flip=0.6", "rubric,tokens=0"])
def test_a_rubric_out_of_bounds_is_refused(spec: str) -> None:
    with pytest.raises(SettingError, match="task rubric"):
        make(spec)


def test_splits_have_problems_and_pairs_of_their_own() -> None:
    task = Rubric(0)
    assert task.problem("train", 1).id != task.problem("test", 1).id
    assert task.pair("train", 1) != task.pair("test", 1)


def test_a_reward_model_is_fitted_on_its_pairs_and_a_policy_optimised_against_it_beside_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from truegain.train.folder import read_lines

    spec = "rubric,letters=6,tokens=6"
    made = ["fit", "reward-model", "--task", spec, "--model", "tiny", "--out", str(tmp_path / "rm"), "--members", "2"]
    assert main([*made, "--steps", "2", "--held-out", "20", "--standardise"]) == 0, capsys.readouterr().err
    ran = ["train", "rm-ensemble-conservative", "--task", spec, "--model", "tiny", "--out", str(tmp_path / "run")]
    ran += ["--set", f"role.reward_model.source={tmp_path / 'rm'}", "--set", "steps=2"]
    assert main([*ran, "--dev-problems", "4", "--test-problems", "4", "--eval-samples", "2"]) == 0, (
        capsys.readouterr().err
    )
    steps = [line for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "step"]
    assert len(steps) == 2 and all("reward" in line for line in steps)
