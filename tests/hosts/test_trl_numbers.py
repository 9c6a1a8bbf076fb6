"""The same batch gives the same weights in TRL and in our loop, however TRL cuts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl_runs import (
    LETTERS,
    correct,
    furthest,
    letter_tokenizer,
    said,
    scripted,
    settings,
    trainer_of,
    weights_of,
    write_model,
)

from truegain.core import arithmetic
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.core.types import Problem, Rollout, Turn
from truegain.hosts.trl import TruegainGRPOTrainer
from truegain.methods import reward
from truegain.policy.policy import Policy
from truegain.recipes.controls import on_user_score
from truegain.train.models import load_models
from truegain.train.online import Setup, facts_of, learn
from truegain.train.shaping import before_probes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


class Spied(TruegainGRPOTrainer):
    """Keeps the first batch as TRL handed it on."""

    first: dict[str, Any] | None = None

    def _calculate_rewards(self, *given: Any) -> torch.Tensor:
        self.given = super()._calculate_rewards(*given)
        return self.given

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        out = super()._generate_and_score_completions(inputs)
        if self.first is None:
            self.first = {**out, "rewards": self.given}
        return out


def first_letters(completions: Sequence[str], steps: Sequence[Sequence[str]], **_: Any) -> list[list[float]]:
    """A step is worth the number of its first letter."""
    return [[LETTERS.index(step.replace("<end>", "a")[0]) / 10 for step in row] for row in steps]


def our_weights(model: str, form: Any, first: dict[str, Any], facts: Sequence[dict[str, Any]], lr: float) -> Any:
    """Our loop's update on the rows that TRL drew."""
    policy = Policy(AutoModelForCausalLM.from_pretrained(model).eval(), letter_tokenizer(), model)
    models = load_models(form, policy, policy.reference())
    models["policy"] = replace(models["policy"], optimiser=torch.optim.SGD(policy.model.parameters(), lr=lr))
    setup = Setup(form, policy, None, None)  # type: ignore[arg-type]
    lengths, rollouts = first["completion_mask"].sum(dim=1).tolist(), []
    for i, length in enumerate(lengths):
        prompt = first["prompt_ids"][i][first["prompt_mask"][i].bool()].tolist()
        ids = first["completion_ids"][i, :length].tolist()
        logp = first.get("sampling_per_token_logps")
        said = (0.0,) * length if logp is None else tuple(logp[i, :length].tolist())
        tool = [1] * length if "tool_mask" not in first else first["tool_mask"][i, :length].tolist()
        cuts = [0, *(t for t in range(1, length) if tool[t] != tool[t - 1]), length]
        turns = tuple(Turn("policy" if tool[a] else "tool", a, b) for a, b in pairwise(cuts))
        problem = Problem(str(i // 4), "asked")
        rollouts.append(
            Rollout(problem, tuple(prompt), tuple(ids), said, policy.decode(ids), "eos", turns, key=i, facts=facts[i])
        )
    batch, _ = arithmetic.reward_stage(form, before_probes(setup, models, rollouts), facts_of(form, 0))
    batch, kept, _ = arithmetic.select_stage(form, batch, facts_of(form, 0))
    learn(setup, models, batch, [rollouts[i] for i in kept.tolist()], 0)
    return {name: value.detach() for name, value in policy.model.state_dict().items()}


CASES = {
    "grpo": ({}, {}),
    "grpo with tools' tokens": ({}, {"rollout_func": scripted}),
    "grpo on the best and the worst": ({}, {"rollout_func": scripted}),
    "dr-grpo": ({}, {}),
    "reinforce-pp with a reference": ({}, {}),
    "empg by steps": ({}, {"rollout_func": scripted}),
    "salt by steps": ({}, {"rollout_func": scripted}),
    "pure by steps": ({"temperature": 0.5}, {"rollout_func": scripted, "columns": {"step_reward": first_letters}}),
}


@pytest.mark.parametrize("case", CASES)
def test_one_batch_moves_the_weights_in_trl_as_it_does_in_our_loop(case: str, model: str, tmp_path: Path) -> None:
    name = case.split()[0]
    knobs, more = CASES[case]
    (form,) = build(name, **knobs)
    form = replace(form, select=reward.extreme_ranks) if "best" in case else form
    form = loop_with(form, max_tokens=8, micro_tokens=10_000)
    trainer = trainer_of(model, settings(tmp_path), Spied, recipe=form, **more)
    before = weights_of(trainer)
    trainer.train()
    assert trainer.first is not None
    texts = trainer.processing_class.batch_decode(trainer.first["completion_ids"], skip_special_tokens=True)
    assert torch.allclose(trainer.given[:, 0], torch.tensor(said(texts)))
    facts: list[dict[str, Any]] = [{"score": float(value)} for value in trainer.given[:, 0]]
    if "columns" in more:
        form = replace(form, probe=())
        decode = Policy(None, trainer.processing_class, "").decode
        for i, fact in enumerate(facts):
            length = int(trainer.first["completion_mask"][i].sum())
            lines = decode(trainer.first["completion_ids"][i, :length].tolist()).splitlines(keepends=True)
            fact["step_reward"] = first_letters([], [lines])[0]
    ours = our_weights(model, on_user_score(form), trainer.first, facts, lr=0.5)
    theirs = weights_of(trainer)
    assert furthest(before, theirs) > 1e-3, "nothing was learned, so nothing was compared"
    assert furthest(ours, theirs) < 1e-5


@pytest.mark.parametrize("recipe", ["grpo", "dr-grpo", "reinforce-pp"])
def test_neither_the_micro_batch_nor_the_accumulation_changes_a_step(recipe: str, model: str, tmp_path: Path) -> None:
    found, losses = [], []
    for rows, steps in ((8, 1), (2, 4), (1, 8)):
        args = settings(
            tmp_path, per_device_train_batch_size=rows, gradient_accumulation_steps=steps, max_steps=2, seed=3
        )
        trainer = trainer_of(model, args, recipe=recipe, rollout_func=scripted)
        before = weights_of(trainer)
        trainer.train()
        found.append(weights_of(trainer))
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
        assert furthest(before, found[-1]) > 1e-3
    assert furthest(found[0], found[1]) < 1e-5
    assert furthest(found[0], found[2]) < 1e-5
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) == losses[2]


def test_a_function_named_correct_is_the_checker_and_the_others_join_it(model: str, tmp_path: Path) -> None:
    both = trainer_of(model, settings(tmp_path), reward_funcs=[correct, said])
    assert [member.__name__ for member in both.form.reward] == ["outcome", "user_score"]
    alone = trainer_of(model, settings(tmp_path), reward_funcs=correct)
    assert [member.__name__ for member in alone.form.reward] == ["outcome"]
    other = trainer_of(model, settings(tmp_path), reward_funcs=said)
    assert [member.__name__ for member in other.form.reward] == ["user_score"]
