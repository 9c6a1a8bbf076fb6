"""`Batch`: the project's dictionary of columns, checked against `truegain.core.columns`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from truegain.core.columns import COLUMNS, column
from truegain.core.errors import WiringError


class Batch(Mapping[str, Tensor]):
    """Immutable columns of B rows. A stage adds columns and never edits one.

    >>> import torch
    >>> batch = Batch(reward=torch.tensor([1.0, 0.0]), group=torch.tensor([0, 0]))
    >>> batch.rows, sorted(batch)
    (2, ['group', 'reward'])
    >>> batch.add(reward=torch.zeros(2))
    Traceback (most recent call last):
    ...
    truegain.core.errors.WiringError: column 'reward' exists already; a stage adds columns and never edits one
    """

    def __init__(self, **columns: Tensor) -> None:
        """Raise WiringError for an unknown column, a wrong shape, or columns that disagree on B or T."""
        sizes: dict[str, int] = {}
        for name, value in columns.items():
            letters = column(name).shape.split(",")
            if value.dim() != len(letters):
                raise WiringError(f"column {name!r} has shape {tuple(value.shape)}; it must be [{','.join(letters)}]")
            if _kind(value) != column(name).kind:
                raise WiringError(f"column {name!r} has dtype {value.dtype}; it must be {column(name).kind}")
            for letter, size in zip(letters, value.shape, strict=True):
                if letter in "BT" and sizes.setdefault(letter, size) != size:
                    raise WiringError(f"column {name!r} has {letter}={size}; the other columns have {sizes[letter]}")
        self._columns = MappingProxyType(dict(columns))
        self.rows = sizes.get("B", 0)

    def __getitem__(self, name: str) -> Tensor:
        """Return a column. Raises WiringError that names the column and who provides it."""
        if name not in self._columns:
            raise WiringError(f"column {name!r} is missing; it comes from {column(name).provider}")
        return self._columns[name]

    def __contains__(self, name: object) -> bool:
        """Say whether a column is there; `Mapping`'s own way would raise for a missing one."""
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Count the columns."""
        return len(self._columns)

    def add(self, **columns: Tensor) -> Batch:
        """Return a batch with further columns. Raises WiringError when one exists already."""
        for name in columns:
            if name in self._columns:
                raise WiringError(f"column {name!r} exists already; a stage adds columns and never edits one")
        return Batch(**self._columns, **columns)

    def take(self, index: Tensor) -> Batch:
        """Return the rows that a bool mask or an index tensor chooses, in its order."""
        return Batch(**{name: value[index] for name, value in self._columns.items()})

    def narrow(self, tokens: int) -> Batch:
        """Return the first ``tokens`` token columns: drops padding that no chosen row uses."""
        cut = {n: v[:, :tokens] if COLUMNS[n].shape.startswith("B,T") else v for n, v in self._columns.items()}
        return Batch(**cut)


def _kind(value: Tensor) -> str:
    return "bool" if value.dtype == torch.bool else "float" if value.is_floating_point() else "int"
