"""Bilevel learning of rewards: the gradient of an outer objective through the point at which the inner one rests.

``theta(phi)`` solves ``field(theta, phi) = 0`` (the gradient of the inner objective, or any update that stands still
there). For an outer ``J(theta(phi), phi)``: ``dJ/dphi = d_phi J - (d_theta J)^T (d_theta field)^-1 d_phi field``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from truegain.core.errors import SettingError

Field = Callable[[Tensor, Tensor], Tensor]
Solver = Literal["direct", "neumann", "cg", "none"]


def settle(field: Field, theta: Tensor, phi: Tensor, *, steps: int, rate: float) -> Tensor:
    """Follow the field uphill: ``theta <- theta + rate * field(theta, phi)``, ``steps`` times, without gradient."""
    now, fixed = theta.detach(), phi.detach()
    for _ in range(steps):
        with torch.enable_grad():
            moved = now.clone().requires_grad_()
            step = field(moved, fixed)
        now = (now + rate * step).detach()
    return now


def hypergradient(
    outer: Field,
    field: Field,
    theta: Tensor,
    phi: Tensor,
    *,
    solver: Solver = "direct",
    terms: int = 5,
    rate: float = 0.1,
) -> Tensor:
    """Gradient of ``outer(theta(phi), phi)`` (a scalar) with respect to phi [F], at ``theta`` [D] where it rests.

    ``direct`` solves with the Jacobian H of the field, D passes. ``neumann`` takes for ``-H^-1`` the sum of ``rate *
    (I + rate H)^i`` up to ``terms``, which converges when the eigenvalues of H lie in (-2 / rate, 0): as many steps of
    the inner ascent, remembered. ``cg`` takes at most ``terms`` steps of conjugate gradients, for symmetric H below 0.
    ``none`` leaves out how theta moves with phi. Raises SettingError for an unknown solver.
    """
    if solver not in ("direct", "neumann", "cg", "none"):
        raise SettingError(f"hypergradient: solver={solver!r}; it is direct, neumann, cg or none")
    at, knob = theta.detach().clone().requires_grad_(), phi.detach().clone().requires_grad_()
    value = outer(at, knob)
    pull, own = _grads(value, (at, knob))
    if solver == "none":
        return own
    force = field(at, knob)

    def transposed(vector: Tensor) -> Tensor:
        """``H^T v``."""
        return _grads(force, (at,), vector)[0]

    if solver == "direct":
        rows = torch.stack([transposed(unit) for unit in torch.eye(len(at), dtype=at.dtype)], dim=1)
        u = cast(Tensor, torch.linalg.solve(-rows, pull))  # pyright: ignore[reportUnknownMemberType]
    elif solver == "neumann":
        term, u = rate * pull, rate * pull
        for _ in range(terms):
            term = term + rate * transposed(term)
            u = u + term
    else:
        u = _conjugate(lambda vector: -transposed(vector), pull, terms)
    return own + _grads(force, (knob,), u)[0]


def _grads(of: Tensor, to: Sequence[Tensor], vector: Tensor | None = None) -> list[Tensor]:
    """``vector^T d of / d to`` for each of ``to``; zeros where there is no path."""
    found = torch.autograd.grad(of, list(to), vector, retain_graph=True, allow_unused=True, materialize_grads=True)
    return list(found)


def _conjugate(matrix: Callable[[Tensor], Tensor], wanted: Tensor, steps: int) -> Tensor:
    """Solve ``matrix(u) = wanted`` for a symmetric positive matrix."""
    u, left = torch.zeros_like(wanted), wanted.clone()
    direction, size = left.clone(), left @ left
    for _ in range(steps):
        if float(size) < 1e-24:
            break
        along = matrix(direction)
        if float(direction @ along) <= 0:
            break  # H is not below 0 here: what was found so far stands
        step = size / (direction @ along)
        u, left = u + step * direction, left - step * along
        size, before = left @ left, size
        direction = left + (size / before) * direction
    return u
