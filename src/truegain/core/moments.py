"""What Adam remembers of one weight, and the step that it would take along a gradient."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Running means of a weight's gradient and of its square, after ``steps`` steps, with the optimiser's constants.

    ``first`` is of the gradient of the *loss*, as optimisers keep it.
    """

    first: Tensor
    second: Tensor
    steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8

    def ascent(self, gain: Tensor, rows: Tensor) -> Tensor:
        """Adam's next step of the weight's ``rows`` [...], per unit of learning rate, if the loss falls along ``gain``.

        ``gain`` [..., H] is minus the loss's gradient there. Weight decay and the clipping of the gradient's norm are
        left out.
        """
        steps = self.steps + 1
        first = self.beta1 * -self.first[rows].to(gain) + (1 - self.beta1) * gain
        second = self.beta2 * self.second[rows].to(gain) + (1 - self.beta2) * gain**2
        return (first / (1 - self.beta1**steps)) / ((second / (1 - self.beta2**steps)).sqrt() + self.eps)


def first_step(gain: Tensor, eps: float = 1e-8) -> Tensor:
    """`Moments.ascent` of an optimiser that has not stepped yet: every number moves by about 1.

    >>> import torch
    >>> first_step(torch.tensor([2.0, -3.0, 0.0]))
    tensor([ 1., -1.,  0.])
    """
    return gain / (gain.abs() + eps)
