"""Stop strings, noticed as soon as the text drawn so far holds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Decode = Callable[[Sequence[int]], str]
# A token whose text ends inside a character decodes to this mark
_PART = "�"
_SLACK = 8


class StopWatch:
    """Knows which tokens can complete a stop string, so that text is decoded for those alone.

    A token completes one only if its own text holds the last character of one (or is a piece of a character). What a
    token can do is found out when it is first drawn, and remembered.
    """

    def __init__(self, stops: tuple[str, ...], decode: Decode, vocabulary: int) -> None:  # noqa: D107
        self.stops, self.decode = stops, decode
        self._last = {stop[-1] for stop in stops}
        # Every token has a byte or more, but for a few empty ones: the slack is for those and for a cut character
        self._reach = max((len(stop.encode()) for stop in stops), default=0) + _SLACK
        self._maybe = torch.ones(vocabulary, dtype=torch.bool)
        self._known: dict[int, bool] = {}

    def ended(self, tokens: Tensor, drawn: Callable[[int, int], Sequence[int]]) -> list[int]:
        """Rows of tokens [B] whose text now holds a stop string. ``drawn(row, n)`` gives a row's last n tokens."""
        tokens = tokens.cpu()
        rows = self._maybe[tokens].nonzero()[:, 0].tolist()
        return [row for row in rows if self._can_end(int(tokens[row])) and self._holds(drawn(row, self._reach))]

    def _can_end(self, token: int) -> bool:
        if token not in self._known:
            # Twice, as some tokenizers swallow a space at the very start of a text
            text = self.decode((token, token))
            self._known[token] = _PART in text or not self._last.isdisjoint(text)
            self._maybe[token] = self._known[token]
        return self._known[token]

    def _holds(self, ids: Sequence[int]) -> bool:
        text = self.decode(ids)
        return any(stop in text for stop in self.stops)
