"""Bilevel learning of rewards: the gradient of an outer objective through the point at which the inner one rests.

``theta(phi)`` solves ``field(theta, phi) = 0`` (the gradient of the inner objective, or any update that stands still
there). For an outer ``J(theta(phi), phi)``: ``dJ/dphi = d_phi J - (d_theta J)^T (d_theta field)^-1 d_phi field``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

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
    pull, own = torch.autograd.grad(value, (at, knob), allow_unused=True)
    direct = torch.zeros_like(phi) if own is None else own
    if solver == "none" or pull is None:
        return direct
    force = field(at, knob)

    def transposed(vector: Tensor) -> Tensor:
        """``H^T v``."""
        (found,) = torch.autograd.grad(force, at, vector, retain_graph=True, allow_unused=True)
        return torch.zeros_like(at) if found is None else found

    if solver == "direct":
        rows = torch.stack([transposed(unit) for unit in torch.eye(len(at), dtype=at.dtype)], dim=1)
        u = torch.linalg.solve(-rows, pull)
    elif solver == "neumann":
        term, u = rate * pull, rate * pull
        for _ in range(terms):
            term = term + rate * transposed(term)
            u = u + term
    else:
        u = _conjugate(lambda vector: -transposed(vector), pull, terms)
    (through,) = torch.autograd.grad(force, knob, u, allow_unused=True)
    return direct if through is None else direct + through


def _conjugate(matrix: Callable[[Tensor], Tensor], wanted: Tensor, steps: int) -> Tensor:
    """Solve ``matrix(u) = wanted`` for a symmetric positive matrix."""
    u, left = torch.zeros_like(wanted), wanted.clone()
    direction, size = left.clone(), left @ left
    for _ in range(steps):
        if float(size) < 1e-24:
            break
        along = matrix(direction)
        step = size / (direction @ along)
        u, left = u + step * direction, left - step * along
        size, before = left @ left, size
        direction = left + (size / before) * direction
    return u
