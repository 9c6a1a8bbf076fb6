"""`list` and `show`, and what loads without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from truegain.cli.__main__ import main
from truegain.cli.variant import forms
from truegain.core.columns import COLUMNS
from truegain.core.errors import SettingError
from truegain.core.settings import settings


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    """The JSON document of a command, which must be all of stdout."""
    assert main(argv) == 0
    out = capsys.readouterr().out
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_list_has_the_keys_that_other_programs_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "list", "--json")
    assert "grpo" in {row["name"] for row in rows}
    assert all({"name", "paper", "room", "form"} <= row.keys() for row in rows)


def test_list_filters_by_room_and_form(capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "list", "--json", "--room", "objective", "--form", "train")
    assert "grpo" in {row["name"] for row in rows}
    assert all(row["room"] == "objective" and "Train" in row["form"].split(", ") for row in rows)
    components = printed(capsys, "list", "--components", "--json", "--room", "credit")
    assert "credit.group_normalise" in {row["name"] for row in components}
    assert {row["room"] for row in components} == {"credit"}


def test_a_listing_prints_each_recipe_on_one_whole_line_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    grpo = next(line for line in lines if line.startswith("grpo "))
    assert "arXiv:2402.03300" in grpo
    assert "…" not in grpo


def test_show_prints_all_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "show", "grpo", "--json")
    form = found["forms"][0]
    stages = {stage["stage"]: stage for stage in form["stages"]}
    assert stages["surrogate"]["component"] == "objective.ppo_clip"
    assert "rho = exp(logp - old_logp)" in stages["surrogate"]["doc"]
    assert ">>>" not in stages["surrogate"]["doc"]
    assert form["settings"] == settings(forms("grpo", {})[0])
    assert form["loop"]["lr"]["means"]
    column = next(c for c in form["columns"] if c["name"] == "correct")
    assert column["from"] == COLUMNS["correct"].provider
    assert column["read_by"] == ["reward.outcome"]
    assert found["differs"]


def test_show_prints_a_recipe_as_it_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    form = printed(capsys, "show", "grpo", "--json", "--set", "beta=0.04", "--set", "lr=0.5")["forms"][0]
    assert [s["component"] for s in form["stages"] if s["stage"] == "surrogate"][1:] == ["objective.kl_to_reference"]
    assert form["roles"]["reference"]["fills"] == "ref_logp"
    assert form["loop"]["lr"]["value"] == 0.5


@pytest.mark.parametrize("name", ["group_normalise", "credit.group_normalise"])
def test_show_knows_components_by_short_and_full_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    found = printed(capsys, "show", name, "--json")
    assert (found["what"], found["name"], found["kind"]) == ("component", "credit.group_normalise", "credit")
    assert found["knobs"]["ddof"] == 1


def test_show_knows_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "show", "sort,level=3", "--json")
    assert (found["what"], found["level"]) == ("task", 3)
    problem = found["problems"][0]
    assert problem["demonstration"] == f"<answer>{problem['answer']}</answer>"


@pytest.mark.parametrize("name", ["grpo", "sft", "ppo_clip", "clustered_mean", "sort", "calculator,style=trace"])
def test_show_prints_for_people_too(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["show", name]) == 0
    assert name.partition(",")[0] in capsys.readouterr().out.splitlines()[0]


def test_a_set_names_a_knob_of_the_recipe_before_a_setting_of_its_form() -> None:
    form = forms("grpo", {"clip": "0.3", "steps": "7"})[0]
    assert settings(form)["surrogate.ppo_clip.clip_low"] == 0.3
    assert settings(form)["loop.steps"] == 7
    assert settings(forms("grpo", {"clip_low": 0.1})[0])["surrogate.ppo_clip.clip_high"] == 0.2


def test_a_value_that_does_not_fit_is_refused_with_the_default() -> None:
    with pytest.raises(SettingError, match=r"clip = 'wide'.*default is 0\.2"):
        forms("grpo", {"clip": "wide"})


def modules_after(*argv: str, code_wanted: int = 0) -> set[str]:
    """What a command has imported, found in a fresh interpreter."""
    code = (
        "import sys; from truegain.cli.__main__ import main; code = main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == code_wanted, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("argv", [("list",), ("list", "--components", "--json"), ("--help",), ("claims", "--json")])
def test_looking_around_imports_no_torch(argv: tuple[str, ...]) -> None:
    found = modules_after(*argv)
    assert "truegain.cli.app" in found
    assert not found & {"torch", "transformers", "numpy"}


@pytest.mark.parametrize(
    "argv",
    [
        ("train", "gropo", "--task", "sort"),
        ("train", "grpo", "--task", "sort+ad"),
        ("train", "grpo", "--task", "sort,levle=3"),
        ("run", "grpo", "--task", "srot"),
        ("eval", "tiny", "--task", "srot"),
        ("sample", "tiny", "--task", "srot"),
    ],
)
def test_a_wrong_name_is_refused_before_torch_is_imported(argv: tuple[str, ...]) -> None:
    assert "torch" not in modules_after(*argv, code_wanted=2)


def test_the_version_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from truegain import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"truegain {__version__}\n"


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "truegain [OPTIONS] COMMAND" in capsys.readouterr().out


def test_a_terminal_without_unicode_and_a_closed_pipe_do_no_harm() -> None:
    command = (
        f"PYTHONIOENCODING=ascii {sys.executable} -m truegain.cli sample --help | head -c 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "U"
