"""How many equally good outputs survive training against a reward with a shared bias, corrected and as it is."""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.claim import Claim
from truegain.methods.reward import Correction
from truegain.recipes.d2_align import d2_align

ARMS: Mapping[str, tuple[Correction, bool]] = {
    "corrected": ("learned", True),
    "plain": ("none", True),
    "reversed": ("reversed", True),
    "random": ("random", True),
    "corrected, not renormalised": ("learned", False),
}
GOLD = 0.95
"""The share of the best gold that a policy must reach, or what it kept counts as nothing."""


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    for name, (correction, renormalise) in ARMS.items():
        record = d2_align(correction=correction, renormalise=renormalise, seed=seed).function()
        arms[name] = record["kept"] if record["gold"] >= GOLD else 0.0
        arms |= {f"{name}: {key}": record[key] for key in ("kept", "gold", "lean", "distance")}
    return arms


CLAIM = Claim(
    name="d2-align",
    system="d2-align",
    states="Of 50 outputs per prompt, 15 of them equally good, a policy trained against an embedding reward with a "
    "bias common to all prompts keeps more than 7 more (by exp of the entropy, at 95 % of the best gold or counted as "
    "none) with the learned correction than without it, given its steps as further updates: as 10 against 3.",
    unit="outputs",
    one_seed=_one_seed,
    effect=lambda arms: arms["corrected"] - arms["plain"],
    threshold=7.0,
    seeds=10,
)
