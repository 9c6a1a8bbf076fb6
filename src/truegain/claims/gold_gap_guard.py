"""The guard on a reward that can be exploited: the checkpoint it leaves is worth more than the proxy's best one.

The world, its one reward model and the optimiser are those of ``truegain lab overopt`` (one proxy, no penalty); its
setting was not chosen for this claim. Both arms are one run up to the guard's alarm, or to its end: they choose among
the same checkpoints after as many texts scored, 256 per look, by gold or by the proxy. The third figure is the proxy's
choice from the whole run of 100 steps, which costs more. Gold of what was chosen is judged on other texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from truegain.claims.claim import Claim
from truegain.lab.guarded import guarded
from truegain.lab.overopt import Setting
from truegain.lab.proxies import fit_proxies, load_proxies
from truegain.methods import reward
from truegain.recipes.rm_ensemble_conservative import on_members
from truegain.tasks.rubric import Rubric

TEXTS, LEVEL = 256, 0.05


def _one_seed(seed: int) -> Mapping[str, float]:
    lab = Setting()
    world = Rubric(seed, lab.letters, lab.tokens, lab.flip)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        fit = fit_proxies(world, place, members=1, pairs=lab.pairs, epochs=lab.epochs, vary=lab.vary, stop=lambda: None)
        for _ in fit:
            pass
        proxies = load_proxies(world, place)
    found = guarded(
        proxies, on_members(reward.mean_member, 0.0, "lab"), steps=lab.steps, samples=lab.samples, lr=lab.lr,
        look_every=lab.look_every, texts=TEXTS, level=LEVEL,
    )  # fmt: skip
    return {
        "guard's checkpoint": found.guard_gold,
        "proxy's best": found.proxy_gold,
        "proxy's best of the whole run": found.whole_gold,
        "step of the guard's checkpoint": float(found.guard),
        "step of the proxy's best": float(found.proxy),
        "step of the alarm": float(found.looks[-1].step) if found.looks[-1].alarm else -1.0,
    }


CLAIM = Claim(
    name="gold-gap-guard",
    system="gold-gap-guard",
    states="RL against one learned reward whose truth falls: the checkpoint that the guard (level 0.05, 256 gold "
    "scores per look) leaves at its alarm is worth more gold, on texts that it never saw, than the checkpoint with the "
    "most proxy of the same run, by more than a tenth of a deviation of the base policy's texts.",
    unit="gold, in deviations of the base policy's texts",
    one_seed=_one_seed,
    effect=lambda arms: arms["guard's checkpoint"] - arms["proxy's best"],
    threshold=0.1,
    seeds=10,
)
