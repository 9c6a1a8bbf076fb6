"""Checks that several files of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from truegain.core.component import REGISTRY


@contextmanager
def refused(error: type[Exception], *words: str) -> Iterator[None]:
    """The block raises ``error`` in one line that holds every one of ``words``: the thing, the place, the mend."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


@contextmanager
def own_registry() -> Iterator[None]:
    """Components registered inside the block are forgotten after it."""
    before = dict(REGISTRY)
    try:
        yield
    finally:
        REGISTRY.clear()
        REGISTRY.update(before)
