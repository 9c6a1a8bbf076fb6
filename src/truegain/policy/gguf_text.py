"""The tokenizer inside a GGUF file, rebuilt: byte-pair merges over bytes, as GPT-2 introduced them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_UNKNOWN, _CONTROL, _USER = 2, 3, 4
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(digits: str) -> Any:
    """Cut text into words, runs of ``digits`` and the rest, and spell the pieces in bytes."""
    pieces = pre_tokenizers.Split(Regex(_WORDS + digits + _REST), behavior="isolated")
    return pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _plain() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


# How a vocabulary cuts text before merging is only named in the file. A wrong cut gives other tokens without any error.
CUTS = {
    "gpt-2": _plain,
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _plain()]),
    "llama-bpe": lambda: _split(r"\p{N}{1,3}"),
    "qwen2": lambda: _split(r"\p{N}"),
}


def tokenizer_of(meta: Mapping[str, Any], length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file's metadata, with its chat template and marks; ``length`` is its model's.

    Raises ValueError for a kind of tokenizer or of cutting that is not in `CUTS`, and for a damaged vocabulary.
    """
    model, cut = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or cut not in CUTS:
        known = ", ".join(sorted(CUTS))
        raise ValueError(f"its tokenizer is {str(model)[:40]!r} with {str(cut)[:40]!r}; known is 'gpt2' with {known}")
    tokens = _texts(meta, "tokens")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ValueError("its vocabulary names a token twice")
    merges = [tuple(merge.split(" ")) for merge in _texts(meta, "merges")]
    try:
        # Llama 3 has whole words and tokens of three digits to which no path of merges leads.
        bpe: Any = models.BPE(vocabulary, merges, ignore_merges=cut == "llama-bpe")  # pyright: ignore
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"its merges do not fit its vocabulary: {error}") from error
    backend = Tokenizer(bpe)
    if cut == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer, backend.decoder = CUTS[cut](), decoders.ByteLevel()
    kinds = meta.get("tokenizer.ggml.token_type", [])
    marks = [(t, kind) for t, kind in zip(tokens, kinds, strict=False) if kind in (_UNKNOWN, _CONTROL, _USER)]
    backend.add_tokens([AddedToken(t, special=kind != _USER, normalized=False) for t, kind in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{name}_token": _mark(meta, tokens, key) for name, key in _MARKS.items()},
        chat_template=meta.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        model_max_length=length,
    )


_MARKS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _texts(meta: Mapping[str, Any], key: str) -> list[str]:
    found = meta.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not all(isinstance(it, str) for it in found):
        raise ValueError(f"it has no list tokenizer.ggml.{key}")
    return found


def _mark(meta: Mapping[str, Any], tokens: list[str], key: str) -> str | None:
    place = meta.get(f"tokenizer.ggml.{key}_token_id")
    if place is None:
        return None
    if type(place) is not int or not 0 <= place < len(tokens):
        raise ValueError(f"tokenizer.ggml.{key}_token_id is {str(place)[:40]!r}, no token")
    return tokens[place]
