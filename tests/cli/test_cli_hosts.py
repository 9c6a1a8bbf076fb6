"""`truegain hosts`: what runs inside which trainer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from truegain.cli.__main__ import main


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["hosts", *argv]) == 0
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    return json.loads(shown(capsys, *argv, "--json"))


def test_every_host_has_a_line_with_its_version_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    for host, version in (("trl", "1.16.0"), ("verl", "0.9.1"), ("verifiers", "0.4.0")):
        (line,) = [one for one in lines if one.split()[0] == host]
        assert version in line and " of " in line


def test_each_component_runs_or_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    for one in told(capsys):
        assert one["rows"]
        for row in one["rows"]:
            assert row["runs"] is (row["sentence"] is None) is (row["missing"] is None), row
            assert row["runs"] or one["host"] in row["sentence"]


def test_one_recipe_is_shown_for_the_hosts_that_train(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--of", "grpo")
    assert [(one["host"], [row["runs"] for row in one["rows"]]) for one in found] == [("trl", [True]), ("verl", [True])]
    assert "no place for" not in shown(capsys, "--of", "grpo")


def test_one_component_is_found_by_either_name_and_in_every_host(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ppo_clip", "objective.ppo_clip"):
        assert [one["host"] for one in told(capsys, "--of", name)] == ["trl", "verl", "verifiers"]


def test_kinds_without_a_place_are_counted_and_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "verl")
    assert "no place for" in text and "sampler (" in text.splitlines()[-1]
    assert not any(" sampler " in line for line in text.splitlines()[:-1])


def test_an_unknown_host_or_name_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "verll"]) == 2
    assert "did you mean 'verl'" in capsys.readouterr().err
    assert main(["hosts", "--of", "grppo"]) == 2
    assert "did you mean" in capsys.readouterr().err
