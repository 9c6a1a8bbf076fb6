"""DA-DLER: two stages of training, and the merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import truegain.recipes  # noqa: F401  (fills the table of systems)
from truegain.core.errors import SettingError
from truegain.core.forms import Train
from truegain.core.settings import loop_with, settings
from truegain.core.system import build
from truegain.methods.length import merge_updates, selective_merge
from truegain.policy.policy import Policy
from truegain.recipes.da_dler import da_dler
from truegain.train.chain import Chain, execute
from truegain.train.launch import StopSignal


def test_the_second_stage_has_the_tighter_limit_and_the_papers_150_steps() -> None:
    first, second, study = build("da-dler")
    assert settings(first)["reward.within_limit.easy"] is None
    assert settings(second)["reward.within_limit.easy"] == 0.5
    assert isinstance(second, Train) and second.loop.steps == 150
    assert study.function.keywords == {"keep": 0.25, "scale": 0.7}  # pyright: ignore


def test_the_study_reports_how_much_of_the_model_changed() -> None:
    base = {"w": torch.zeros(2, 4), "n": torch.tensor([3])}
    trained = {"w": torch.arange(8.0).reshape(2, 4), "n": torch.tensor([4])}
    # the top quarter of eight changes are 6 and 7; the whole number is the base's: 2 of 9 entries
    found = merge_updates(base, trained, keep=0.25, scale=0.5)
    assert found["changed"] == 2 / 9
    assert found["weights"]["w"].flatten().tolist() == [0, 0, 0, 0, 0, 0, 3.0, 3.5]
    assert merge_updates({}, {}) == {"weights": {}, "changed": 0.0}
    with pytest.raises(SettingError, match="keep=2"):
        merge_updates(base, trained, keep=2.0)


def test_two_stages_are_trained_and_the_largest_changes_are_grafted_onto_the_first_model(tmp_path: Path) -> None:
    first, second, study = da_dler(keep=0.5, scale=0.7)
    small = {"steps": 1, "prompts": 4, "samples": 8, "eval_every": 0, "lr": 0.1}
    forms = (loop_with(first, **small), loop_with(second, **small), study)
    options = {"sizes": {"dev": 2, "test": 2, "samples": 1}}
    out = tmp_path / "run"
    chain = Chain(forms, "da-dler", out, "table", "bandit", 0, options=options)
    left = [event for event in execute(chain, StopSignal()) if event["kind"] == "left"]
    assert [event["form"] for event in left] == ["Train", "Train", "Study"]
    base = Policy.load("table").weights()
    trained = Policy.load(str(out / "2-train" / left[1]["policy"])).weights()
    merged = Policy.load(str(out / "3-study" / "model")).weights()
    assert any(not torch.equal(base[name], trained[name]) for name in base)
    wanted = selective_merge(base, trained, keep=0.5, scale=0.7)
    assert all(torch.equal(merged[name], wanted[name]) for name in base)
    record = json.loads((out / "3-study" / "record.json").read_text())
    assert 0 < record["changed"] <= 0.5
