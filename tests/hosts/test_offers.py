"""What a host is said to have decides what runs in it, and what stands in the sentence of a refusal."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from truegain.core.component import spec_of
from truegain.core.errors import WiringError
from truegain.core.forms import Role
from truegain.core.system import build
from truegain.hosts.offers import OFFERS, check, conditions, form_of, needs, refusal, refusals
from truegain.methods import credit, objective, reward
from truegain.recipes import grpo, pure

TRL = OFFERS["trl"]


def test_a_judge_of_steps_is_replaced_by_a_function_and_a_probe_of_the_policy_is_not() -> None:
    assert refusal(spec_of(reward.judged_steps), TRL) is None
    assert conditions(spec_of(reward.judged_steps), TRL) == ("columns={'step_reward': function}",)
    found = refusal(spec_of(credit.prover_progress), TRL)
    assert found is not None
    assert "is a probe, which trl 1.16.0 cannot run: what it fills comes from more samples" in found.sentence


def test_a_component_can_be_refused_by_name_where_its_kind_runs() -> None:
    assert refusal(spec_of(objective.minibatches), TRL) is None
    assert "steps_per_generation" in conditions(spec_of(objective.minibatches), TRL)[0]
    found = refusal(spec_of(objective.turns_in_order), TRL)
    assert found is not None
    assert found.sentence.endswith("TRL cuts its steps by rows, not by turns")


def test_a_frozen_reference_has_a_place_and_a_critic_has_none() -> None:
    assert refusals(grpo(beta=0.1), TRL) == []
    critic = replace(grpo(), roles={"critic": Role("init", "value", head=True, lr=1e-3)})
    with pytest.raises(WiringError, match=r"'critic' fills column 'value', which trl 1\.16\.0 cannot have a model for"):
        check(critic, TRL)


def test_a_column_that_the_user_fills_replaces_the_model_that_would() -> None:
    form = pure(model="somewhere")
    assert [
        one.component
        for one in refusals(form, replace(TRL, columns={k: "" for k in TRL.columns if k != "step_reward"}))
    ]
    assert refusals(form, TRL, frozenset({"step_reward"})) == []


def test_needs_are_those_of_the_parts_and_what_the_form_fills_is_not_among_them() -> None:
    assert needs(grpo(), TRL) == ()
    assert needs(pure(), TRL) == ("columns={'step_reward': function}",)
    (arlcp,) = build("arlcp")
    assert needs(arlcp, TRL) == ("a reward function named correct",)


def test_a_recipe_of_several_forms_says_which() -> None:
    with pytest.raises(WiringError, match=r"'int' is 3 forms in order \(Decode, Fit, Train\), and trl runs one Train"):
        form_of("int", "trl")
    form = replace(grpo(), plan=partial(objective.minibatches, count=2))
    assert form_of(form, "trl") is form
