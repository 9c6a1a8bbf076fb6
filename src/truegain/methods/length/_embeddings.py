"""Sentence embeddings by name, for components that compare texts. A name is what a knob can hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from truegain.core.errors import SettingError, nearest

Embed = Callable[[Sequence[str]], Tensor]
WIDTH = 512
_WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")


def words(texts: Sequence[str]) -> Tensor:
    """Bags of words, hashed into [N, 512] and normalised: texts of the same words are equal, of no shared one at right
    angles but for a rare collision. Digits and signs are words of their own. A text without words is all zeros."""
    out = torch.zeros(len(texts), WIDTH, dtype=torch.float64)
    for n, text in enumerate(texts):
        for word in _WORD.findall(text.lower()):
            out[n, int.from_bytes(blake2b(word.encode(), digest_size=4).digest(), "little") % WIDTH] += 1
    return torch.nn.functional.normalize(out, dim=1)


EMBEDDINGS: dict[str, Embed] = {"words": words}
"""By name; add one with `register_embedding`, a sentence-transformer for one."""


def register_embedding(name: str, embed: Embed) -> None:
    """Make ``embed(texts) -> [N, D]`` known as ``name``. Raises SettingError for a name that is taken."""
    if EMBEDDINGS.get(name, embed) is not embed:
        raise SettingError(f"embedding {name!r} is known already; give it another name")
    EMBEDDINGS[name] = embed


def embedding(name: str) -> Embed:
    """Look an embedding up. Raises SettingError for an unknown one."""
    if name not in EMBEDDINGS:
        known = ", ".join(EMBEDDINGS)
        raise SettingError(f"no embedding {name!r}{nearest(name, set(EMBEDDINGS))}; there are {known}")
    return EMBEDDINGS[name]
