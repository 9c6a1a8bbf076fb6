"""IGPO: the reference answer's likelihood after every step, what each step adds to it, and the returns of that."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.core.probing import step_cuts
from truegain.core.settings import loop_with
from truegain.core.types import Problem, Request, Rollout, Turn
from truegain.methods.credit import answer_likelihood, information_gain, step_returns
from truegain.methods.reward import malformed
from truegain.policy.policy import Policy
from truegain.recipes.igpo import igpo
from truegain.rollout.engines import engine_for
from truegain.tasks import make
from truegain.train.drawing import Draw
from truegain.train.folder import RunFolder
from truegain.train.models import load_models
from truegain.train.setup import Setup, State
from truegain.train.shaping import shape

CHANCES = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=7)


def rollout(tokens: int, answer: str | None = "4", turns: tuple[Turn, ...] | None = None) -> Rollout:
    turns = (Turn("policy", 0, tokens),) if turns is None else turns
    return Rollout(Problem("a", "a", answer), (), (5,) * tokens, (0.0,) * tokens, "x" * tokens, "eos", turns)


def gains(chances: list[float], outcome: float, answer: str | None = "4") -> list[float]:
    """What the probe gives a row of len(chances) one-token steps, where chances[c] is p after c tokens."""
    row, steps = rollout(len(chances), answer), len(chances)
    policy = SimpleNamespace(encode=lambda text: (9,) * len(text), decode=lambda ids: "x" * len(ids))

    def score(asked: list[Request]) -> list[tuple[float, ...]]:
        return [(0.0,) * (len(r.suffix) - 1) + (math.log(chances[r.cut or 0]),) for r in asked]

    roles = {"policy": SimpleNamespace(policy=policy, engine=SimpleNamespace(score=score))}
    loop = SimpleNamespace(rewards=lambda rows: [outcome] * len(rows))
    return information_gain(roles, loop, [row], torch.arange(steps)[None])["step_reward"][0].tolist()


def test_the_worked_example_of_the_catalog() -> None:
    # p = .1, .25, .2, .7: gains .15, -.05, .5, and the outcome 1 for the last turn. Their sums from each turn to the
    # end are 1.6, 1.45, 1.5, 1.
    found = gains([0.1, 0.25, 0.2, 0.7], 1.0)
    assert found == pytest.approx([0.15, -0.05, 0.5, 1.0], abs=1e-6)
    step = torch.arange(4)[None]
    returns = step_returns(torch.tensor([found]), step, torch.zeros(1, dtype=torch.long), step >= 0)
    assert returns[0].tolist() == pytest.approx([1.6, 1.45, 1.5, 1.0], abs=1e-6)


@given(chances=CHANCES, outcome=st.floats(-2, 1))
def test_the_gains_telescope_and_the_last_step_has_the_outcome(chances: list[float], outcome: float) -> None:
    found = gains(chances, outcome)
    assert sum(found[:-1]) == pytest.approx(chances[-1] - chances[0], abs=1e-5)
    assert found[-1] == pytest.approx(outcome)


def test_a_step_that_changes_nothing_gains_nothing() -> None:
    assert gains([0.3, 0.3, 0.3], 1.0) == [0.0, 0.0, 1.0]


def test_without_a_reference_answer_or_with_a_score_that_is_not_finite_the_outcome_stands_alone() -> None:
    assert gains([0.1, 0.5, 0.2], 1.0, answer=None) == [0.0, 0.0, 1.0]
    assert gains([0.1, float("nan"), 0.2], -2.0) == [0.0, 0.0, -2.0]


def test_normalised_over_all_turns_of_a_group_the_rewards_have_the_mean_zero_and_tools_get_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    rewards, group = torch.randn(4, 3, generator=rng), torch.tensor([0, 0, 1, 1])
    step = torch.tensor([[0, 0, 1, -1, 2]] * 4)
    credit = step_returns(rewards, step, group, step >= 0, gamma=0.0, before="group")
    one_each = credit[:, [0, 2, 4]]
    for rows in (one_each[:2], one_each[2:]):
        assert float(rows.mean()) == pytest.approx(0.0, abs=1e-6)
    assert not credit[:, 3].any()


def test_what_a_tool_answers_belongs_to_the_step_that_called_it() -> None:
    row = rollout(6, turns=(Turn("policy", 0, 2), Turn("tool", 2, 4), Turn("policy", 4, 6)))
    (cuts,) = step_cuts(torch.tensor([[0, 0, -1, -1, 1, 1]]), [row], lambda ids: "x" * len(ids), ())
    assert cuts == {0: 4, 1: 6}


def test_a_completion_without_a_well_formed_answer_gets_the_given_value_whatever_it_had() -> None:
    found = malformed(torch.tensor([1.0, 0.0, 0.7]), torch.tensor([1.0, 1.0, 0.0]), value=-2.0)
    assert found.tolist() == [1.0, 0.0, -2.0]


def test_likelihoods_are_those_of_a_forward_pass_over_the_prefix_the_cue_and_the_answer(tmp_path: Path) -> None:
    task, policy = make("sort,level=4,style=trace"), Policy.load("tiny")
    form = loop_with(igpo(), prompts=2, samples=2, max_tokens=60)
    with RunFolder(tmp_path / "run") as held:
        setup = Setup(form, policy, task, held)
        models, state = load_models(form, policy, policy.reference()), State()
        rollouts = Draw(setup, models, state, "sampled", "train").fresh(2)
        batch = shape(setup, models, state, rollouts).batch
    found = answer_likelihood(models, rollouts, batch["step"], ending="</answer>")["answer_logp"]
    whole = answer_likelihood(models, rollouts, batch["step"], per="answer", ending="</answer>")["answer_logp"]
    plain = answer_likelihood(models, rollouts, batch["step"])["answer_logp"]

    def logp(row: Rollout, written: str, ending: str) -> torch.Tensor:
        start = (*row.prompt_ids, *policy.encode(written + "</think><answer>"))
        wanted = policy.encode(f"{row.problem.answer}{ending}")
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*start, *wanted]])).logits[0].log_softmax(-1)
        return torch.stack([logits[len(start) - 1 + k, token] for k, token in enumerate(wanted)])

    for i, row in enumerate(rollouts):
        ids = batch["step"][i].tolist()
        chances = [math.exp(float(logp(row, "", "").mean()))]
        for s in range(found.shape[1]):
            if s not in ids:
                assert found[i, s].isnan() and batch["step_reward"][i, s].isnan()
                continue
            end = max(t for t, at in enumerate(ids) if at == s) + 1
            written = policy.decode(row.ids[:end]).partition("</think>")[0].partition("<answer>")[0]
            closed = logp(row, written, "</answer>")
            assert float(found[i, s]) == pytest.approx(float(closed.mean()), abs=1e-4)
            assert float(whole[i, s]) == pytest.approx(float(closed.sum()), abs=1e-3)
            assert float(plain[i, s]) == pytest.approx(float(logp(row, written, "").mean()), abs=1e-4)
            chances.append(math.exp(float(logp(row, written, "").mean())))
        wanted = [after - before for before, after in pairwise(chances[:-1])]
        reward = float(row.facts["correct"]) if row.facts["answered"] else -2.0
        assert batch["step_reward"][i, : len(wanted) + 1].tolist() == pytest.approx([*wanted, reward], abs=1e-4)
    assert not found.requires_grad and not batch["step_reward"].requires_grad


def test_the_table_policy_is_scored_too_and_rows_without_steps_have_nothing() -> None:
    policy = Policy.load("table")
    model: Any = SimpleNamespace(policy=policy, engine=engine_for(policy))
    row = Rollout(Problem("a", "a", "b"), policy.encode("a"), policy.encode("c"), (0.0,), "c", "eos", ())
    found = answer_likelihood({"policy": model}, [row, row], torch.tensor([[0], [-1]]), opening="", closing="")
    assert float(found["answer_logp"][0, 0]) == pytest.approx(-math.log(108), abs=1e-5)
    assert found["answer_logp"][1].isnan().all()


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(SettingError, match="paper or code"):
        igpo(normalise="both")  # pyright: ignore[reportArgumentType]
