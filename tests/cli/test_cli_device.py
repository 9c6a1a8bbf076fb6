"""`--device`: CUDA where it is there, the CPU elsewhere, and one line for what is not there."""

from __future__ import annotations

import pytest
import torch

from truegain.cli.__main__ import main
from truegain.cli.device import device_of
from truegain.core.errors import SettingError


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_the_default_is_the_gpu_where_there_is_one_and_the_cpu_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert [device_of(asked) for asked in (None, "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    gpus(monkeypatch, 0)
    assert [device_of(asked) for asked in (None, "cpu")] == ["cpu", "cpu"]


def test_a_gpu_that_is_not_there_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    with pytest.raises(SettingError, match=r"cuda:3: torch sees 1 GPU; use cuda:0$"):
        device_of("cuda:3")
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(SettingError, match=r"built for the CPU alone.*use --device cpu"):
        device_of("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(SettingError, match=r"CUDA 13\.0 but sees no GPU \(look at nvidia-smi\)"):
        device_of("cuda:1")


@pytest.mark.parametrize(
    "command",
    [
        ("train", "grpo", "--task", "sort"),
        ("eval", "table", "--task", "sort"),
        ("sample", "table", "--task", "sort"),
        ("fit", "sft", "--task", "sort", "--out", "never-made"),
    ],
)
def test_every_command_that_runs_a_model_refuses_it_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    gpus(monkeypatch, 0)
    assert main([*command, "--device", "cuda"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: --device cuda: ")
    assert err.count("\n") == 1
    assert main([*command, "--device", "cdua"]) == 2
    assert "did you mean 'cuda'" in capsys.readouterr().err
