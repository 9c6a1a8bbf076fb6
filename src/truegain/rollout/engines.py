"""Which engine runs a policy."""

from __future__ import annotations

from typing import Any

from truegain.core.types import Engine
from truegain.rollout.hf import TransformersEngine
from truegain.rollout.native import NativeEngine, is_native


def engine_for(policy: Any) -> Engine:
    """The native engine for the models it knows (Llama, Qwen2, Qwen3, table), the transformers engine for others."""
    return NativeEngine(policy) if is_native(policy.model) else TransformersEngine(policy)
