"""Reward components."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.methods.reward import outcome, random_reward, user_score


def test_the_outcome_reward_is_one_of_its_two_values_and_interpolates() -> None:
    assert outcome(torch.tensor([1.0, 0.0, 0.5]), right=2.0, wrong=-1.0).tolist() == [2.0, -1.0, 0.5]
    assert outcome(torch.tensor([1.0, 0.0])).tolist() == [1.0, 0.0]


def test_the_users_score_is_scaled() -> None:
    assert user_score(torch.tensor([0.5, -2.0]), scale=2.0).tolist() == [1.0, -4.0]


def drawn(count: int, width: int, **knobs: object) -> torch.Tensor:
    tokens = torch.stack(torch.meshgrid(*[torch.arange(count)] * width, indexing="ij"), dim=-1).reshape(-1, width)
    return random_reward(tokens, torch.ones_like(tokens, dtype=torch.bool), **{"step_index": 0, **knobs})


def test_the_random_reward_has_its_rate_and_knows_nothing_of_the_tokens() -> None:
    for rate in (0.1, 0.5, 0.9):
        rewards = drawn(60, 2, rate=rate)
        # 3600 draws: three standard errors are at most 0.025.
        assert abs(float(rewards.mean()) - rate) < 0.025
        assert set(rewards.tolist()) == {0.0, 1.0}
    grid = drawn(60, 2).reshape(60, 60)
    # Sixty draws per row and column: a share outside 0.5 +- 5 standard errors of 0.0645 shows structure.
    assert (grid.mean(dim=0) - 0.5).abs().max() < 0.33
    assert (grid.mean(dim=1) - 0.5).abs().max() < 0.33
    neighbours = float((grid[1:] == grid[:-1]).float().mean())
    assert abs(neighbours - 0.5) < 0.05


def test_steps_and_seeds_draw_anew_and_the_ends_of_the_rate_are_sure() -> None:
    first = drawn(60, 2)
    for other in (drawn(60, 2, step_index=1), drawn(60, 2, seed=1)):
        assert abs(float((first == other).float().mean()) - 0.5) < 0.05
    assert torch.equal(first, drawn(60, 2))
    assert not drawn(10, 2, rate=0.0).any()
    assert drawn(10, 2, rate=1.0).all()


@given(st.lists(st.integers(0, 127), min_size=1, max_size=8), st.integers(0, 4), st.integers(0, 2**40))
def test_identical_completions_get_identical_rewards_whatever_the_padding(
    ids: list[int], padding: int, seed: int
) -> None:
    tokens = torch.tensor([ids + [9] * padding, ids + [3] * padding])
    mask = torch.arange(tokens.shape[1]).expand(2, -1) < len(ids)
    first, second = random_reward(tokens, mask, seed=seed, step_index=5).tolist()
    (alone,) = random_reward(tokens[:1, : len(ids)], mask[:1, : len(ids)], seed=seed, step_index=5).tolist()
    assert first == second == alone
