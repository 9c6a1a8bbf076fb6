"""Options from a TOML file."""

from __future__ import annotations

from pathlib import Path

import pytest

from truegain.cli.config import KEYS, merged, read_config
from truegain.cli.train import DEFAULTS
from truegain.core.errors import DataError, SettingError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_option_of_the_file_has_a_default_of_train() -> None:
    assert set(KEYS) == {*DEFAULTS, "set"}


def test_a_file_gives_options_and_nested_settings_by_dotted_path(tmp_path: Path) -> None:
    text = """
    recipe = "grpo"
    task = "sort"
    max_seconds = 60
    controls = true
    reward = "rewards.py:length"
    [set]
    lr = 3e-4
    "loop.steps" = 7
    credit.group_normalise.std = "batch"
    """
    assert read_config(written(tmp_path, text)) == {
        "recipe": "grpo",
        "task": "sort",
        "max-seconds": 60,
        "controls": True,
        "reward": ["rewards.py:length"],
        "set": {"lr": 3e-4, "loop.steps": 7, "credit.group_normalise.std": "batch"},
    }


def test_settings_may_be_a_list_as_on_the_command_line(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, 'set = ["lr=1e-3", "clip = 0.3"]')) == {"set": {"lr": "1e-3", "clip": "0.3"}}


def test_flags_win_over_the_file_and_the_file_over_the_defaults() -> None:
    flags = {"seed": None, "seeds": 3, "controls": False, "set": {"lr": "1"}}
    config = {"seed": 5, "seeds": 2, "controls": True, "set": {"lr": 2.0, "clip": 0.3}}
    found = merged(flags, config, {"seed": 0, "seeds": 1, "controls": False, "model": "tiny"})
    assert found == {"seed": 5, "seeds": 3, "controls": False, "model": "tiny", "set": {"lr": "1", "clip": 0.3}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("taks = 'sort'", "did you mean 'task'"),
        ("seeds = true", "seeds cannot be True"),
        ("seeds = 0", "seeds cannot be 0"),
        ("steps = 1.5", "steps cannot be 1.5"),
        ("max-seconds = 0", "above 0"),
        ("reward = [1]", "list of strings"),
        ("set = [1]", "PATH=VALUE"),
        ("set = ['lr']", "PATH=VALUE"),
    ],
)
def test_what_a_file_may_not_hold_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        read_config(written(tmp_path, text))


def test_a_file_that_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2"):
        read_config(written(tmp_path, "a = 1\nb = = 2"))
    with pytest.raises(DataError, match="no file"):
        read_config(tmp_path / "absent.toml")
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"a = '\xff'")
    with pytest.raises(DataError, match="cannot be read"):
        read_config(bad)
