"""Segments of a completion: which line, piece or block of text each token belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from truegain.core.component import Member, call, component
from truegain.core.errors import SettingError
from truegain.core.types import Rollout

Span = tuple[int, int]
# What a tokenizer writes for bytes that are not, or not yet, a character
_PART = "�"


@component("segment", cite="truegain")
def by_line(text: str, spans: Sequence[Span]) -> list[int]:
    r"""Count lines: a line ends with its newline; a blank one belongs to the line before it, if any.

    >>> by_line("ab\n\nc", [(0, 1), (1, 3), (3, 4), (4, 5)])
    [0, 0, 0, 1]
    """
    return _pieces(text, spans, "\n")


@component("segment", cite="truegain")
def by_delimiter(text: str, spans: Sequence[Span], *, delimiter: str = "\n\n") -> list[int]:
    r"""Count the pieces that ``delimiter`` ends; a blank one belongs to the one before it, if any.

    A token belongs to the piece in which it begins; a token with the span (-1, -1) is outside and gets -1.
    Raises SettingError for an empty delimiter.

    >>> by_delimiter("a; b", [(0, 1), (1, 2), (2, 4)], delimiter=";")
    [0, 0, 1]
    """
    if not delimiter:
        raise SettingError("segment by_delimiter: delimiter must not be empty")
    return _pieces(text, spans, delimiter)


@component("segment", cite="truegain")
def by_length(text: str, spans: Sequence[Span], *, tokens: int = 32) -> list[int]:
    """Count blocks of ``tokens`` tokens (1 or more), the last one shorter; tokens outside, span (-1, -1), get -1.

    >>> by_length("abc", [(0, 1), (1, 2), (2, 3)], tokens=2)
    [0, 0, 1]
    """
    if tokens < 1:
        raise SettingError(f"segment by_length: tokens must be 1 or more, not {tokens!r}")
    inside = accumulate(int(start >= 0) for start, _ in spans)
    return [(count - 1) // tokens if start >= 0 else -1 for count, (start, _) in zip(inside, spans, strict=True)]


def _pieces(text: str, spans: Sequence[Span], delimiter: str) -> list[int]:
    number, count, at, written = [0] * (len(text) + 1), 0, 0, False
    while at < len(text):
        found = text.find(delimiter, at)
        end = len(text) if found < 0 else found + len(delimiter)
        body = text[at : found if found >= 0 else end]
        if body.strip():
            count += int(written)
            written = True
        number[at:end] = [count] * (end - at)
        at = end
    number[-1] = count
    return [number[start] if start >= 0 else -1 for start, _ in spans]


def token_spans(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[Span]:
    """Character span ``[start, end)`` of each token in ``decode(ids)``. The spans cover the text in order.

    Tokens that are bytes of one character all get its span (with whatever else their last one writes). Text is decoded
    in small windows, as a token's own text may depend on the one before it; if the windows do not add up to the whole
    text, every prefix is decoded instead.
    """
    text = decode(ids)
    if not ids:
        return []
    ends = _ends_alone(ids, decode, text) or _ends_in_windows(ids, decode, text) or _ends_of_prefixes(ids, decode, text)
    spans: list[Span] = []
    start = 0
    while len(spans) < len(ids):
        # tokens without an end of their own share the next one that is known
        last = next(i for i in range(len(spans), len(ids)) if ends[i] is not None)
        end = ends[last] or 0
        spans += [(start, end)] * (last + 1 - len(spans))
        start = end
    return spans


def _ends_alone(ids: Sequence[int], decode: Callable[[Sequence[int]], str], text: str) -> list[int | None] | None:
    alone = {token: decode((token,)) for token in set(ids)}
    pieces = [alone[token] for token in ids]
    return None if _PART in text or "".join(pieces) != text else list(accumulate(map(len, pieces)))


def _ends_in_windows(ids: Sequence[int], decode: Callable[[Sequence[int]], str], text: str) -> list[int | None] | None:
    ends: list[int | None] = []
    before, known, end = 0, 0, 0  # ids[before:known] are the context of the window, ids[known:] what is not yet read
    for i in range(len(ids)):
        old, new = decode(ids[before:known]), decode(ids[before : i + 1])
        if (new.endswith(_PART) and i + 1 < len(ids)) or not new.startswith(old):
            ends.append(None)
            continue
        if text[end : end + len(new) - len(old)] != new[len(old) :]:
            return None
        end += len(new) - len(old)
        ends.append(end)
        before, known = known, i + 1
    return ends if ends[-1] == len(text) else None


def _ends_of_prefixes(ids: Sequence[int], decode: Callable[[Sequence[int]], str], text: str) -> list[int | None]:
    ends: list[int | None] = []
    for i in range(1, len(ids)):
        prefix = decode(ids[:i])
        ends.append(None if prefix.endswith(_PART) else _shared(prefix, text))
    known = [end for end in ends if end is not None]
    if known != sorted(known):
        return [None] * len(ids[1:]) + [len(text)]
    return [*ends, len(text)]


def _shared(prefix: str, text: str) -> int:
    """How many characters the two have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(prefix, text, strict=False)) if a != b), min(len(prefix), len(text)))


def own_spans(rollouts: Sequence[Rollout], decode: Callable[[Sequence[int]], str]) -> list[list[tuple[int, int]]]:
    """Character spans of every token; (-1, -1) for tools' tokens, so that a step holds only what the policy wrote."""
    return [
        [place if chosen else (-1, -1) for place, chosen in zip(token_spans(r.ids, decode), r.mask, strict=True)]
        for r in rollouts
    ]


def segmented(
    member: Member, rollouts: Sequence[Rollout], spans: Sequence[Sequence[tuple[int, int]]], mask: Tensor
) -> Tensor:
    """What a segment component makes of the rollouts: an id per token, -1 outside, as wide as ``mask`` [B,T]."""
    ids = torch.full(mask.shape, -1)
    for i, (rollout, own) in enumerate(zip(rollouts, spans, strict=True)):
        value, _ = call(member, {"text": rollout.text, "spans": own}, {})
        ids[i, : len(own)] = torch.tensor(value, dtype=torch.long)
    return ids.to(mask.device)
