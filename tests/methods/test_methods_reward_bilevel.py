"""Hypergradients against finite differences, exact small processes, and the two studies that use them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.methods.reward import blend_study, hypergradient, preference_study
from truegain.methods.reward._blend_study import best_return, maze
from truegain.methods.reward._implicit import settle
from truegain.methods.reward._preference_study import (
    Paths,
    preference_loss,
    ring,
    upper_objective,
    walks,
)
from truegain.methods.reward._tabular import Process
from truegain.recipes.barfi import barfi
from truegain.recipes.parl import parl

DOUBLE = torch.float64


def quadratic() -> tuple[Any, Any, Tensor, Tensor]:
    """Inner: maximise -theta' A theta / 2 + theta' B phi; outer: -|theta - c|^2 + d' phi."""
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=rng, dtype=DOUBLE)
    a, b = root @ root.T / 4 + torch.eye(4, dtype=DOUBLE), torch.randn(4, 3, generator=rng, dtype=DOUBLE)
    c, d = torch.randn(4, generator=rng, dtype=DOUBLE), torch.randn(3, generator=rng, dtype=DOUBLE)
    phi = torch.randn(3, generator=rng, dtype=DOUBLE)
    exact = b.T @ torch.linalg.solve(a, -2 * (torch.linalg.solve(a, b @ phi) - c)) + d

    def field(theta: Tensor, knob: Tensor) -> Tensor:
        return b @ knob - a @ theta

    def outer(theta: Tensor, knob: Tensor) -> Tensor:
        return -((theta - c) ** 2).sum() + d @ knob

    return field, outer, phi, exact


@pytest.mark.parametrize(("solver", "terms"), [("direct", 0), ("cg", 8), ("neumann", 600)])
def test_on_a_convex_problem_every_solver_gives_the_closed_form(solver: Any, terms: int) -> None:
    field, outer, phi, exact = quadratic()
    theta = settle(field, torch.zeros(4, dtype=DOUBLE), phi, steps=800, rate=0.1)
    found = hypergradient(outer, field, theta, phi, solver=solver, terms=terms, rate=0.1)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


def test_without_a_solver_only_the_direct_part_is_left_and_an_unknown_one_is_refused() -> None:
    field, outer, phi, exact = quadratic()
    theta = settle(field, torch.zeros(4, dtype=DOUBLE), phi, steps=500, rate=0.1)
    one = torch.autograd.grad(outer(theta, phi.requires_grad_()), phi)[0]
    torch.testing.assert_close(hypergradient(outer, field, theta, phi, solver="none"), one)
    assert (one - exact).abs().max() > 0.1


def walk_sum(process: Process, chance: list[list[float]], reward: Tensor, gamma: float) -> float:
    """Expected discounted return by walking every path, in plain Python."""

    def onward(state: int, left: int) -> float:
        if not left:
            return 0.0
        total = 0.0
        for a, p in enumerate(chance[state]):
            later = sum(
                float(process.move[state, a, t]) * onward(t, left - 1)
                for t in range(len(chance))
                if process.move[state, a, t] > 0
            )
            total += p * (float(reward[state, a]) + gamma * later)
        return total

    return sum(float(x) * onward(s, process.steps) for s, x in enumerate(process.start))


def test_value_and_gradient_of_a_process_are_those_of_its_paths() -> None:
    process, gold = ring(3, steps=3)
    theta = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=DOUBLE).requires_grad_()
    value = process.value(theta, gold, 0.9)
    chance: list[list[float]] = process.policy(theta).tolist()
    assert float(value.detach()) == pytest.approx(walk_sum(process, chance, gold, 0.9), rel=1e-10)
    # Without a discount the usual policy gradient is the gradient of the value.
    (wanted,) = torch.autograd.grad(process.value(theta, gold, 1.0), theta)
    torch.testing.assert_close(process.gradient(theta, gold, 1.0).detach(), wanted)


@pytest.mark.parametrize("seed", [0, 1])
def test_barfis_gradient_is_that_of_finite_differences(seed: int) -> None:
    world = maze(seed, side=3, steps=6)
    process = world.process

    def field(theta: Tensor, phi: Tensor) -> Tensor:
        reward = phi[0] + phi[1] * world.primary + phi[2] * world.heuristic
        return process.gradient(theta, reward, phi[3].sigmoid()) - 0.3 * theta

    def outer(theta: Tensor, phi: Tensor) -> Tensor:
        return process.value(theta, world.primary, 0.95)

    def rest(phi: Tensor) -> Tensor:
        return settle(field, torch.zeros(36, dtype=DOUBLE), phi, steps=400, rate=1.0)

    phi = torch.tensor([0.05, 1.0, 0.4, 2.0], dtype=DOUBLE)
    theta = rest(phi)
    assert float(field(theta, phi).abs().max()) < 1e-8
    found = hypergradient(outer, field, theta, phi, solver="direct")
    for k in range(4):
        step = torch.zeros(4, dtype=DOUBLE)
        step[k] = 1e-4
        ahead, behind = (float(outer(rest(phi + s), phi)) for s in (step, -step))
        assert float(found[k]) == pytest.approx((ahead - behind) / 2e-4, abs=1e-5)
    series = hypergradient(outer, field, theta, phi, solver="neumann", terms=400, rate=1.0)
    torch.testing.assert_close(series, found, rtol=1e-4, atol=1e-6)


def test_a_heuristic_of_zeros_gets_no_gradient_and_the_plain_reward_is_the_plain_policy_gradient() -> None:
    world = maze(0, side=3, steps=5)
    process, nothing = world.process, torch.zeros(9, 4, dtype=DOUBLE)
    theta = torch.randn(36, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)

    def field(at: Tensor, phi: Tensor) -> Tensor:
        return process.gradient(at, phi[0] + phi[1] * world.primary + phi[2] * nothing, phi[3].sigmoid()) - 0.3 * at

    phi = torch.tensor([0.0, 1.0, 0.7, 2.0], dtype=DOUBLE)
    at = settle(field, theta, phi, steps=50, rate=1.0)
    found = hypergradient(lambda t, p: process.value(t, world.primary, 0.95), field, at, phi)
    assert found[2] == 0 and found[1] != 0
    plain = process.gradient(theta, world.primary, phi[3].sigmoid()) - 0.3 * theta
    torch.testing.assert_close(field(theta, torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=DOUBLE)), plain)


def test_a_maze_pays_on_entry_and_its_best_return_is_that_of_the_shortest_way() -> None:
    world = maze(1, side=5, slip=0.0)
    # So many moves from the start to the corner, the last of which is paid: discounted once less often.
    place = divmod(int(world.process.start.argmax()), 5)
    goal = divmod(int(world.primary.max(1).values.nonzero().flatten()[0]), 5)
    corner = max(((0, 0), (0, 4), (4, 0), (4, 4)), key=lambda c: -abs(c[0] - goal[0]) - abs(c[1] - goal[1]))
    moves = abs(place[0] - corner[0]) + abs(place[1] - corner[1])
    assert best_return(world, 0.9) == pytest.approx(0.9 ** (moves - 1))
    # Two ways in; the goal's own cell, in which nobody ever is, has two walls to bump into.
    assert float(world.primary.max()) == 1.0 and int((world.primary > 0).sum()) == 4
    assert torch.equal(maze(1, helpful=True).primary, maze(1).primary)
    assert not torch.equal(maze(1, helpful=True).heuristic, maze(1).heuristic)


def exact_upper(process: Process, gold: Tensor, theta: Tensor, nu: Tensor) -> Tensor:
    """The expected loss over all pairs of paths and both labels, enumerated."""
    chance, reward = process.policy(theta), nu.reshape(process.shape)
    paths: list[tuple[Tensor, Tensor, float]] = []
    for first in range(process.shape[0]):
        for actions in itertools.product(range(process.shape[1]), repeat=process.steps):
            state, rho, own, true = first, process.start[first], torch.zeros((), dtype=DOUBLE), 0.0
            for a in actions:
                rho, own, true = rho * chance[state, a], own + reward[state, a], true + float(gold[state, a])
                state = int(process.move[state, a].argmax())
            paths.append((rho, own, true))
    rho, own = torch.stack([p[0] for p in paths]), torch.stack([p[1] for p in paths])
    true = torch.tensor([p[2] for p in paths], dtype=DOUBLE)
    wins = (true[None, :] - true[:, None]).sigmoid()  # [i, j]: the second, j, is preferred
    ahead = own[None, :] - own[:, None]
    loss = -(wins * torch.nn.functional.logsigmoid(ahead) + (1 - wins) * torch.nn.functional.logsigmoid(-ahead))
    return (rho[:, None] * rho[None, :] * loss).sum()


def test_parls_total_derivative_is_that_of_finite_differences_and_more_than_the_plain_fit() -> None:
    process, gold = ring(0, states=2, actions=2, steps=2)

    def field(theta: Tensor, nu: Tensor) -> Tensor:
        return process.gradient(theta, nu.reshape(2, 2) - 0.7 * process.policy(theta).log(), 1.0)

    def rest(nu: Tensor) -> Tensor:
        return settle(field, torch.zeros(4, dtype=DOUBLE), nu, steps=600, rate=0.5)

    def outer(theta: Tensor, nu: Tensor) -> Tensor:
        return exact_upper(process, gold, theta, nu)

    nu = torch.tensor([0.4, -0.3, 0.2, 0.1], dtype=DOUBLE)
    theta = rest(nu)
    # A softmax has a free constant per state, so its Jacobian is singular: conjugate gradients stay in its range.
    found = hypergradient(outer, field, theta, nu, solver="cg", terms=20)
    numeric = []
    for k in range(4):
        step = torch.zeros(4, dtype=DOUBLE)
        step[k] = 1e-4
        numeric.append(float(outer(rest(nu + step), nu + step) - outer(rest(nu - step), nu - step)) / 2e-4)
    assert found.tolist() == pytest.approx(numeric, abs=1e-5)
    plain = hypergradient(outer, field, theta, nu, solver="none")
    assert (plain - found).abs().max() > 1e-3


def test_the_sampled_upper_gradient_is_that_of_the_enumerated_one_on_average() -> None:
    process, gold = ring(0, states=2, actions=2, steps=2)
    rng = torch.Generator().manual_seed(0)
    theta = torch.tensor([0.5, -0.2, 0.1, 0.3], dtype=DOUBLE).requires_grad_()
    nu = torch.tensor([0.4, -0.3, 0.2, 0.1], dtype=DOUBLE).requires_grad_()
    wanted = torch.autograd.grad(exact_upper(process, gold, theta, nu), (theta, nu))
    paths = walks(process, process.policy(theta).detach(), 200_000, rng)
    ahead = paths.total(gold).diff(dim=1)[:, 0]
    second = (torch.rand(len(ahead), generator=rng, dtype=DOUBLE) < ahead.sigmoid()).double()
    value = upper_objective(process, paths, second, theta, nu)
    found = torch.autograd.grad(value, (theta, nu))
    exact = float(exact_upper(process, gold, theta, nu).detach())
    assert float(value.detach()) == pytest.approx(exact, abs=0.01)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=0.01)


def test_a_constant_loss_pulls_the_policy_nowhere_and_a_frozen_policy_leaves_the_bradley_terry_fit() -> None:
    process, _ = ring(1)
    paths = walks(process, torch.full((4, 3), 1 / 3, dtype=DOUBLE), 16, torch.Generator().manual_seed(0))
    theta, nu = torch.zeros(12, dtype=DOUBLE, requires_grad=True), torch.zeros(12, dtype=DOUBLE, requires_grad=True)
    second = torch.ones(16, dtype=DOUBLE)
    # A reward of zeros makes every loss ln 2.
    pull, fit = torch.autograd.grad(upper_objective(process, paths, second, theta, nu), (theta, nu))
    assert pull.abs().max() < 1e-12
    (alone,) = torch.autograd.grad(preference_loss(paths, second, nu.reshape(4, 3)).mean(), nu)
    torch.testing.assert_close(fit, alone)
    assert isinstance(paths, Paths) and paths.state.shape == (16, 2, 5)


# The studies


def test_the_blend_beats_the_plain_sum_under_a_misleading_heuristic_and_repeats_itself() -> None:
    knobs: dict[str, Any] = {"seed": 3, "outer_steps": 6, "inner_steps": 8}
    ours, again = barfi(**knobs).function(), barfi(**knobs).function()
    theirs = barfi(learn=False, **knobs).function()
    assert ours == again and ours["share"] > theirs["share"]
    assert theirs["weights"] == [0.0, 1.0, 1.0] and ours["weights"][2] < 1.0
    wrong: list[dict[str, Any]] = [{"outer_steps": 0}, {"inner_steps": 0}, {"terms": -1}]
    for bad in wrong:
        with pytest.raises(SettingError, match="blend_study"):
            blend_study(**bad)


@pytest.mark.parametrize("solver", ["none", "neumann"])
def test_a_reward_is_learned_from_labels(solver: Any) -> None:
    record = parl(solver=solver, seed=1, rounds=12, pairs=16).function()
    assert record["share"] > 0.2 and record["labels"] <= 12 * 16
    assert record == parl(solver=solver, seed=1, rounds=12, pairs=16).function()
    assert math.isfinite(record["labels"])
    wrong: list[dict[str, Any]] = [{"pairs": 0}, {"temperature": 0.0}]
    for bad in wrong:
        with pytest.raises(SettingError, match="preference_study"):
            preference_study(**bad)
