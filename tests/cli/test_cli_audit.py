"""``truegain audit`` from the command line: exit codes, refusals, JSON, the page, the commands of the docs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROKEN = ROOT / "tests" / "audit" / "broken_rewards.py"


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "truegain.cli", "audit", *arguments]
    env = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_a_fit_reward_exits_with_0_and_writes_page_and_json(tmp_path: Path) -> None:
    done = run("sort", "--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("FIT TO BE OPTIMISED")
    assert {path.name for path in tmp_path.iterdir()} == {"audit-sort.html", "audit-sort.json"}


def test_an_unfit_reward_exits_with_1_and_prints_one_json_document(tmp_path: Path) -> None:
    done = run(f"{BROKEN}:of_length", "--data", "add", "--quick", "--json", "--max-seconds", "10", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["verdict"] == "unfit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["srot"], "did you mean 'sort'"),
        (["sort", "--data", "add"], "--data is for functions"),
        ([f"{BROKEN}:good"], "needs --data"),
        (["sort", "--form", "boxd"], "did you mean 'boxed'"),
        (["bandit"], "no text to audit"),
        ([f"{BROKEN}:neither", "--data", "add"], "a reward takes completions"),
        (["sort", "--gold", "exat"], "did you mean 'exact'"),
    ],
)
def test_a_wrong_question_exits_with_2_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def commands() -> list[str]:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    return [line.removeprefix("$ ") for line in re.findall(r"^\$ truegain audit .*$", page, re.MULTILINE)]


@pytest.mark.slow
def test_the_commands_of_the_page_end_as_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"^```(?:python|json)\n# (\S+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    for name, text in re.findall(r"^`(\S+\.jsonl)`:\n\n```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    assert len(commands()) >= 4
    for line in commands():
        asked, _, wanted = line.partition("  # exits with ")
        done = run(*shlex.split(asked)[2:], folder=tmp_path)
        assert str(done.returncode) == wanted.split()[0], f"{line}\n{done.stdout}\n{done.stderr}"
