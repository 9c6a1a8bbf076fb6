"""What is refused, with which line and which exit code."""

from __future__ import annotations

import pytest
import typer

from truegain.cli.__main__ import main
from truegain.cli.errors import refusal
from truegain.core.errors import DataError, SettingError


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that must print nothing on stdout."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return code, err.rstrip("\n")


@pytest.mark.parametrize(
    ("argv", "wrong", "meant"),
    [
        (("trian",), "'trian'", "'train'"),
        (("train", "gropo", "--task", "sort"), "'gropo'", "'grpo'"),
        (("train", "grpo", "--taks", "sort"), "'--taks'", "'--task'"),
        (("train", "grpo", "--no-control", "--task", "sort"), "'--no-control'", "'--no-controls'"),
        (("train", "grpo", "--task", "sort", "--set", "clip_hihg=0.3"), "'clip_hihg'", "clip_high"),
        (("train", "grpo", "--task", "sort", "--set", "bta=0.3"), "'bta'", "beta"),
        (("train", "grpo", "--task", "sort", "--report-to", "wandbb"), "'wandbb'", "'wandb'"),
        (("show", "gropo"), "'gropo'", "'grpo'"),
        (("show", "ppo_clap"), "'ppo_clap'", "'ppo_clip'"),
        (("list", "--room", "objectiv"), "'objectiv'", "'objective'"),
        (("sample", "table", "--task", "srot"), "'srot'", "'sort'"),
        (("eval", "table", "--task", "sort", "--split", "tset"), "'tset'", "'test'"),
        (("fit", "tinny"), "'tinny'", "'tiny'"),
        (("claims", "rnu"), "'rnu'", "'run'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_legal_one(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], wrong: str, meant: str
) -> None:
    code, line = failed(capsys, *argv)
    assert code == 2
    assert line.startswith("error: ")
    assert wrong in line
    assert "did you mean" in line
    assert meant in line


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("train",), "RECIPE"),
        (("train", "grpo"), "--task"),
        (("train", "sft", "--task", "sort"), "fit sft"),
        (("train", "grpo", "--task", "sort", "--max-seconds", "0"), "above 0"),
        (("train", "grpo", "--task", "sort", "--seeds", "0"), "--seeds"),
        (("train", "grpo", "--task", "sort", "--steps", "few"), "'--steps'"),
        (("train", "grpo", "--task", "sort", "--set", "lr"), "PATH=VALUE"),
        (("train", "grpo", "--task", "sort", "--set", "lr=-1"), "loop.lr"),
        (("train", "grpo", "--task", "sort", "--set", "clip=wide"), "'wide'"),
        (("compare", "runs/one"), "two run folders"),
        (("sample", "table"), "--task or --prompt"),
        (("show", "ppo_clip", "--set", "clip_low=1"), "none"),
        (("fit",), "fit tiny"),
        (("claims", "run"), "--all"),
        (("report",), "RUN"),
    ],
)
def test_what_is_asked_wrongly_ends_in_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], says: str
) -> None:
    code, line = failed(capsys, *argv)
    assert code == 2
    assert line.startswith("error: ")
    assert says in line


def test_what_goes_wrong_ends_in_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failed(capsys, "eval", "no-such-folder", "--task", "sort,level=2", "--problems", "4")
    assert code == 1
    assert line.startswith("error: no model folder 'no-such-folder'")


def test_a_client_that_is_not_installed_is_told_with_the_pip_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, line = failed(capsys, "train", "grpo", "--task", "sort", "--report-to", "trackio")
    assert code == 1
    assert "pip install trackio" in line


def test_an_unexpected_exception_is_one_line_unless_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRUEGAIN_DEBUG", raising=False)
    line, code = refusal(ZeroDivisionError("by\nzero")) or ("", 0)
    assert (line, code) == (
        "error: unexpected ZeroDivisionError: by zero (set TRUEGAIN_DEBUG=1 to see the traceback)",
        1,
    )
    monkeypatch.setenv("TRUEGAIN_DEBUG", "1")
    assert refusal(ZeroDivisionError()) is None


def test_debugging_keeps_the_traceback_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUEGAIN_DEBUG", "1")
    monkeypatch.setattr("truegain.cli.index.load_index", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_codes_are_2_for_settings_and_1_for_data() -> None:
    assert refusal(SettingError("x")) == ("error: x", 2)
    assert refusal(DataError("x")) == ("error: x", 1)
    assert refusal(typer.BadParameter("x")) == ("error: invalid value: x", 2)


def test_control_characters_in_an_error_do_not_reach_the_terminal() -> None:
    line, _ = refusal(DataError("a\x1b[2Jb\nc")) or ("", 0)
    assert line == "error: a\\x1b[2Jb c"


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("truegain.cli.index.load_index", interrupted)
    assert main(["list"]) == 130
