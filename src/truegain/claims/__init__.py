"""One file per published system: the toy experiment that shows its effect. `CLAIMS` holds them by name.

A module of this package that has a ``CLAIM`` is found by itself.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

import truegain.recipes  # noqa: F401  (registers the systems that claims name)
from truegain.claims.claim import Claim, read_records, run, write_record
from truegain.claims.sweep import Sweep

_MODULES = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in _MODULES if hasattr(module, "CLAIM")}

__all__ = ["CLAIMS", "Claim", "Sweep", "read_records", "run", "write_record"]
