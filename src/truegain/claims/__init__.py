"""One file per published system: the toy experiment that shows its effect. `CLAIMS` holds them by name."""

from __future__ import annotations

import truegain.recipes  # noqa: F401  (registers the systems that claims name)
from truegain.claims import grpo
from truegain.claims.claim import Claim, read_records, run, write_record

CLAIMS: dict[str, Claim] = {claim.name: claim for claim in (grpo.CLAIM,)}

__all__ = ["CLAIMS", "Claim", "read_records", "run", "write_record"]
