"""What components score with an engine of their own accord is in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import truegain.rollout.native as native
from truegain.core.settings import loop_with
from truegain.core.types import Request
from truegain.policy.policy import Policy
from truegain.recipes.grpo import grpo
from truegain.recipes.igpo import igpo
from truegain.tasks import make
from truegain.train.drawing import Draw
from truegain.train.folder import RunFolder
from truegain.train.ledger import Ledger, ModelCost
from truegain.train.metering import metered, scoring_cost
from truegain.train.models import load_models
from truegain.train.setup import Setup, State
from truegain.train.shaping import shape


def test_a_trunk_is_paid_once_up_to_its_furthest_cut_and_every_suffix_where_it_stands() -> None:
    # Trunk of 5: cuts at 2 and 4, suffixes of 3 and 1; another trunk of 2 whole with a suffix of 1.
    asked = [Request((1, 2, 3, 4, 5), cut=2, suffix=(7, 8, 9)), Request((1, 2, 3, 4, 5), cut=4, suffix=(7,))]
    asked.append(Request((6, 6), suffix=(7,)))
    # tokens: suffixes 3 + 1 + 1, trunks 4 + 2. Attended: 3+4+5, 5, 3; trunks 1+2+3+4 and 1+2: 12 + 5 + 3 + 10 + 3.
    found = scoring_cost(ModelCost(params=10, layers=1, width=2), asked)
    assert found == Ledger(scored=11, flops=2 * 10 * 11 + 4 * 1 * 2 * 33)
    assert scoring_cost(ModelCost(10), []) == Ledger()


def shaped(folder: Path, form: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Ledger, list[Request]]:
    """What shaping a few rollouts cost, and what the engine was asked to score meanwhile."""
    asked: list[Request] = []
    real = native.NativeEngine.score

    def score(self: Any, requests: Any) -> Any:
        asked.extend(requests)
        return real(self, requests)

    monkeypatch.setattr(native.NativeEngine, "score", score)
    policy = Policy.load("table")
    form = loop_with(form, prompts=2, samples=2, max_tokens=24)
    with RunFolder(folder) as held:
        setup = Setup(form, policy, make("sort,level=3,style=trace"), held)
        models, state = load_models(form, policy, policy.reference()), State()
        rollouts = Draw(setup, models, state, "sampled", "train").fresh(2)
        return shape(setup, models, state, rollouts).spent, asked


def test_the_likelihoods_that_a_probe_asks_for_are_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent, asked = shaped(tmp_path / "igpo", igpo(), monkeypatch)
    trunks = {r.trunk: max(s.cut or 0 for s in asked if s.trunk == r.trunk) for r in asked}
    assert len(asked) >= 4
    assert spent.scored == sum(len(r.suffix) for r in asked) + sum(trunks.values())
    assert spent.flops > 0 and (spent.sampled, spent.probed) == (0, 0)
    assert shaped(tmp_path / "grpo", grpo(), monkeypatch) == (Ledger(), [])


def test_what_components_are_handed_is_the_model_itself_with_another_engine() -> None:
    policy = Policy.load("table")
    models = load_models(grpo(), policy, policy.reference())
    spent: list[Ledger] = []
    (handed,) = metered(models, spent.append).values()
    assert handed.policy is policy and handed.optimiser is models["policy"].optimiser
    request = Request(policy.encode("ab"), suffix=policy.encode("cd"))
    assert handed.engine.score([request]) == models["policy"].engine.score([request])
    assert [one.scored for one in spent] == [4]
