"""REINFORCE++ against GRPO where every prompt is sampled once, on a contextual bandit with the table policy."""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.arms import trained_accuracy
from truegain.claims.claim import Claim
from truegain.core.settings import loop_with
from truegain.recipes.grpo import grpo
from truegain.recipes.reinforce_pp import reinforce_pp


def _one_seed(seed: int) -> Mapping[str, float]:
    forms = {"reinforce-pp": reinforce_pp(), "grpo": grpo()}
    same = {"steps": 150, "prompts": 128, "samples": 1, "lr": 0.1, "eval_every": 0, "save_every": 0}
    return {
        name: trained_accuracy(loop_with(form, **same), model="table", task="bandit,level=10", seed=seed)
        for name, form in forms.items()
    }


CLAIM = Claim(
    name="reinforce-pp",
    system="reinforce-pp",
    states="With one sample per prompt on a bandit with 10 % right arms, where a group has no mean to stand against, "
    "REINFORCE++'s sampled accuracy on unseen prompts exceeds GRPO's after equal steps by more than 20 points.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["reinforce-pp"] - arms["grpo"],
    threshold=0.2,
)
