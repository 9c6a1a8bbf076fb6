"""LoRA adapters through peft, injected into the model: it stays a Hugging Face module of its class, its weights frozen.

Hu et al., 2021, arXiv:2106.09685: a linear map W x becomes W x + (alpha / rank) B A x, with A [rank, in] random and
B [out, rank] zero at the start; only A and B are trained. There is no dropout: the engine that draws and the learner
must compute the same distribution.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from truegain.core.errors import DataError, SettingError, nearest

CONFIG, WEIGHTS, NAME = "adapter_config.json", "adapter_model.safetensors", "default"
ALL = "all-linear"
MAX_RANK = 4096
_NAME_LIKE = re.compile(r"[\w.-]{1,200}")
# peft writes names as they are inside its own wrapper, and without the adapter's name.
_WRAPPER = "base_model.model."
# Settings that decide where an adapter sits and how it is scaled, and those that say nothing about its function.
# Dropout is among the latter: it is left out, as the engine that draws has none.
_TAKEN = ("base_model_name_or_path", "r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora")
_TAKEN += ("rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern")
_IDLE = ("task_type", "peft_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout")
_IDLE += ("megatron_core", "runtime_config", "qalora_group_size")
# Starts that leave the base's weights as they are.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def is_adapted(model: Any) -> bool:
    """True if the model carries an adapter."""
    return bool(getattr(model, "peft_config", None))


def is_adapter_weight(name: str) -> bool:
    """True for the name of an adapter's own weight in a state dict."""
    return ".lora_A." in name or ".lora_B." in name


def adapted(model: Any, base: str, *, rank: int, alpha: float, targets: str | Sequence[str], seed: int) -> Any:
    """A module that shares the weights of ``model``, frozen, and has a fresh adapter; see `Policy.with_lora`."""
    if is_adapted(model):
        raise SettingError("the policy has a LoRA adapter already: use policy.merged().with_lora(...)")
    if not 1 <= rank <= MAX_RANK or not 0 < alpha < float("inf"):
        raise SettingError(f"LoRA: rank must be from 1 to {MAX_RANK} and alpha above 0, not {rank} and {alpha}")
    wanted = _targets(model, targets)
    config = _peft().LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=wanted, base_model_name_or_path=base, task_type="CAUSAL_LM"
    )
    return _inject(shared_copy(model), config, seed)


def shared_copy(model: Any) -> Any:
    """A frozen copy of the module that shares its weights, except those of an adapter, which are copied."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False)
        for name, p in model.named_parameters()
        if not is_adapter_weight(name)
    }
    return copy.deepcopy(model, memo).eval().requires_grad_(False)


def train_adapter(model: Any) -> None:
    """Let the adapter's weights be trained, and nothing else."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter_weight(name))


def merged(model: Any) -> Any:
    """A plain module with weights W + (alpha / rank) B A, all trainable, that shares nothing with ``model``."""
    plain = copy.deepcopy(model)
    for name, layer in list(_layers(plain)):
        base = layer.base_layer
        delta = layer.lora_B[NAME].weight @ layer.lora_A[NAME].weight * layer.scaling[NAME]
        base.weight = nn.Parameter((base.weight + delta).detach().to(base.weight.dtype))
        plain.set_submodule(name, base)
    del plain.peft_config
    return plain.eval().requires_grad_(True)


def save(model: Any, folder: Path) -> None:
    """Write the adapter in peft's layout: its settings, the base model's name, and its weights alone."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = model.peft_config[NAME].to_dict()
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True, default=sorted), encoding="utf-8")
    state = {n: v.detach().cpu().contiguous() for n, v in model.state_dict().items() if is_adapter_weight(n)}
    save_file({_WRAPPER + name.replace(f".{NAME}.", "."): value for name, value in state.items()}, folder / WEIGHTS)


def base_of(folder: Path) -> str:
    """The base model that a saved adapter names. Raises DataError if the adapter is of a kind we do not run."""
    config = _config(folder)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DataError(f"{folder / CONFIG} names no base model: add base_model_name_or_path, a folder or a hub id")
    return base


def load(model: Any, folder: Path) -> Any:
    """``model`` with the adapter saved in ``folder``, trainable. Raises DataError if they do not fit."""
    config = _config(folder)
    file = folder / WEIGHTS
    if not file.is_file():
        pickle = folder / "adapter_model.bin"
        why = f"{pickle} is a pickle and is not opened, as it may run code" if pickle.exists() else f"no {file}"
        raise DataError(f"{why}: save the adapter as {WEIGHTS}")
    try:
        saved = load_file(file)
        taken = {name: config[name] for name in _TAKEN if name in config}
        model = _inject(shared_copy(model), _peft().LoraConfig(**taken, task_type="CAUSAL_LM"))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} is damaged ({_line(error)}): copy or download it again") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{folder / CONFIG} does not fit its base model: {_line(error)}") from error
    given = {_named(name): value for name, value in saved.items()}
    own = {name: value for name, value in model.state_dict().items() if is_adapter_weight(name)}
    wrong = sorted(given.keys() ^ own.keys()) or sorted(n for n, v in given.items() if v.shape != own[n].shape)
    if wrong:
        raise DataError(f"{file} does not fit its base model at {wrong[0]!r} ({len(wrong)} in all): use the right base")
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)
    return model


def load_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy a state dict that has every adapter weight. Raises RuntimeError on another model's, touching nothing."""
    own = model.state_dict()
    missing = [name for name in own if is_adapter_weight(name) and name not in weights]
    strange = [n for n, value in weights.items() if n not in own or own[n].shape != value.shape]
    if missing or strange:
        raise RuntimeError(f"the adapter differs at {(missing + strange)[0]!r}")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def _config(folder: Path) -> dict[str, Any]:
    """The adapter's settings. Only what changes nothing but W + s B A is taken."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_bytes())
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not a peft adapter's settings: {_line(error)}") from error
    if kind != "LORA":
        raise DataError(f"{file} is a {kind!r} adapter; only LORA is known: merge it into its base with peft first")
    for name, value in config.items():
        usual = value in _STARTS if name == "init_lora_weights" else value in (None, False, "none", [], {})
        if name not in _TAKEN + _IDLE and not usual:
            raise DataError(f"{file} sets {name}={str(value)[:60]!r}, not known here: merge it with peft first")
    try:
        _check_names(config, file)
    except (TypeError, AttributeError) as error:
        raise DataError(f"{file} has a list or a table of the wrong kind: {_line(error)}") from error
    return config


def _check_names(config: Mapping[str, Any], file: Path) -> None:
    """Refuse patterns in place of names, which may take for ever to match, and ranks without bound."""
    told = [config.get(key) or () for key in ("target_modules", "exclude_modules", "layers_pattern")]
    patterns = [config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")]
    names = [name for it in (*told, *patterns) for name in ((it,) if isinstance(it, str) else it)]
    for name in names:
        if not isinstance(name, str) or not _NAME_LIKE.fullmatch(name):
            raise DataError(f"{file} has a pattern, {str(name)[:60]!r}, where names are known here: list the modules")
    for rank in (config.get("r", 8), *patterns[0].values()):
        if type(rank) is not int or not 1 <= rank <= MAX_RANK:
            raise DataError(f"{file} has rank {str(rank)[:60]!r}: it must be a whole number from 1 to {MAX_RANK}")


def _inject(model: Any, config: Any, seed: int = 0) -> Any:
    peft = _peft()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = peft.inject_adapter_in_model(config, model)
    for _, layer in _layers(model):
        if type(layer.base_layer) is not nn.Linear or NAME not in layer.lora_A:
            raise ValueError(f"LoRA on {type(layer.base_layer).__name__} is not known, only on linear maps")
        # The adapter is trained in float32 whatever the base is stored in, as peft does.
        layer.lora_A.float()
        layer.lora_B.float()
    train_adapter(model)
    return model.eval()


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Every adapted map with its name."""
    return ((name, m) for name, m in model.named_modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer"))


def _targets(model: Any, targets: str | Sequence[str]) -> str | list[str]:
    """The names to adapt, checked against the linear maps that the model has."""
    try:
        head = model.get_output_embeddings()
    except (NotImplementedError, AttributeError):
        head = None
    has = {n.rpartition(".")[2] for n, m in model.named_modules() if type(m) is nn.Linear and m is not head}
    if not has:
        raise SettingError(f"LoRA needs linear maps, and {type(model).__name__} has none: set lora_rank=0")
    if targets == ALL:
        return sorted(has)
    wanted = [part.strip() for part in targets.split(",")] if isinstance(targets, str) else list(targets)
    for name in wanted:
        if name not in has:
            raise SettingError(
                f"LoRA: no linear map {name!r} in the model; it has {', '.join(sorted(has))}, or give {ALL}"
                f"{nearest(name, has)}"
            )
    return wanted


def _named(saved: str) -> str:
    """The name in our model's state dict of a weight in peft's file."""
    return saved.removeprefix(_WRAPPER).replace(".lora_A.", f".lora_A.{NAME}.").replace(".lora_B.", f".lora_B.{NAME}.")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise SettingError("LoRA needs peft: pip install 'truegain[lora]'") from error
    return peft


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
