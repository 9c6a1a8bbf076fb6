"""Muon: momentum whose update of every matrix is made orthogonal; Adam for everything else.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". The step is scaled so that its
root-mean-square is that of an Adam step (Liu et al. 2025, arXiv 2502.16982). The matrices of one shape go through the
iteration together, in the weights' own precision: `torch.optim.Muon` computes in bfloat16, which few CPUs can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon on ``matrices``, Adam on ``rest``, at one learning rate; matrices decay by ``weight_decay`` x rate."""

    def __init__(  # noqa: D107
        self,
        matrices: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter],
        *,
        lr: float = 0.0,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        groups = [{"params": list(matrices), "matrix": True}, {"params": list(rest), "matrix": False}]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            held = [p for p in group["params"] if p.grad is not None]
            if group["matrix"]:
                self._matrices(group, held)
            else:
                for p in held:
                    self._adam(group, p)

    def _matrices(self, group: dict[str, Any], held: list[nn.Parameter]) -> None:
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for p in held:
            state, grad = self.state[p], p.grad
            assert grad is not None
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            ahead = grad.lerp(state["momentum"], group["momentum"])
            by_shape.setdefault(p.shape, []).append((p, ahead))
        for shape, pairs in by_shape.items():
            updates = orthogonal(torch.stack([ahead for _, ahead in pairs]))
            for (p, _), update in zip(pairs, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-0.2 * max(shape) ** 0.5 * group["lr"])

    def _adam(self, group: dict[str, Any], p: nn.Parameter) -> None:
        state, (fast, slow) = self.state[p], group["betas"]
        assert p.grad is not None
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        state["mean"].lerp_(p.grad, 1 - fast)
        state["square"].lerp_(p.grad.square(), 1 - slow)
        count = float(state["step"])
        spread = (state["square"] / (1 - slow**count)).sqrt_().add_(1e-8)
        p.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - fast**count))


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices [.., m, n], roughly: singular values go to about 0.7 to 1.2.

    Newton-Schulz: X <- a X + (b A + c A^2) X with A = X X^T, from X scaled to Frobenius norm 1.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
