from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from truegain.core.errors import DataError, RunError, SettingError, WiringError
from truegain.train import checkpoint
from truegain.train.checkpoint import latest, load_optimizer, optimizer_tensors, save, set_aside_after

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_model(step: int, size: int = 500):
    def write(path: Path) -> None:
        (path / "config.json").write_text('{"model_type": "llama"}')
        save_file({"w": torch.full((size,), float(step))}, path / "model.safetensors")

    return write


def save_step(folder: Path, step: int, **options) -> Path:
    tensors = {"exp_avg/w": torch.full((300,), float(step))}
    return save(folder, step, write_model=write_model(step), tensors=tensors, state={"step": step}, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def flip_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_folder_without_checkpoints_has_no_latest(tmp_path):
    assert latest(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert latest(tmp_path) is None


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    tensors = {
        "bf16": torch.randn(5).to(torch.bfloat16),
        "nan": torch.tensor([float("nan"), -0.0, 1e-45]),
        "transposed": base.t(),
        "alias": base,
        "step": torch.tensor(7.0),
        "empty": torch.empty(0),
    }
    state = {"x": 0.1 + 0.2, "best": float("-inf"), "big": 2**70, "text": "naïve \u2028 \ud800", "betas": (0.9, 0.95)}
    path = save(tmp_path, 3, write_model=write_model(3), tensors=tensors, state=state)
    assert path == tmp_path / "checkpoints" / "step-000003"
    found = latest(tmp_path)
    assert found is not None and (found.step, found.path, found.notes) == (3, path, ())
    assert found.state == {**state, "betas": [0.9, 0.95]}
    back = found.tensors()
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        same_bits = back[name].contiguous().view(torch.uint8) if tensor.dim() else back[name].view(1).view(torch.uint8)
        want = tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.view(1).view(torch.uint8)
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert torch.equal(same_bits, want)
    assert load_file(path / "model.safetensors")["w"][0] == 3


def test_the_manifest_states_size_and_sha256_of_every_file(tmp_path):
    path = save_step(tmp_path, 1)
    files = json.loads((path / "manifest.json").read_text())["files"]
    assert sorted(files) == ["config.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    out = subprocess.run(["sha256sum", *files], cwd=path, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1]: line.split()[0] for line in out.splitlines()} == {k: v["sha256"] for k, v in files.items()}


def test_only_the_newest_and_the_protected_checkpoints_stay(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save_step(tmp_path, step, keep=2, protect={2})
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000005"]


def test_an_old_checkpoint_is_removed_only_after_the_new_one_is_verified(tmp_path, monkeypatch):
    save_step(tmp_path, 1, keep=1)
    monkeypatch.setattr(checkpoint, "damage", lambda path: "model.safetensors: checksum differs")
    with pytest.raises(RunError, match="does not read back"):
        save_step(tmp_path, 2, keep=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-000001"] and latest(tmp_path).step == 1


def test_a_kill_in_the_middle_of_a_removal_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    def half(path: Path, **_) -> None:
        (path / "state.json").unlink()
        raise KeyboardInterrupt

    save_step(tmp_path, 1, keep=1)
    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises(KeyboardInterrupt):
        save_step(tmp_path, 2, keep=1)
    monkeypatch.undo()
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["step-000002"]
    save_step(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["step-000003"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save_step(tmp_path, 1)
    save(tmp_path, 1, write_model=write_model(1), tensors={}, state={"done": True}, keep=1)
    assert latest(tmp_path).state == {"done": True} and names(tmp_path) == ["step-000001"]


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path, monkeypatch):
    save_step(tmp_path, 1, keep=1)
    path = tmp_path / "checkpoints"
    path.joinpath("step-000001").rename(path / ".replaced-step-000001")
    assert latest(tmp_path).state == {"step": 1}
    save_step(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-000002"]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda p: flip_byte(p / "model.safetensors", 1500), "model.safetensors: checksum differs"),
        (lambda p: flip_byte(p / "optimizer.safetensors", 900), "optimizer.safetensors: checksum differs"),
        (lambda p: os.truncate(p / "optimizer.safetensors", 700), "optimizer.safetensors: size differs"),
        (lambda p: (p / "state.json").unlink(), "state.json: missing"),
        (lambda p: (p / "manifest.json").unlink(), "manifest.json: missing"),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json: unreadable"),
        (lambda p: (p / "manifest.json").write_text('{"step": 2, "files": []}'), "manifest.json: unreadable"),
        (lambda p: (p / "manifest.json").write_text('{"step": 2, "files": {}}'), "optimizer.safetensors: not in"),
        (lambda p: (p / "manifest.json").write_text('{"step": 1, "files": {}}'), "manifest.json: is of step 1"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_and_said(tmp_path, harm, told):
    save_step(tmp_path, 1)
    harm(save_step(tmp_path, 2))
    found = latest(tmp_path)
    assert found.step == 1 and found.tensors()["exp_avg/w"][0] == 1
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"step-000002 is damaged ({told}")
    assert found.notes[0].endswith("using step-000001")


def test_when_all_checkpoints_are_damaged_the_run_does_not_start_afresh_silently(tmp_path):
    for step in (1, 2):
        flip_byte(save_step(tmp_path, step) / "config.json", 3)
    with pytest.raises(
        DataError, match=r"every checkpoint is damaged: step-000002 .config.json.*step-000001"
    ) as caught:
        latest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_later_damaged_checkpoint_is_set_aside_and_never_counts_again(tmp_path):
    save_step(tmp_path, 1)
    flip_byte(save_step(tmp_path, 2) / "config.json", 3)
    assert [path.name for path in set_aside_after(tmp_path, latest(tmp_path).step)] == ["damaged-step-000002"]
    assert latest(tmp_path).notes == ()
    flip_byte(save_step(tmp_path, 2) / "config.json", 3)
    assert [path.name for path in set_aside_after(tmp_path, 1)] == ["damaged-step-000002-1"]


@pytest.mark.parametrize("victim", ["write_model", "save_file", "fsync", "rename"])
def test_a_full_disk_leaves_earlier_checkpoints_and_says_what_is_needed(tmp_path, monkeypatch, victim):
    save_step(tmp_path, 1)

    def full(*_, **__):
        raise NO_SPACE

    if victim == "rename":
        monkeypatch.setattr(Path, "rename", full)
    elif victim != "write_model":
        monkeypatch.setattr(checkpoint, victim, full)
    write = full if victim == "write_model" else write_model(2)
    with pytest.raises(RunError) as caught:
        save(tmp_path, 2, write_model=write, tensors={}, state={}, keep=1)
    text = str(caught.value)
    assert "step-000002: the disk is full (about " in text and " needed, " in text and " free)" in text
    assert "\n" not in text
    monkeypatch.undo()
    assert names(tmp_path) == ["step-000001"] and latest(tmp_path).step == 1


@pytest.fixture
def small_disk() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="truegain-small-disk-"))
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True)
        if mounted.returncode:
            pytest.skip("mounting a tmpfs needs root")
        yield path
        subprocess.run(["umount", path], check=True)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def test_on_a_really_full_disk_the_last_good_checkpoint_stays(small_disk):
    save_step(small_disk, 1)
    # 1 MB holds neither the optimizer's 2 MB (safetensors writes it) nor a model of 2 MB.
    with pytest.raises(RunError, match=r"disk is full \(about 2.0 MB needed, .* free\)"):
        save(small_disk, 2, write_model=write_model(2), tensors={"m": torch.zeros(500_000)}, state={})
    with pytest.raises(RunError, match="disk is full"):
        save(small_disk, 2, write_model=write_model(2, 500_000), tensors={}, state={})
    with pytest.raises(RunError, match="disk is full"):
        save(small_disk, 2, write_model=write_model(2), tensors={}, state={"text": "x" * 2_000_000})
    assert names(small_disk) == ["step-000001"] and latest(small_disk).step == 1
    assert save_step(small_disk, 2).is_dir()


def test_an_interrupt_while_saving_leaves_no_trace(tmp_path):
    def interrupt(path: Path) -> None:
        (path / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1, write_model=interrupt, tensors={}, state={})
    assert names(tmp_path) == []


def test_state_that_would_not_come_back_equal_is_refused_by_name(tmp_path):
    for state, place in (({"seen": {3: 1}}, "state.seen"), ({"when": [object()]}, r"state.when\[0\]")):
        with pytest.raises(WiringError, match=place):
            save(tmp_path, 1, write_model=write_model(1), tensors={}, state=state)
    with pytest.raises(SettingError, match="keep=0"):
        save_step(tmp_path, 1, keep=0)
    with pytest.raises(RunError, match="cannot save"):
        save_step(tmp_path / "missing", 1)
    assert latest(tmp_path) is None


# A driver that forks savers and kills them, so that torch is imported once: prints, for every kill, the last step
# that a saver called done, what `latest` found afterwards, and whether the kill hit a save under way.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from safetensors.torch import save_file
from truegain.train.checkpoint import latest, save, load_file

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(int(sys.argv[3]))

def saver(step, out):
    while True:
        step += 1
        value = torch.full((20_000,), float(step))
        save(folder, step, write_model=lambda d: save_file({"w": value}, d / "model.safetensors"),
             tensors={"m": value, "v": value + 1}, state={"step": step}, keep=draw.choice([1, 2]))
        os.write(out, step.to_bytes(8, "big"))

last = 0
for _ in range(kills):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        saver(last, write)
    os.close(write)
    os.read(read, 8) # wait for the first one, so that every kill lands in a running loop
    done = last + 1
    time.sleep(draw.uniform(0.0, 0.06))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while chunk := os.read(read, 8):
        done = int.from_bytes(chunk, "big")
    os.close(read)
    left = any(p.name.startswith((".tmp-", ".replaced-")) for p in (folder / "checkpoints").iterdir())
    found = latest(folder)
    same = all(bool((t == found.step + (k == "v")).all()) for k, t in found.tensors().items())
    model = bool((load_file(found.path / "model.safetensors")["w"] == found.step).all())
    print(json.dumps([done, found.step, found.state["step"], list(found.notes), same and model, left]))
    last = found.step
"""


def kill_savers(folder: Path, kills: int, seed: int) -> list[list]:
    run = subprocess.run(
        [sys.executable, "-c", KILLER, str(folder), str(kills), str(seed)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def check_kills(found: list[list], kills: int) -> None:
    assert len(found) == kills
    for done, step, state, notes, same, _ in found:
        assert step in (done, done + 1), "what save had returned is there; at most the one under way besides"
        assert state == step and same and notes == []
    assert any(left for *_, left in found), "no kill hit a save under way: the test shows nothing"


def test_after_a_kill_at_any_moment_the_latest_checkpoint_is_complete(tmp_path):
    check_kills(kill_savers(tmp_path, 10, seed=0), 10)
    save_step(tmp_path, 10**7, keep=1)
    assert names(tmp_path) == ["step-10000000"], "left-overs of killed saves are removed"


@pytest.mark.slow
def test_after_two_hundred_kills_the_latest_checkpoint_is_complete(tmp_path):
    check_kills(kill_savers(tmp_path, 200, seed=1), 200)


def training(seed: int, dtype: torch.dtype = torch.float32, **options):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2)).to(dtype)
    decay, rest = [model[0].weight, model[2].weight], [model[0].bias, model[2].bias]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0, "lr": 3e-3}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), **options)
    return model, optimizer, ["0.weight", "2.weight", "0.bias", "2.bias"]


def train(model, optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step)).to(model[0].weight.dtype)
        optimizer.zero_grad()
        model(x).float().pow(2).sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.99


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_adamw_takes_bit_equal_steps(tmp_path, dtype, options):
    model, optimizer, names = training(0, dtype, **options)
    train(model, optimizer, range(3))
    tensors, state = optimizer_tensors(optimizer, names)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save(
        tmp_path,
        3,
        write_model=lambda path: save_file(weights, path / "model.safetensors"),
        tensors=tensors,
        state=state,
    )
    train(model, optimizer, range(3, 6))

    again, fresh, _ = training(1, dtype, **options)
    found = latest(tmp_path)
    again.load_state_dict(load_file(found.path / "model.safetensors"))
    load_optimizer(fresh, names, found.tensors(), found.state)
    assert fresh.param_groups[0]["betas"] == (0.9, 0.95)
    back, back_state = optimizer_tensors(fresh, names)
    saved = found.tensors()
    assert back_state == found.state and all(torch.equal(back[key], saved[key]) for key in saved)
    assert len(saved) == 4 * (4 if "amsgrad" in options else 3)
    train(again, fresh, range(3, 6))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_moments_kept_in_a_wider_type_than_the_weights_are_not_cast(tmp_path):
    model, optimizer, names = training(0, torch.bfloat16)
    train(model, optimizer, range(1))
    wide = torch.full((7, 5), 1.0 + 2**-20)
    optimizer.state[model[0].weight]["exp_avg"] = wide
    tensors, state = optimizer_tensors(optimizer, names)
    _, fresh, _ = training(1, torch.bfloat16)
    load_optimizer(fresh, names, tensors, state)
    back = fresh.state[fresh.param_groups[0]["params"][0]]["exp_avg"]
    assert back.dtype == torch.float32 and torch.equal(back, wide)


def test_a_parameter_that_never_had_a_gradient_and_momentum_of_none_come_back(tmp_path):
    weight, unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight, unused], lr=torch.tensor(0.1))
    weight.grad = torch.ones(3)
    optimizer.step()
    tensors, state = optimizer_tensors(optimizer, ["w", "u"])
    fresh = torch.optim.SGD([weight, unused], lr=torch.tensor(0.5))
    load_optimizer(fresh, ["w", "u"], tensors, json.loads(json.dumps(state)))
    assert fresh.param_groups[0]["lr"] == torch.tensor(0.1)
    assert optimizer_tensors(fresh, ["w", "u"])[1] == state


def test_an_optimizer_that_does_not_fit_is_refused_and_left_alone():
    model, optimizer, names = training(0)
    train(model, optimizer, range(1))
    tensors, state = optimizer_tensors(optimizer, names)
    _, fresh, _ = training(1)
    for kind, wrong in {
        "names": {**state, "names": names[::-1]},
        "shapes": {**state, "shapes": [[1]] * 4},
        "kind": {**state, "kind": "SGD"},
        "count": {**state, "count": 5},
    }.items():
        with pytest.raises(DataError, match=kind):
            load_optimizer(fresh, names, tensors, wrong)
    strange = {**tensors, "exp_avg/ghost": torch.ones(1)}
    del strange["exp_avg/0.weight"]
    with pytest.raises(DataError, match="exp_avg/ghost"):
        load_optimizer(fresh, names, strange, state)
    with pytest.raises(SettingError, match="4 parameters"):
        optimizer_tensors(optimizer, names[:3])
    assert not fresh.state
