"""A reward model under audit: its scores are compared within a prompt, and junk that it pays for is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from truegain.audit import Plan, Rules, Subject, audit, problems_of
from truegain.cli import audit as command_room
from truegain.cli.__main__ import main
from truegain.policy.heads import ScalarHead
from truegain.policy.policy import Policy
from truegain.policy.reward_model import HEAD, RewardModels
from truegain.tasks import make


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a random head: it knows nothing of right and wrong."""
    place = tmp_path_factory.mktemp("reward") / "model"
    policy = Policy.load("tiny")
    policy.save(place)
    torch.manual_seed(0)
    head = ScalarHead(int(policy.model.config.hidden_size))
    torch.nn.init.normal_(next(head.parameters()), std=0.2)
    head.save(place / HEAD)
    return place


def ended(work: Any) -> dict[str, Any]:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def test_scores_are_distances_from_the_prompts_own_reference(untrained: Path) -> None:
    problems = problems_of(make("add"), 4, 0)
    rows = [(problem, f"<answer>{problem.answer}</answer>") for problem in problems]
    junk = [(problem, "no") for problem in problems]
    with Subject(str(untrained), is_task=False, is_model=True, deadline=60.0, count=1) as subject:
        before = [said.value for said in subject.ask(junk)]
        subject.measure_from(rows)
        at_reference = [said.value for said in subject.ask(rows)]
        after = [said.value for said in subject.ask(junk)]
    assert at_reference == pytest.approx([0.0] * 4, abs=1e-5)
    made = RewardModels.load(untrained)
    asked = [made.tokens(problem.prompt, text) for problem, text in rows]
    own = made.score([p for p, _ in asked], [c for _, c in asked])[:, 0].tolist()
    assert after == pytest.approx([b - o for b, o in zip(before, own, strict=True)], abs=1e-4)


@pytest.mark.slow
def test_a_reward_model_that_knows_nothing_is_not_fit(untrained: Path) -> None:
    task = make("add")
    with Subject(str(untrained), is_task=False, is_model=True, deadline=60.0, count=2) as subject:
        rules, plan = Rules(bound=0.1, deadline=60.0), Plan(seconds=20.0, again=4)
        found = ended(audit(subject, task, problems_of(task, 10, 0), rules, plan))
    assert found["subject"]["kind"] == "model" and found["form"] == "answer tags"
    assert found["verdict"] == "unfit", found["sentence"]


def test_a_folder_without_a_head_and_a_model_without_problems_are_refused(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(tmp_path)]) == 2
    assert f"holds no {HEAD}" in capsys.readouterr().err
    assert main(["audit", str(untrained)]) == 2
    assert "is a reward model and needs --data" in capsys.readouterr().err


def test_the_command_audits_a_folder_and_exits_with_1_where_it_knows_nothing(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, few in (("DRAWN", 4), ("SAMPLES", 8), ("QUICK_PROBLEMS", 1)):
        monkeypatch.setattr(command_room, name, few)
    command = ["audit", str(untrained), "--data", "add", "--quick", "--problems", "2", "--deadline", "60"]
    assert main([*command, "--max-seconds", "15", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["subject"] == {"name": str(untrained), "kind": "model", "fact": None} and found["verdict"] != "fit"
