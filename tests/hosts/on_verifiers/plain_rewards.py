"""A reward function for tests."""

from __future__ import annotations

from typing import Any


def half(completions: list[Any], **columns: Any) -> list[float]:
    """One half for each."""
    return [0.5] * len(completions)
