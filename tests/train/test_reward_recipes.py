"""Recipes on reward models: they take real steps on an ensemble's folder, and refuse what is not one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from train_runs import llama

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.errors import DataError, WiringError
from truegain.core.forms import Role, Term, Train
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.methods import credit, objective, reward
from truegain.policy.heads import ScalarHead
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, check, train
from truegain.train.reward_models import draw_head, standardise


@pytest.fixture
def ensemble(tmp_path: Path) -> Path:
    for number in range(2):
        member = llama(tmp_path / "rm" / f"member-{number}", seed=number)
        head = ScalarHead(16)
        draw_head(head, number)
        head.save(member / "head.safetensors")
    return tmp_path / "rm"


@pytest.mark.parametrize("name", ["rm-ensemble-conservative", "ensemble-aggregators-herding", "orpo-chi2"])
def test_a_recipe_takes_two_real_steps_on_an_ensemble(name: str, ensemble: Path, tmp_path: Path) -> None:

    (built,) = build(name, models=str(ensemble))
    form: Any = loop_with(built, steps=2, prompts=2, samples=4, max_tokens=6, lr=1e-2, eval_every=0, save_every=0)
    policy = Policy.load(llama(tmp_path / "policy", seed=7))
    before = policy.weights()
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(form, policy, make("sort,level=2"), held), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2 and all(abs(line["reward"]) < 100 for line in steps)
    assert any(not value.equal(before[n]) for n, value in policy.weights().items())
    if name == "rm-ensemble-conservative":
        assert steps[0]["truegain/member_std"] > 0
    if name == "orpo-chi2":
        assert steps[0]["truegain/chi2"] == pytest.approx(0.0, abs=1e-3)  # the policy is its reference still


def test_without_a_reward_model_a_run_is_refused_before_it_begins(tmp_path: Path) -> None:

    (form,) = build("rm-ensemble-conservative", models=str(tmp_path / "none"))
    policy = Policy.load(llama(tmp_path / "policy"))
    with RunFolder(tmp_path / "run") as held, pytest.raises(DataError, match="no model folder"):
        next(train(Setup(form, policy, make("sort,level=2"), held), lambda: None))
    bare = Train(reward.worst_member, (Term(objective.policy_gradient, objective.token_mean, credit.leave_one_out),))
    with pytest.raises(WiringError, match=r"reward\.worst_member needs column 'model_reward'.*task 'sort'") as caught:
        check(bare, make("sort,level=2"))
    assert "\n" not in str(caught.value)


def test_standardised_rewards_have_mean_0_and_deviation_1_and_the_same_order(ensemble: Path) -> None:
    from truegain.core.types import Pair
    from truegain.policy.reward_model import RewardModels

    pairs = [Pair(str(i), f"{i}:", "ab" * (i % 3 + 1), "cd" * (i % 4 + 1)) for i in range(12)]
    models = RewardModels.load(ensemble)
    ids = [models.tokens(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    before = models.score([p for p, _ in ids], [c for _, c in ids])[:, 0]
    standardise(ensemble / "member-0", pairs)
    after = RewardModels.load(ensemble / "member-0").score([p for p, _ in ids], [c for _, c in ids])[:, 0]
    assert float(after.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(after.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(before.argsort(), after.argsort())


def test_a_frozen_role_says_what_to_fit_where_its_head_is_missing(tmp_path: Path) -> None:
    body = llama(tmp_path / "body")
    form = Train(
        reward.mean_member,
        (Term(objective.policy_gradient, objective.token_mean, credit.leave_one_out),),
        roles={"reward_model": Role(str(body), "model_reward", head=True)},
    )
    policy = Policy.load(llama(tmp_path / "policy"))
    with RunFolder(tmp_path / "run") as held, pytest.raises(DataError, match="fit its head first"):
        next(train(Setup(form, policy, make("sort,level=2"), held), lambda: None))
