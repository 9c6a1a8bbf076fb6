"""Reward components."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.methods.reward import outcome, random_reward, reference_kl, user_score


def test_the_outcome_reward_is_one_of_its_two_values_and_interpolates() -> None:
    assert outcome(torch.tensor([1.0, 0.0, 0.5]), right=2.0, wrong=-1.0).tolist() == [2.0, -1.0, 0.5]
    assert outcome(torch.tensor([1.0, 0.0])).tolist() == [1.0, 0.0]


def test_the_users_score_is_scaled() -> None:
    assert user_score(torch.tensor([0.5, -2.0]), scale=2.0).tolist() == [1.0, -4.0]


def drawn(count: int, **knobs: object) -> torch.Tensor:
    return random_reward(torch.arange(count * count), **{"step_index": 0, **knobs})


def test_the_random_reward_has_its_rate_and_is_drawn_for_each_row() -> None:
    for rate in (0.1, 0.5, 0.9):
        rewards = drawn(60, rate=rate)
        # 3600 draws: three standard errors are at most 0.025.
        assert abs(float(rewards.mean()) - rate) < 0.025
        assert set(rewards.tolist()) == {0.0, 1.0}
    grid = drawn(60).reshape(60, 60)
    # Sixty draws per row and column: a share outside 0.5 +- 5 standard errors of 0.0645 shows structure.
    assert (grid.mean(dim=0) - 0.5).abs().max() < 0.33
    assert (grid.mean(dim=1) - 0.5).abs().max() < 0.33
    neighbours = float((grid[1:] == grid[:-1]).float().mean())
    assert abs(neighbours - 0.5) < 0.05


def test_steps_and_seeds_draw_anew_and_the_ends_of_the_rate_are_sure() -> None:
    first = drawn(60)
    for other in (drawn(60, step_index=1), drawn(60, seed=1)):
        assert abs(float((first == other).float().mean()) - 0.5) < 0.05
    assert torch.equal(first, drawn(60))
    assert not drawn(10, rate=0.0).any()
    assert drawn(10, rate=1.0).all()


@given(st.permutations(range(12)), st.integers(0, 2**40))
def test_the_random_reward_follows_its_rows_into_any_order(order: list[int], seed: int) -> None:
    rewards = random_reward(torch.arange(12), seed=seed, step_index=5)
    assert torch.equal(random_reward(torch.tensor(order), seed=seed, step_index=5), rewards[torch.tensor(order)])


def test_the_penalty_to_the_reference_sums_the_policys_own_tokens() -> None:
    # Log-ratios 1, 0.5 and, at a tool's token, NaN: -0.1 * 1.5. The second row is empty.
    old = torch.tensor([[-1.0, float("nan"), -1.0], [0.0, 0.0, 0.0]])
    ref = torch.tensor([[-2.0, -1.0, -1.5], [-9.0, -9.0, -9.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    found = reference_kl(old, ref, mask, beta=0.1)
    torch.testing.assert_close(found, torch.tensor([-0.15, 0.0]))
    assert reference_kl(ref, old, mask, beta=0.1)[0] == -found[0]  # k1 has a sign
