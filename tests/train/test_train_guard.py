"""The gold-gap guard of our own loop: a run whose gold rises and then falls, logged, paused and rolled back."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from train_runs import form_of

from truegain import report
from truegain.cli.__main__ import main
from truegain.core.component import REGISTRY, component, spec_of
from truegain.core.errors import SettingError
from truegain.policy.policy import Policy
from truegain.recipes.gold_gap_guard import gold_gap_guard
from truegain.report.page import render_page
from truegain.train.folder import read_lines
from truegain.train.launch import StopSignal
from truegain.train.run import Plan, execute

STEPS, LOOK = 32, 4


@component("reward", cite="truegain")
def turncoat(correct: Float[Tensor, "B"], *, progress: float = 0.0) -> Float[Tensor, "B"]:
    """Pays for right arms in the first fifth, and for wrong ones from then on.

    >>> turncoat(torch.tensor([1.0]), progress=1.0)
    tensor([0.])
    """
    return correct if progress < 0.2 else 1 - correct


del REGISTRY[spec_of(turncoat).full_name]


def plan_of(out: Path, guard: str | None, reward: Any = turncoat, **more: Any) -> Plan:
    loop = {
        "steps": STEPS,
        "prompts": 32,
        "samples": 8,
        "lr": 1.0,
        "eval_every": LOOK,
        "save_every": LOOK,
        "eval_problems": 60,
    }
    form = replace(form_of(**loop), reward=(reward,))
    sizes = {"dev": 4, "test": 8, "samples": 2}
    given: dict[str, Any] = {"recipe": "grpo", "model": "table", "task": "bandit,level=50", "sizes": sizes, **more}
    return Plan(form=form, out=out, guard=guard, **given)


def events_of(plan: Plan) -> list[dict[str, Any]]:
    return list(execute(plan, StopSignal()))


def kinds(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == kind]


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "ledger")} for line in read_lines(folder / "log.jsonl")
    ]


def checkpoints(folder: Path) -> list[str]:
    return sorted(place.name for place in (folder / "checkpoints").iterdir() if not place.name.startswith("."))


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run to its end whose guard only says what it sees. Not to be written to."""
    folder = tmp_path_factory.mktemp("logged") / "run"
    return folder, events_of(plan_of(folder, "log"))


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run that was rolled back. Not to be written to."""
    folder = tmp_path_factory.mktemp("rolled") / "run"
    return folder, events_of(plan_of(folder, "rollback"))


def first_alarm(events: list[dict[str, Any]]) -> dict[str, Any]:
    return next(event for event in kinds(events, "guard") if event["truegain/gold_alarm"])


def test_every_look_is_judged_and_a_fall_under_a_rising_proxy_is_a_divergence(logged: Any) -> None:
    folder, events = logged
    said = kinds(events, "guard")
    assert [event["step"] for event in said] == [event["step"] for event in kinds(events, "eval")]
    alarm = first_alarm(events)
    assert alarm["alarm"] == "divergence" and alarm["truegain/gold_evidence"] >= 1 and 0 < alarm["low"] < 1
    golds = {event["step"]: event["gold"] for event in kinds(events, "eval")}
    assert alarm["truegain/gold_best_step"] == max(golds, key=lambda step: golds[step] if step < alarm["step"] else -1)
    assert kinds(events, "step")[-1]["step"] == STEPS and events[-1]["kind"] == "done"
    # The best look's checkpoint stays beside the two newest ones.
    best = said[-1]["truegain/gold_best_step"]
    assert checkpoints(folder) == [f"step-{step:06d}" for step in (best, STEPS - LOOK, STEPS)]


def test_without_a_guard_a_run_has_the_same_numbers_and_its_looks_can_be_judged_later(
    logged: Any, tmp_path: Path
) -> None:
    events_of(plan_of(tmp_path / "run", None))
    assert untimed(tmp_path / "run") == [line for line in untimed(logged[0]) if line["kind"] != "guard"]
    code = main(
        ["run", "gold-gap-guard", "--records", str(tmp_path / "run" / "evals" / "looks.jsonl"), "--out",
         str(tmp_path / "measured"), "--json"]
    )  # fmt: skip
    assert code == 0
    (place,) = (tmp_path / "measured").rglob("record.json")
    assert json.loads(place.read_text())["guard.gold_gap"]["first"] == first_alarm(logged[1])["step"]
    assert gold_gap_guard().metric


def test_a_run_that_is_rolled_back_stops_at_its_alarm_and_is_judged_by_its_best_checkpoint(rolled: Any) -> None:
    folder, events = rolled
    alarm = first_alarm(events)
    best = int(alarm["truegain/gold_best_step"])
    assert kinds(events, "step")[-1]["step"] == alarm["step"] < STEPS
    assert any(f"rolled back to step {best}" in event["text"] for event in kinds(events, "note"))
    assert checkpoints(folder)[-1] == f"step-{best:06d}"
    assert [name for name in checkpoints(folder) if name.startswith("past-alarm-step-")]
    judged = [line for line in read_lines(folder / "evals" / "records.jsonl") if line["arm"] == "trained"]
    assert {line["step"] for line in judged} == {best}
    # The folder, given as a model, is the one that was judged.
    kept, whole = Policy.load(folder), Policy.load(folder / "checkpoints" / f"step-{best:06d}")
    assert all(torch.equal(v, whole.weights()[k]) for k, v in kept.weights().items())


def test_a_run_that_is_done_again_after_it_was_rolled_back_adds_nothing(rolled: Any) -> None:
    folder, _ = rolled
    before = (untimed(folder), read_lines(folder / "evals" / "records.jsonl"), checkpoints(folder))
    again = events_of(plan_of(folder, "rollback"))
    assert not kinds(again, "step")
    assert (untimed(folder), read_lines(folder / "evals" / "records.jsonl"), checkpoints(folder)) == before


@pytest.mark.parametrize("lost", ["step", "judge", "guard"])
def test_a_killed_run_goes_on_to_the_same_end(lost: str, rolled: Any, tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "run", "rollback")
    seen = 0
    for event in execute(plan, StopSignal()):
        seen += event["kind"] == lost
        if seen == {"step": 11, "judge": 2, "guard": 4}[lost]:
            break
    events_of(plan)
    assert untimed(tmp_path / "run") == untimed(rolled[0])
    assert read_lines(tmp_path / "run" / "evals" / "records.jsonl") == read_lines(rolled[0] / "evals" / "records.jsonl")
    assert checkpoints(tmp_path / "run") == checkpoints(rolled[0])


def test_a_paused_run_judges_nothing_and_goes_on_when_it_is_told_to(logged: Any, tmp_path: Path) -> None:
    events = events_of(plan_of(tmp_path / "run", "pause"))
    alarm = first_alarm(events)
    assert events[-1]["kind"] == "paused" and events[-1]["step"] == alarm["step"]
    assert not (tmp_path / "run" / "evals" / "records.jsonl").exists()
    again = events_of(plan_of(tmp_path / "run", "pause"))
    assert again[-1]["kind"] == "paused" and not kinds(again, "step")
    events_of(plan_of(tmp_path / "run", "log"))
    steps = [line for line in untimed(tmp_path / "run") if line["kind"] != "guard"]
    assert steps == [line for line in untimed(logged[0]) if line["kind"] != "guard"]


def test_a_run_that_only_falls_is_rolled_back_to_the_model_before_training(tmp_path: Path) -> None:
    from truegain.methods import reward

    against = functools.partial(reward.outcome, right=0.0, wrong=1.0)
    events = events_of(plan_of(tmp_path / "run", "rollback", against))
    assert first_alarm(events)["truegain/gold_best_step"] == 0
    records = read_lines(tmp_path / "run" / "evals" / "records.jsonl")
    test = [line for line in records if line["split"] == "test" and line["temperature"] == 1.0]
    gold = {arm: [line["gold"] for line in test if line["arm"] == arm] for arm in ("base", "trained")}
    assert abs(sum(gold["trained"]) - sum(gold["base"])) <= 0.5 * len(gold["base"])
    assert all(name.startswith("past-alarm") for name in checkpoints(tmp_path / "run"))


def test_the_page_shows_the_alarm_and_names_the_best_checkpoint(logged: Any, rolled: Any) -> None:
    for folder, events in (logged, rolled):
        data = report.build(folder)
        alarm = first_alarm(events)
        (found,) = data["guard"]
        assert found["alarm"]["step"] == alarm["step"] and found["level"] == 0.05
        remark = next(text for text in data["remarks"] if "gold-gap guard" in text)
        assert f"alarm at step {alarm['step']}" in remark and f"Most gold: step {found['best']:.0f}" in remark
        assert ("rolled back" in remark) == (folder == rolled[0])
        assert "gold-gap guard" in render_page(data)


def test_a_guard_without_looks_or_without_gold_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    for plan, text in (
        (plan_of(tmp_path / "run", "rolback"), "did you mean 'rollback'"),
        (replace(p := plan_of(tmp_path / "run", "log"), form=form_of(eval_every=0)), "eval_every"),
        (replace(p, task=str(_unanswered(tmp_path)), rewards=("math:sqrt",)), "no answers"),
    ):
        with pytest.raises(SettingError, match=text):
            events_of(plan)
    assert not (tmp_path / "run").exists()


def _unanswered(folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(60)))
    return file


def test_the_command_pauses_with_exit_code_one_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("prompts=32", "loop.samples=8", "loop.lr=1", "eval_every=4", "eval_problems=60")
    turned = ("outcome.right=0", "outcome.wrong=1")
    argv = [
        *("train", "grpo", "--task", "bandit,level=50", "--model", "table", "--out", str(tmp_path / "run")),
        *("--steps", "16", "--guard", "pause", "--dev-problems", "4", "--test-problems", "8"),
        *(word for setting in (*settings, *turned) for word in ("--set", setting)),
    ]
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert "guard: at step" in out and "while the proxy rose" in out
    assert "--guard log" in err and "step 0 has the most" in err
