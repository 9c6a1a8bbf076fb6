from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.methods.reward._implicit import Solver, hypergradient, settle
from truegain.methods.reward._tabular import Process

MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))


@dataclass(frozen=True)
class Maze:
    """A grid to cross: the process, what is wanted and what its designer would add, both [S, A]."""

    process: Process
    primary: Tensor
    heuristic: Tensor


def maze(seed: int, *, side: int = 5, steps: int = 20, slip: float | None = None, helpful: bool = False) -> Maze:
    """From near the middle to a corner of a ``side`` x ``side`` grid, which pays 1 on entry and ends the episode.

    With chance ``slip`` a move goes anywhere. The heuristic pays for each step nearer to a corner: the right one
    (``helpful``), or one that neighbours it. The seed decides which corners these are, what a step pays (0.25 to 0.75),
    from which of the nine middle cells it starts, and a slip that is not given (0 to 0.2).
    """
    rng = torch.Generator().manual_seed(seed)
    corners = [(0, 0), (0, side - 1), (side - 1, side - 1), (side - 1, 0)]
    at = int(torch.randint(4, (), generator=rng))
    astray = (at + 1 + 2 * int(torch.randint(2, (), generator=rng))) % 4
    goal, named = corners[at], corners[at if helpful else astray]
    pay, drawn = (0.25 + 0.5 * torch.rand(1, generator=rng)).item(), 0.2 * torch.rand(1, generator=rng).item()
    slip, size = drawn if slip is None else slip, side * side
    move, primary = torch.zeros(size, 4, size, dtype=torch.float64), torch.zeros(size, 4, dtype=torch.float64)
    heuristic = torch.zeros(size, 4, dtype=torch.float64)
    for s in range(size):
        row, column = divmod(s, side)
        landings = [(min(max(row + i, 0), side - 1), min(max(column + j, 0), side - 1)) for i, j in MOVES]
        for a in range(4):
            for b, (x, y) in enumerate(landings):
                chance = slip / 4 + (1 - slip) * (a == b)
                nearer = abs(row - named[0]) + abs(column - named[1]) - abs(x - named[0]) - abs(y - named[1])
                # Only a step nearer pays, and one away costs nothing: a potential would leave the best policy as it is.
                heuristic[s, a] += pay * chance * max(nearer, 0)
                if (x, y) == goal:
                    primary[s, a] += chance
                else:
                    move[s, a, x * side + y] += chance
    start = torch.zeros(size, dtype=torch.float64)
    beside = torch.randint(-1, 2, (2,), generator=rng) if side > 4 else torch.zeros(2, dtype=torch.long)
    start[(side // 2 + int(beside[0])) * side + side // 2 + int(beside[1])] = 1.0
    return Maze(Process(start, move, steps), primary, heuristic)


def best_return(world: Maze, gamma: float) -> float:
    """The largest discounted return of the primary reward."""
    value = torch.zeros(len(world.primary), dtype=torch.float64)
    for _ in range(world.process.steps):
        value = (world.primary + gamma * (world.process.move @ value)).max(1).values
    return float(world.process.start @ value)


def blend_study(
    *,
    learn: bool = True,
    helpful: bool = False,
    seed: int = 0,
    outer_steps: int = 25,
    inner_steps: int = 15,
    inner_rate: float = 1.0,
    outer_rate: float = 0.1,
    solver: Solver = "neumann",
    terms: int = 5,
    gamma: float = 0.95,
    decay: float = 0.01,
    price: float = 0.0,
) -> dict[str, Any]:
    """Learn how far a designer's heuristic may be trusted, by the return that the policy trained on it gets.

    The inner policy climbs ``E[sum_t grad log pi * sum_k>=t gamma_phi^(k-t) r_phi] - decay * theta`` on the blend
    ``r_phi = phi_1 + phi_2 * primary + phi_3 * heuristic``, for ``inner_steps`` steps at ``inner_rate`` from where it
    was. Then phi and the discount take a step of Adam at ``outer_rate`` on the true return ``J`` less ``price *
    gamma_phi``, through the point where the inner one rests (`hypergradient`, with ``solver`` and ``terms``). phi
    starts at (0, 1, 1), the discount at ``gamma``. ``learn=False`` leaves both there: the plain sum of rewards.

    Everything is exact, on the maze of ``seed``. Returns ``share`` (the true return over the best one's), ``early``
    (the same after a fifth of the outer steps), ``weights`` (phi) and ``discount`` at the end. Raises SettingError for
    counts below 1. Source: Gupta et al. 2023, BARFI.
    """
    if min(outer_steps, inner_steps) < 1 or terms < 0:
        raise SettingError("blend_study: outer_steps and inner_steps are 1 or more, terms 0 or more")
    world = maze(seed, helpful=helpful)
    process, best = world.process, best_return(world, gamma)

    def field(theta: Tensor, phi: Tensor) -> Tensor:
        reward = phi[0] + phi[1] * world.primary + phi[2] * world.heuristic
        return process.gradient(theta, reward, phi[3].sigmoid()) - decay * theta

    def outer(theta: Tensor, phi: Tensor) -> Tensor:
        return process.value(theta, world.primary, gamma) - price * phi[3].sigmoid()

    theta = torch.zeros(process.shape[0] * process.shape[1], dtype=torch.float64)
    discount = torch.tensor(gamma, dtype=torch.float64).logit()
    phi = torch.stack([torch.tensor(x, dtype=torch.float64) for x in (0.0, 1.0, 1.0)] + [discount]).requires_grad_()
    optimiser = torch.optim.Adam([phi], lr=outer_rate, maximize=True)
    shares: list[float] = []
    for _ in range(outer_steps):
        theta = settle(field, theta, phi, steps=inner_steps, rate=inner_rate)
        shares.append(float(process.value(theta, world.primary, gamma)) / best)
        if learn:
            phi.grad = hypergradient(outer, field, theta, phi, solver=solver, terms=terms, rate=inner_rate)
            optimiser.step()  # pyright: ignore[reportUnknownMemberType]
    weights = phi.detach()
    return {
        "share": shares[-1],
        "early": shares[(len(shares) - 1) // 5],
        "weights": [float(x) for x in weights[:3]],
        "discount": float(weights[3].sigmoid()),
    }
