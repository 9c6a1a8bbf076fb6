"""What verl hands to an estimator, as columns. Needs no verl."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.component import REGISTRY
from truegain.core.errors import WiringError
from truegain.core.forms import Term, Train
from truegain.hosts.verl_columns import (
    NOT_DENSE,
    Density,
    check_fed,
    estimator_columns,
    groups_of,
    loss_columns,
    steps_of_rewards,
    sums_of,
    turn_sums,
    turns_of,
)
from truegain.hosts.verl_config import Config, entries


def test_groups_are_numbered_by_the_first_appearance_of_a_uid() -> None:
    assert groups_of(["u7", "u1", "u7", "u0"]).tolist() == [0, 1, 0, 2]


def test_turns_are_the_runs_of_ones_and_zeros_up_to_the_last_policy_token() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    # Row 1: policy, policy, tool, tool, policy; the last 0 may be padding. Row 3 opens with a tool. Row 4 has no turn.
    assert turns_of(mask).tolist() == [
        [0, 0, 1, 1, 2, -1],
        [0, 1, 2, 3, 4, 4],
        [0, 1, 1, -1, -1, -1],
        [-1, -1, -1, -1, -1, -1],
    ]
    assert turns_of(mask[:, :0]).shape == (4, 0)


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_turns_rise_by_one_and_never_mix_authors(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    for turns, chosen in zip(turns_of(mask).tolist(), rows, strict=True):
        inside = [turn for turn in turns if turn >= 0]
        assert inside == turns[: len(inside)]
        assert all(b - a in (0, 1) for a, b in itertools.pairwise(inside))
        authors: dict[int, set[bool]] = {}
        for turn, own in zip(inside, chosen, strict=False):
            authors.setdefault(turn, set()).add(own)
        assert all(len(found) == 1 for found in authors.values())
        assert chosen[len(inside) :] == [False] * (len(chosen) - len(inside))


def test_a_reward_on_a_tools_token_belongs_to_the_policys_turn_before_it() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0]]).bool()
    rewards = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.0, 1.0, 2.0], [0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    # Row 1: turn 0 has 0.25 of its own and 0.5 of the tool's answer; turn 2 has 1, and 2 from behind its last token.
    found = turn_sums(rewards, turns_of(mask), mask)
    assert found[0].tolist() == [0.75, 0.0, 3.0]
    assert found[1, 0] == 4.0
    assert found[1, 1:].isnan().all()
    assert found.nansum() == rewards.sum()


def test_a_step_ends_with_the_token_that_carries_a_reward() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]]).bool()
    rewards = torch.tensor([[0.0, -0.5, 0.0, 1.0, 0.0, 0.0]])
    step = steps_of_rewards(rewards, mask)
    assert step.tolist() == [[0, 0, 1, 1, 2, -1]]
    assert sums_of(rewards, step).tolist() == [[-0.5, 1.0, 0.0]]


def outcome_batch(*scores: float) -> tuple[torch.Tensor, torch.Tensor]:
    rewards = torch.zeros(len(scores), 3)
    rewards[:, -1] = torch.tensor(scores)
    return rewards, torch.ones(len(scores), 3, dtype=torch.long)


def test_the_reward_is_the_row_sum_and_correct_only_where_all_are_0_or_1() -> None:
    columns, why = estimator_columns(*outcome_batch(1.0, 0.0), ["a", "a"])
    assert columns["score"].tolist() == columns["correct"].tolist() == [1.0, 0.0]
    assert "step_reward" not in columns
    assert why["step_reward"] == NOT_DENSE
    graded, why = estimator_columns(*outcome_batch(0.5, 1.0), ["a", "a"])
    assert "correct" not in graded
    assert why["correct"].endswith("a row of this batch has 0.5")


def test_a_batch_whose_rewards_are_all_0_counts_as_dense_with_one_step_a_row() -> None:
    columns, why = estimator_columns(*outcome_batch(0.0, 0.0), ["a", "b"])
    assert columns["step_reward"].tolist() == [[0.0], [0.0]]
    assert not why


ACTING = torch.tensor([[1, 1, 0, 1]] * 2)
REWARDED = torch.tensor([[0.0, 0.5, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
UNREWARDED = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
"""The same run a step later: every reward on the way happens to be 0."""


def test_turns_have_rewards_also_where_all_on_the_way_are_0() -> None:
    columns, _ = estimator_columns(UNREWARDED, ACTING, ["u", "u"])
    assert columns["turn_reward"].tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_steps_once_seen_or_stated_are_there_in_each_batch() -> None:
    columns, why = estimator_columns(UNREWARDED, ACTING, ["u", "u"])
    assert "step_reward" not in columns
    assert "write `dense_rewards = true` into the file of TRUEGAIN_VERL_CONFIG" in why["step"] == why["step_reward"]
    seen = Density()
    estimator_columns(REWARDED, ACTING, ["u", "u"], density=seen)
    for density in (seen, Density(stated=True)):
        columns, why = estimator_columns(UNREWARDED, ACTING, ["u", "u"], density=density)
        assert columns["step_reward"].tolist() == [[1.0], [0.0]]
        assert not why


def test_a_batch_of_zeros_says_nothing_of_the_next_one() -> None:
    density = Density()
    assert density.of(torch.zeros(2, 4), ACTING.bool())
    assert not density.of(UNREWARDED, ACTING.bool())


def test_no_estimator_runs_on_dense_rewards_and_dies_where_they_happen_to_be_0() -> None:
    ran = 0
    found = [one for one in entries(Config()) if one.kind == "credit" and one.form is not None and not one.refused]
    for one in found:
        density = Density()
        for rewards in (REWARDED, UNREWARDED):
            columns, why = estimator_columns(rewards, ACTING, ["u", "u"], density=density)
            try:
                check_fed(one.form, columns, why, {"max_tokens": 4}, "this verl")  # type: ignore[arg-type]
            except WiringError as error:
                assert rewards is REWARDED, f"{one.name}: {error}"
                break
            ran += 1
    assert ran > len(found)


def test_a_verl_that_hands_over_its_batch_gives_log_probs_values_and_numbers_of_rows() -> None:
    rewards, mask = outcome_batch(1.0, 0.0)
    batch = {"old_log_probs": torch.full((2, 3), -1.0), "responses": mask * 7, "prompts": torch.ones(2, 9)}
    columns, _ = estimator_columns(rewards, mask, ["a", "a"], batch, {"tool_calls": [2, 0], "acc": [1, 0]})
    assert columns["old_logp"].tolist() == [[-1.0] * 3] * 2
    assert columns["tokens"].tolist() == [[7] * 3] * 2
    assert columns["tool_calls"].tolist() == [2.0, 0.0]
    assert set(columns) >= {"mask", "group", "score", "turn"}


def form_of(*credit: str) -> Train:
    term = Term(
        credit=tuple(REGISTRY[name].function for name in credit),
        surrogate=REGISTRY["objective.policy_gradient"].function,
        weight=REGISTRY["objective.token_mean"].function,
    )
    return Train(reward=REGISTRY["reward.user_score"].function, terms=(term,))


def test_a_batch_that_cannot_feed_a_component_is_refused_with_column_component_and_reason() -> None:
    assert list(entries(Config()))
    columns, why = estimator_columns(*outcome_batch(1.0, 0.0), ["a", "a"])
    with pytest.raises(WiringError, match=r"credit\.min_form needs column 'step_reward'.*assemble_rm_scores"):
        check_fed(form_of("credit.min_form"), columns, why, {}, "this verl")
    with pytest.raises(WiringError, match=r"credit\.attenuate_by_length needs 'max_tokens': write `max_tokens = "):
        check_fed(form_of("credit.attenuate_by_length"), columns, why, {}, "this verl")
    check_fed(form_of("credit.group_normalise"), columns, why, {}, "this verl")


def test_what_a_forward_pass_says_of_padding_cannot_reach_the_gradient() -> None:
    logp = torch.tensor([[0.0, math.nan]], requires_grad=True)
    mask = torch.tensor([[1, 0]])
    columns = loss_columns(torch.full((1, 2), math.nan), logp, torch.full((1, 2), math.inf), mask)
    assert columns["logp"].tolist() == [[0.0, 0.0]]
    assert columns["advantage"][0, 1] == columns["old_logp"][0, 1] == 0.0
    columns["logp"].sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [[1.0, 0.0]]
