from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from truegain.core.errors import DataError, SettingError


def selective_merge(
    base: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    *,
    keep: float = 0.25,
    scale: float = 0.7,
    per: Literal["tensor", "model"] = "tensor",
) -> dict[str, Tensor]:
    """Graft the largest changes of training back onto the weights before it: ``base + scale * top(trained - base)``.

    ``top`` keeps the share ``keep`` of entries that changed most, ties broken by place, and sets the others to 0: the
    largest of each tensor, or with ``per="model"`` of all of them together (the source does not say which). Never more
    than ``keep`` of the entries change. ``keep`` 1 and ``scale`` 1 give the trained weights up to rounding, ``keep`` 0
    the base. Both in [0, 1] and 0 or more. Tensors that are not of floats are taken from the base. Works on weights as
    `Policy.weights` gives them and `Policy.load_weights` takes them.

    Raises SettingError for knobs out of bounds, DataError where names, shapes or kinds of numbers differ.
    Source: Liu et al. 2025 (DLER), update-selective merging: the top 25 % at 0.7.

    >>> before, after = {"w": torch.zeros(4)}, {"w": torch.tensor([1.0, -4.0, 2.0, 0.5])}
    >>> selective_merge(before, after, keep=0.5, scale=0.5)["w"]
    tensor([ 0., -2.,  1.,  0.])
    """
    if not 0 <= keep <= 1 or scale < 0 or per not in ("tensor", "model"):
        raise SettingError(
            f"selective_merge: keep={keep} must be 0 to 1, scale={scale} 0 or more, per={per!r} tensor or model"
        )
    _check_alike(base, trained)
    names = [name for name, value in base.items() if value.is_floating_point() and value.numel()]
    changes = {name: (trained[name].double() - base[name].double()).reshape(-1) for name in names}
    if per == "tensor":
        kept = {name: _largest(change, keep) for name, change in changes.items()}
    else:
        whole = _largest(torch.cat(list(changes.values())), keep) if changes else torch.zeros(0)
        kept, at = dict[str, Tensor](), 0
        for name, change in changes.items():
            kept[name] = whole[at : at + change.numel()]
            at += change.numel()
    out = {name: value.clone() for name, value in base.items()}
    for name in names:
        moved = base[name].double() + scale * kept[name].reshape(base[name].shape)
        out[name] = moved.to(base[name].dtype)
    return out


def _largest(change: Tensor, keep: float) -> Tensor:
    """The change with all but its largest ``keep`` share of entries set to 0."""
    order = change.abs().argsort(descending=True, stable=True)
    out = torch.zeros_like(change)
    chosen = order[: int(keep * change.numel())]
    out[chosen] = change[chosen]
    return out


def _check_alike(base: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    for name in {*base, *trained}:
        if name not in base or name not in trained:
            where = "trained" if name not in trained else "base"
            raise DataError(f"selective_merge: the {where} weights have no {name!r}; give two states of one model")
        one, two = base[name], trained[name]
        if one.shape != two.shape or one.dtype != two.dtype:
            raise DataError(
                f"selective_merge: {name!r} is {one.dtype} {list(one.shape)} and {two.dtype} {list(two.shape)}; give "
                "two states of one model"
            )
