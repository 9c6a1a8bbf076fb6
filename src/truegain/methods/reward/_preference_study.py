from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from truegain.core.errors import SettingError
from truegain.methods.reward._implicit import Solver, hypergradient, settle
from truegain.methods.reward._tabular import Process


@dataclass(frozen=True)
class Paths:
    """N pairs of paths: states and actions of every step, [N, 2, steps]."""

    state: Tensor
    action: Tensor

    def total(self, table: Tensor) -> Tensor:
        """The sum of a table [S, A] along each path, [N, 2]."""
        return table[self.state, self.action].sum(2)


def ring(seed: int, *, states: int = 4, actions: int = 3, steps: int = 5) -> tuple[Process, Tensor]:
    """A process whose moves are drawn at random, always known, and a gold reward [S, A] of deviation 1."""
    rng = torch.Generator().manual_seed(seed)
    onward = torch.randint(states, (states, actions), generator=rng)
    move = torch.nn.functional.one_hot(onward, states).double()
    start = torch.full((states,), 1 / states, dtype=torch.float64)
    return Process(start, move, steps), torch.randn(states, actions, generator=rng, dtype=torch.float64)


def walks(process: Process, chance: Tensor, pairs: int, rng: torch.Generator) -> Paths:
    """Pairs of independent paths under the policy [S, A]."""
    rows = 2 * pairs
    state = torch.multinomial(process.start.expand(rows, -1), 1, generator=rng)[:, 0]
    states, actions = list[Tensor](), list[Tensor]()
    for _ in range(process.steps):
        action = torch.multinomial(chance[state], 1, generator=rng)[:, 0]
        states.append(state)
        actions.append(action)
        state = torch.multinomial(process.move[state, action], 1, generator=rng)[:, 0]
    shape = (pairs, 2, process.steps)
    return Paths(torch.stack(states, 1).reshape(shape), torch.stack(actions, 1).reshape(shape))


def preference_loss(paths: Paths, second: Tensor, reward: Tensor) -> Tensor:
    """Bradley-Terry loss of each pair [N]; ``second`` is 1 where the second path was preferred."""
    totals = paths.total(reward)
    return softplus((1 - 2 * second) * (totals[:, 1] - totals[:, 0]))


def upper_objective(process: Process, paths: Paths, second: Tensor, theta: Tensor, nu: Tensor) -> Tensor:
    """A scalar whose gradients are those of the loss's expectation: in nu by the loss, in theta by the pairs' chance.

    Its value is the mean loss plus a term that is 0: ``mean((U - mean U) * log rho)``, less its own value.
    """
    loss = preference_loss(paths, second, nu.reshape(process.shape))
    log_rho = paths.total(process.policy(theta).log()).sum(1)
    score = ((loss.detach() - loss.detach().mean()) * log_rho).mean()
    return loss.mean() + score - score.detach()


def preference_study(
    *,
    solver: Solver = "direct",
    seed: int = 0,
    rounds: int = 100,
    pairs: int = 8,
    outer_rate: float = 0.1,
    inner_steps: int = 15,
    inner_rate: float = 0.5,
    temperature: float = 0.5,
    decay: float = 0.01,
    wanted: float = 0.95,
    terms: int = 10,
) -> dict[str, Any]:
    """Learn a reward from preferences over what its own best policy does, with or without how that policy moves.

    Each round the policy climbs ``E[sum_t r_nu] + temperature * entropy - decay * |theta|^2 / 2`` (the last makes its
    logits unique, where ``direct`` needs them to be) for ``inner_steps`` steps at ``inner_rate``,
    ``pairs`` pairs of its paths are labelled by a Bradley-Terry judge with the gold reward, and nu, a reward per state
    and action, takes a step of Adam at ``outer_rate`` down the loss. With a ``solver`` the step counts how the policy,
    and so the pairs, move with nu (A-PARL); ``solver="none"`` leaves that out, as fitting rewards round by round does.

    Returns ``labels``, how many pairs were labelled when the policy's gold return, as a share of the way from the
    uniform policy to the best under the same temperature, first stayed at ``wanted`` or above for ten rounds (all that
    were labelled if it never did), ``share`` (its mean over the last ten rounds) and ``reached`` (1 or 0). Raises
    SettingError for numbers out of bounds. Source: Chakraborty et al. 2023, PARL.
    """
    if min(rounds, pairs, inner_steps) < 1 or not temperature > 0:
        raise SettingError("preference_study: rounds, pairs, inner_steps are 1 or more, temperature positive")
    process, gold = ring(seed)
    rng = torch.Generator().manual_seed(seed + 1)

    def field(theta: Tensor, nu: Tensor) -> Tensor:
        pays = nu.reshape(process.shape) - temperature * process.policy(theta).log()
        return process.gradient(theta, pays, 1.0) - decay * theta

    theta = torch.zeros(gold.numel(), dtype=torch.float64)
    low = float(process.value(theta, gold, 1.0))
    best = settle(field, theta, gold.reshape(-1), steps=300, rate=inner_rate)
    high = float(process.value(best, gold, 1.0))
    nu = torch.zeros_like(theta).requires_grad_()
    optimiser = torch.optim.Adam([nu], lr=outer_rate)
    shares: list[float] = []
    for _ in range(rounds):
        theta = settle(field, theta, nu, steps=inner_steps, rate=inner_rate)
        shares.append((float(process.value(theta, gold, 1.0)) - low) / (high - low))
        paths = walks(process, process.policy(theta), pairs, rng)
        ahead = paths.total(gold).diff(dim=1)[:, 0]
        second = (torch.rand(pairs, generator=rng, dtype=torch.float64) < ahead.sigmoid()).double()

        def outer(at: Tensor, knob: Tensor, paths: Paths = paths, second: Tensor = second) -> Tensor:
            return upper_objective(process, paths, second, at, knob)

        nu.grad = hypergradient(outer, field, theta, nu, solver=solver, terms=terms, rate=inner_rate)
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
    first = next((n for n in range(rounds - 9) if min(shares[n : n + 10]) >= wanted), None)
    return {
        "labels": pairs * (rounds if first is None else first),
        "share": sum(shares[-10:]) / len(shares[-10:]),
        "reached": float(first is not None),
    }
