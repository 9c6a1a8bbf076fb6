"""Random draws as pure functions: no generator, no state to save, no dependence on what else is drawn.

A key names a row (seed, stage, step, problem, copy, sample); a position counts the draws made for that row. The same
key and position give the same number on every device and in every batch.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

# splitmix64: the golden-ratio increment and the two multipliers of its finaliser, as signed 64-bit integers
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_TINY = 2.0**-25


def draw_key(seed: int, stage: str, step: int, problem: str, copy: int, sample: int) -> int:
    """A 63-bit key of a row's draws, from all that names the row. Any two different rows get unrelated keys.

    >>> draw_key(0, "train", 3, "sort/17", 0, 5) == draw_key(0, "train", 3, "sort/17", 0, 5)
    True
    >>> draw_key(0, "train", 3, "sort/17", 0, 5) == draw_key(0, "train", 3, "sort/17", 0, 6)
    False
    """
    return _hashed(("row", seed, stage, step, problem, copy, sample))


def child_key(key: int, index: int) -> int:
    """A key derived from another one: the draws of turn ``index`` of a row, or of its ``index``-th retry.

    >>> child_key(7, 0) != child_key(7, 1)
    True
    """
    return _hashed(("child", key, index))


def _hashed(fields: tuple[int | str, ...]) -> int:
    # repr keeps the fields apart: strings are quoted and escaped, so no two tuples share a spelling
    digest = blake2b(repr(fields).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniforms(keys: Tensor, position: int | Tensor) -> Tensor:
    """Numbers in the open interval (0, 1): float32, one per key and position, 24 random bits each.

    ``keys`` and ``position`` are int64 and broadcast against each other: keys [B] with an int or [B] give [B], keys
    [B, 1] with positions [T] give [B, T]. With mix the finaliser of splitmix64 (Steele, Lea and Flood, 2014),

        u = (mix(mix(key + gamma) + gamma * (position + 1)) >> 40) / 2^24,

    in wrapping 64-bit integers; 0 is moved to 2^-25.
    """
    state = _mix(keys + _GAMMA)
    offset = (position + 1) * _GAMMA if isinstance(position, Tensor) else _wrapped((position + 1) * _GAMMA)
    bits = (_mix(state + offset) >> 40) & 0xFFFFFF
    return bits.to(torch.float32).mul_(2.0**-24).clamp_(min=_TINY)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _MIX_1
    z = (z ^ _shifted(z, 27)) * _MIX_2
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    # a logical shift: torch shifts int64 arithmetically, so the copies of the sign bit are cut off
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63
