"""One file per published system: the toy experiment that shows its effect. `CLAIMS` holds them by name."""

from __future__ import annotations

import truegain.recipes  # noqa: F401  (registers the systems that claims name)
from truegain.claims import (
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    ppo,
    reinforce,
    reinforce_pp,
    reinforce_pp_baseline,
    remax,
    rloo,
    sapo,
)
from truegain.claims.claim import Claim, read_records, run, write_record

_ROOM = (
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    ppo,
    reinforce,
    reinforce_pp,
    reinforce_pp_baseline,
    remax,
    rloo,
    sapo,
)
CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in _ROOM}

__all__ = ["CLAIMS", "Claim", "read_records", "run", "write_record"]
