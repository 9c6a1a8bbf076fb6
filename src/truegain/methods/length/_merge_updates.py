from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from truegain.methods.length._selective_merge import selective_merge


def merge_updates(
    base: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    *,
    keep: float = 0.25,
    scale: float = 0.7,
    per: Literal["tensor", "model"] = "tensor",
) -> dict[str, Any]:
    """`selective_merge` as a study at the end of a recipe: ``weights`` become the model that it leaves.

    ``base`` are the weights that the recipe began with. ``changed`` is the share of all entries that differ from them
    after the merge; 0 where nothing was trained. Raises what `selective_merge` raises.

    >>> import torch
    >>> before, after = {"w": torch.zeros(4)}, {"w": torch.tensor([1.0, -4.0, 2.0, 0.5])}
    >>> merge_updates(before, after, keep=0.25)["changed"]
    0.25
    """
    merged = selective_merge(base, trained, keep=keep, scale=scale, per=per)
    entries = sum(value.numel() for value in merged.values())
    changed = sum(int((merged[name] != base[name]).sum()) for name in merged)
    return {"weights": merged, "changed": changed / max(entries, 1)}
