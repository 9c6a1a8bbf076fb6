"""Checkpoints that are complete or absent, whenever the process dies.

One lies in ``checkpoints/step-000050/``: the model in the Hugging Face layout, ``optimizer.safetensors``,
``state.json`` and ``manifest.json`` with the size and SHA-256 of every file. It is built in a hidden folder beside its
place, forced to the disk, read back against the manifest, and moved in by one rename. Nothing is pickled or unpickled.
The caller holds the run folder (`truegain.train.folder.RunFolder`), so there is one writer.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from truegain.core.errors import DataError, RunError, SettingError, TruegainError
from truegain.train.folder import failed, fsync, is_disk_full, plain

TENSORS, STATE, MANIFEST = "optimizer.safetensors", "state.json", "manifest.json"
# A checkpoint that is saved again keeps its old self under the second name until the new one is in place.
_NAME = re.compile(r"(?:step-|\.replaced-step-)(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. ``path`` is a model folder in the Hugging Face layout; ``notes`` say what was skipped."""

    step: int
    path: Path
    state: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """The saved tensors, on the CPU. Raises `DataError` if the file was damaged after it was verified."""
        try:
            return load_file(self.path / TENSORS)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.path / TENSORS} cannot be read ({error}): use an older checkpoint") from error


def save(
    folder: Path,
    step: int,
    *,
    write_model: Callable[[Path], None],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int = 2,
    protect: Collection[int] = (),
) -> Path:
    """Write ``folder/checkpoints/step-NNNNNN`` and return it.

    ``write_model(dir)`` writes the model's files. ``state`` is what JSON can hold (floats, infinities included, come
    back bit-equal; tuples as lists). Afterwards, of the checkpoints up to this step the newest ``keep`` (>= 1) stay,
    and those of the steps in ``protect``. Raises `RunError` when the disk is full or anything else fails while saving;
    then no trace of the new checkpoint is left and the earlier ones are untouched.
    """
    if keep < 1 or step < 0:
        raise SettingError(f"save: keep={keep} must be at least 1 and step={step} at least 0")
    home = Path(folder) / "checkpoints"
    final = home / f"step-{step:06d}"
    temp = home / f".tmp-{final.name}"
    try:
        home.mkdir(exist_ok=True)
        _sweep(home, ".tmp-*")
        temp.mkdir()
        _fill(temp, step, write_model, tensors, state)
        _move_in(temp, final)
    except BaseException as error:
        so_far = _size(temp)
        shutil.rmtree(temp, ignore_errors=True)
        if isinstance(error, TruegainError) or not isinstance(error, Exception):
            raise
        raise _not_saved(final, error, so_far, tensors) from error
    _sweep(home, ".replaced-*")
    _prune(home, step, keep, protect)
    return final


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose every file has the size and checksum that its manifest states; None if none exists.

    Damaged ones are skipped, and each is told in ``notes``, for the caller to print. Raises `DataError` if there are
    checkpoints and all are damaged: starting afresh is then the user's decision. Reads only; needs no lock.
    """
    bad: list[tuple[str, str]] = []
    for step, path in _found(Path(folder) / "checkpoints"):
        why = damage(path)
        if why is None:
            notes = tuple(f"{name} is damaged ({what}); using {path.name}" for name, what in bad)
            return Checkpoint(step, path, json.loads((path / STATE).read_bytes()), notes)
        bad.append((path.name, why))
    if not bad:
        return None
    told = ", ".join(f"{name} ({what})" for name, what in bad)
    raise DataError(f"{folder}: every checkpoint is damaged: {told}: restore one, or start in another folder")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder (``"model.safetensors: checksum differs"``); None if it is whole."""
    named = _NAME.fullmatch(path.name.removeprefix(".tmp-"))
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        step = manifest["step"]
    except FileNotFoundError:
        return f"{MANIFEST}: missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{MANIFEST}: unreadable"
    if named is None or step != int(named[1]):
        return f"{MANIFEST}: is of step {step}"
    for name in (TENSORS, STATE):
        if name not in files:
            return f"{name}: not in the manifest"
    for name, (size, checksum) in files.items():
        try:
            if (path / name).stat().st_size != size:
                return f"{name}: size differs"
            if _sha256(path / name) != checksum:
                return f"{name}: checksum differs"
        except OSError as error:
            return f"{name}: {'missing' if isinstance(error, FileNotFoundError) else error.strerror}"
    return None


def set_aside_after(folder: Path, step: int, name: str = "damaged") -> list[Path]:
    """Rename checkpoints of later steps to ``NAME-step-NNNNNN``; they never count again. Returns the new names.

    A resume from ``step`` calls it: its log goes on from there, and a later checkpoint that becomes readable again (a
    disk that came back) would otherwise be taken up with a gap in the log behind it. Nothing is deleted.
    """
    moved: list[Path] = []
    for later, path in _found(Path(folder) / "checkpoints"):
        if later > step:
            names = (path.with_name(f"{name}-step-{later:06d}" + (f"-{n}" if n else "")) for n in range(10**6))
            target = next(name for name in names if not name.exists())
            path.rename(target)
            moved.append(target)
    return moved


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimiser knows, as tensors named ``slot/parameter`` (``exp_avg/lm_head.weight``) and JSON-able state.

    ``names`` are the parameters' names in the order of the optimiser's groups. Raises `SettingError` if their number
    differs. The tensors are the optimiser's own, not copies: save them before the next step.
    """
    _check_names(optimizer, names)
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, (parameter, _) in zip(names, _parameters(optimizer), strict=True):
        for slot, value in optimizer.state.get(parameter, {}).items():
            (tensors if isinstance(value, Tensor) else scalars)[f"{slot}/{name}"] = value
    groups: list[dict[str, Any]] = []
    for i, group in enumerate(optimizer.param_groups):
        options = {key: value for key, value in group.items() if key != "params"}
        tensors |= {f"#{i}/{key}": value for key, value in options.items() if isinstance(value, Tensor)}
        groups.append({key: value for key, value in options.items() if not isinstance(value, Tensor)})
    state = _identity(optimizer, names) | {"count": len(tensors), "groups": groups, "scalars": scalars}
    return tensors, plain(state, "optimizer", exact=True)


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Put back what `optimizer_tensors` gave, bit for bit, group options (learning rate, betas) included.

    Unlike ``Optimizer.load_state_dict`` it never casts to the parameter's dtype. Raises `DataError` if the optimiser's
    kind, its parameters or their shapes differ; the optimiser is then unchanged.
    """
    _check_names(optimizer, names)
    for key, value in (_identity(optimizer, names) | {"count": len(tensors)}).items():
        if state.get(key) != value:
            raise DataError(f"the checkpoint's optimizer does not fit this run (its {key}): use the same settings")
    slots = _slots(optimizer, names, {**tensors, **state["scalars"]})
    optimizer.state.clear()
    optimizer.state.update(slots)
    for i, (group, saved) in enumerate(zip(optimizer.param_groups, state["groups"], strict=True)):
        for key, value in saved.items():
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
        for key, value in tensors.items():
            if key.startswith(f"#{i}/"):
                group[key.partition("/")[2]] = value.clone()


def _slots(
    optimizer: torch.optim.Optimizer, names: list[str], values: Mapping[str, Any]
) -> dict[Tensor, dict[str, Any]]:
    """Saved values by parameter and slot, copied to where the optimiser wants them."""
    owners = {
        name: (parameter, bool(group.get("fused") or group.get("capturable")))
        for name, (parameter, group) in zip(names, _parameters(optimizer), strict=True)
    }
    slots: dict[Tensor, dict[str, Any]] = {}
    for key, value in values.items():
        slot, _, name = key.partition("/")
        if slot.startswith("#"):
            continue
        if name not in owners:
            raise DataError(f"the checkpoint's optimizer has {key!r}, which belongs to no parameter of this model")
        parameter, on_device = owners[name]
        if isinstance(value, Tensor):
            # torch keeps step counters on the CPU unless the fused or captured kernel reads them.
            value = value.to("cpu" if slot == "step" and not on_device else parameter.device, copy=True)
        slots.setdefault(parameter, {})[slot] = value
    return slots


def _identity(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Any]:
    """What must be equal for one optimiser's state to fit another."""
    return {
        "kind": type(optimizer).__name__,
        "names": list(names),
        "group sizes": [len(group["params"]) for group in optimizer.param_groups],
        "shapes": [list(parameter.shape) for parameter, _ in _parameters(optimizer)],
    }


def _parameters(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, dict[str, Any]]]:
    return [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]


def _check_names(optimizer: torch.optim.Optimizer, names: list[str]) -> None:
    count = len(_parameters(optimizer))
    if len(names) != count or len(set(names)) != count:
        raise SettingError(f"the optimizer has {count} parameters; {len(set(names))} different names were given")


def _fill(
    temp: Path,
    step: int,
    write_model: Callable[[Path], None],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Write all files of a checkpoint, force them to the disk, and read them back."""
    text = json.dumps(plain(state, "state", exact=True), indent=1)
    write_model(temp)
    save_file(_separate(tensors), temp / TENSORS)
    (temp / STATE).write_text(text, encoding="utf-8")
    files = sorted(file for file in temp.rglob("*") if file.is_file())
    entries = {
        file.relative_to(temp).as_posix(): {"size": file.stat().st_size, "sha256": _sha256(file)} for file in files
    }
    (temp / MANIFEST).write_text(json.dumps({"step": step, "files": entries}, indent=1), encoding="utf-8")
    for path in [*temp.rglob("*"), temp]:
        fsync(path)
    why = damage(temp)
    if why is not None:
        raise OSError(f"what was written does not read back ({why})")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as safetensors wants them; copies only where needed."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        where = value.untyped_storage().data_ptr()
        out[name] = value.clone() if where in seen else value
        seen.add(where)
    return out


def _move_in(temp: Path, final: Path) -> None:
    if final.exists():
        _sweep(final.parent, f".replaced-{final.name}")
        final.rename(final.with_name(f".replaced-{final.name}"))
    temp.rename(final)
    fsync(final.parent)


def _found(home: Path) -> list[tuple[int, Path]]:
    """(step, path), newest first; of one step, the checkpoint in place before the one it replaces."""
    if not home.is_dir():
        return []
    named = [(match, path) for path in home.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in named), key=lambda it: (-it[0], it[1].name.startswith(".")))


def _prune(home: Path, step: int, keep: int, protect: Collection[int]) -> None:
    past = [(at, path) for at, path in _found(home) if at <= step]
    for at, path in past[keep:]:
        if at not in protect:
            # Renamed first: a kill half way through the removal must not leave what looks like a damaged checkpoint.
            path.rename(path.with_name(f".tmp-removed-{path.name}"))
    _sweep(home, ".tmp-*")


def _sweep(home: Path, pattern: str) -> None:
    for path in home.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


def _not_saved(final: Path, error: Exception, so_far: int, tensors: Mapping[str, Tensor]) -> RunError:
    """The error to show. What is needed is known from an earlier checkpoint, else it is at least what was written."""
    others = [_size(path) for _, path in _found(final.parent)]
    least = max(so_far, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    needed = max([*others, least]) if is_disk_full(error) else None
    return failed("save", final, error, needed=needed, rest="; earlier checkpoints are untouched")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
