from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from truegain.core.errors import SettingError

Correction = Literal["learned", "none", "reversed", "random"]


def corrected_direction(
    text: Float[Tensor, "*C D"], correction: Float[Tensor, "D"], *, omega: float = 1.5, renormalise: bool = True
) -> Float[Tensor, "*C D"]:
    """The direction that an embedding reward compares with, moved along a learned vector by guidance.

    With e the prompt's unit embedding and b the vector: ``e+ = (e + b) / |e + b|``, ``e- = (e - b) / |e - b|``,
    ``e~ = e- + omega (e+ - e-)``. ``omega`` above 1 goes beyond e+; 0.5 is the midpoint of the two. b = 0 gives e.
    ``renormalise`` scales e~ to length 1, so that the reward stays a cosine. Where e = -b or e = b, that side is the
    zero vector.
    Source: Chen et al. 2025, D2-Align.

    >>> found = corrected_direction(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.0]), renormalise=False)
    >>> [round(x, 5) for x in found.tolist()]
    [0.89443, 0.89443, 0.0]
    """
    plus, minus = normalize(text + correction, dim=-1), normalize(text - correction, dim=-1)
    moved = minus + omega * (plus - minus)
    return normalize(moved, dim=-1) if renormalise else moved


@dataclass(frozen=True)
class Outputs:
    """Embeddings: prompts as the reward model sees them and as they are [C, D], outputs [C, X, D], one style [D]."""

    text: Tensor
    true: Tensor
    output: Tensor
    style: Tensor

    def reward(self, direction: Tensor) -> Tensor:
        """Dot products of every output with its prompt's direction [C, X]."""
        return (self.output * direction[:, None]).sum(dim=2)

    def lean(self, direction: Tensor) -> Tensor:
        """How far each direction leans to the style: its part along it over its part along the truth [C]."""
        return (direction @ self.style) / (direction * self.true).sum(dim=1)


def outputs(seed: int, *, prompts: int = 20, choices: int = 50, width: int = 32, bias: float = 1.0) -> Outputs:
    """Prompts with 50 outputs, 15 of which are as good as any; the reward model leans to one style in every prompt.

    An output is a unit vector: 0.8 along its prompt's true direction if it is good and 0.3 if not, -0.5 to 0.5 along
    the style, even and whether good or not, the rest in a direction of its own. Gold is the part along the truth. The
    reward model embeds a prompt as its true direction plus ``bias`` times the style, at length 1.
    """
    rng = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, generator=rng, dtype=torch.float64), dim=-1)

    style = unit(width)
    true = unit(prompts, width)
    true = normalize(true - (true @ style)[:, None] * style, dim=1)
    rest = unit(prompts, choices, width)
    for known in (style.expand(prompts, -1), true):
        rest = rest - (rest * known[:, None]).sum(2, keepdim=True) * known[:, None]
    fit = torch.where(torch.arange(choices) < 0.3 * choices, 0.8, 0.3).double()[None, :, None]
    lean = torch.rand(prompts, choices, 1, generator=rng, dtype=torch.float64) - 0.5
    output = fit * true[:, None] + lean * style + (1 - fit**2 - lean**2).sqrt() * normalize(rest, dim=2)
    return Outputs(normalize(true + bias * style, dim=1), true, output, style)


def learn_direction(
    world: Outputs, chance: Tensor, *, omega: float, renormalise: bool, steps: int, lr: float
) -> Tensor:
    """Stage 1: the vector b that makes the frozen policy's outputs score best, shared by all prompts.

    Adam down ``-E[reward(x, e~(b))]`` over prompts and the policy's ``chance`` [C, X], from b = 0. Outputs are drawn
    without limit: expectations are exact. The reward model is read, never changed.
    """
    mean = (chance[..., None] * world.output).sum(1)
    b = torch.zeros(world.text.shape[1], dtype=world.text.dtype, requires_grad=True)
    optimiser = torch.optim.Adam([b], lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        direction = corrected_direction(world.text, b, omega=omega, renormalise=renormalise)
        loss = -(mean * direction).sum(1).mean()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
    return b.detach()


def direction_study(
    *,
    correction: Correction = "learned",
    seed: int = 0,
    bias: float = 1.0,
    omega: float = 1.5,
    renormalise: bool = True,
    stage1_steps: int = 200,
    stage1_lr: float = 0.01,
    updates: int = 400,
    lr: float = 0.1,
    beta: float = 0.02,
) -> dict[str, Any]:
    """Optimise a policy against a biased embedding reward, with its direction corrected or as it is.

    Stage 1 learns b on the frozen, uniform policy (`learn_direction`). Stage 2 holds it and climbs
    ``E[reward] - beta * KL(policy || start)`` by Adam on the exact gradient, for ``updates`` steps at ``lr``.
    ``correction`` is ``learned``; ``none``, the plain reward, given stage 1's steps as further updates; ``reversed``,
    -b; or ``random``, a direction drawn at random, of b's length.

    Returns means over the prompts: ``kept``, the effective number of outputs (exp of the entropy); ``gold``, as a share
    of the best output's; ``distance``, the mean of 1 - cosine over two draws; ``reward``, the plain one. ``lean`` is
    how far e~ leans to the planted style (``bias`` where it is not corrected), ``length`` that of b. Raises
    SettingError for numbers out of bounds. Source: Chen et al. 2025, D2-Align; the bandit is ours.
    """
    if min(updates, stage1_steps) < 0 or not (lr > 0 and stage1_lr > 0 and beta >= 0):
        raise SettingError("direction_study: steps and beta are 0 or more, rates above 0")
    if correction not in Correction.__args__:
        raise SettingError(f"direction_study: correction={correction!r}; it is {', '.join(Correction.__args__)}")
    world = outputs(seed, bias=bias)
    start = torch.full(world.output.shape[:2], 1 / world.output.shape[1], dtype=world.text.dtype)
    b = torch.zeros(world.text.shape[1], dtype=world.text.dtype)
    if correction == "none":
        updates += stage1_steps
    else:
        b = learn_direction(world, start, omega=omega, renormalise=renormalise, steps=stage1_steps, lr=stage1_lr)
    if correction == "reversed":
        b = -b
    elif correction == "random":
        rng = torch.Generator().manual_seed(seed + 1)
        b = (b**2).sum().sqrt() * normalize(torch.randn(len(b), generator=rng, dtype=b.dtype), dim=0)
    direction = corrected_direction(world.text, b, omega=omega, renormalise=renormalise)
    chance = _optimised(world.reward(direction), updates, lr, beta)
    return {**_told(world, chance), "lean": float(world.lean(direction).mean()), "length": float((b**2).sum().sqrt())}


def _optimised(reward: Tensor, updates: int, lr: float, beta: float) -> Tensor:
    """Chances [C, X] of a softmax policy, uniform at the start, after training."""
    logits = torch.zeros_like(reward, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=lr)
    for _ in range(updates):
        optimiser.zero_grad()
        logp = logits.log_softmax(1)
        loss = -(logp.exp() * (reward - beta * logp)).sum()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
    return logits.detach().softmax(1)


def _told(world: Outputs, chance: Tensor) -> dict[str, float]:
    mean, gold = (chance[..., None] * world.output).sum(1), world.reward(world.true)
    entropy = -(chance * chance.clamp(min=1e-300).log()).sum(1)
    return {
        "kept": float(entropy.exp().mean()),
        "gold": float(((chance * gold).sum(1) / gold.amax(1)).mean()),
        "distance": float(1 - (mean**2).sum(1).mean()),
        "reward": float((chance * world.reward(world.text)).sum(1).mean()),
    }
