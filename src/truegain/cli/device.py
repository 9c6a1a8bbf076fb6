"""``--device``: where a model runs."""

from __future__ import annotations

import re

from truegain.core.errors import SettingError, nearest

HELP = "cpu, cuda or cuda:N. [default: cuda if there is a GPU, else cpu]"


def device_of(asked: str | None) -> str:
    """The device to use: the one asked for, else CUDA's first GPU where torch sees one, else the CPU.

    Raises SettingError for a name that is none and for a GPU that is not there, with the reason.
    """
    if asked is not None and not re.fullmatch(r"cpu|cuda(:\d{1,3})?", asked):
        raise SettingError(f"--device {asked!r} is unknown{nearest(asked, ('cpu', 'cuda'))}; it is cpu, cuda or cuda:N")
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked is None:
        return "cuda" if found else "cpu"
    if asked == "cpu":
        return asked
    if not found:
        raise SettingError(f"--device {asked}: {_why_none()}; use --device cpu")
    number = int(asked.partition(":")[2] or 0)
    if number >= found:
        legal = "cuda:0" if found == 1 else f"cuda:0 to cuda:{found - 1}"
        raise SettingError(f"--device {asked}: torch sees {found} GPU{'s' if found > 1 else ''}; use {legal}")
    return asked


def _why_none() -> str:
    import torch

    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f"torch {torch.__version__} is built for the CPU alone, so it sees no GPU (pip install a CUDA build)"
    return f"torch {torch.__version__} is built for CUDA {torch.version.cuda} but sees no GPU (look at nvidia-smi)"
