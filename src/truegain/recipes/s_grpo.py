"""S-GRPO: exits along one path, of which the earliest right one earns most."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, length, objective


@system(
    "length",
    paper="arXiv:2505.07686",
    cite="Dai et al. 2025, S-GRPO: early exit via reinforcement learning in reasoning models",
    differs="places of exit are different ones; only the mark that ends the thought is written at an exit, as the tiny "
    "policy cannot read the paper's sentence (`early_exits.inducer`), and that mark is in the loss, as to write it is "
    "what is learned (`early_exits.trained`); the shared beginning is in the loss of every row (prefix=False leaves it "
    "to the whole path); answers have 32 tokens; one optimiser step per batch; lr suits the tiny policy",
)
def s_grpo(exits: int = 7, decay: float = 2.0, prefix: bool = True, clip: float = 0.2) -> Train:
    """One path per problem and ``exits`` early ends of it; right ones earn 1, 1/decay, ... from the earliest on.

    Advantages are rewards less the mean of path and exits, undivided. ``decay`` 1 is the plain outcome, infinity pays
    the earliest right exit alone. ``prefix=False`` trains of each exit what comes after it left the path. ``clip``
    bounds the ratio.
    """
    weights: Stage = (
        objective.sequence_mean if prefix else (objective.sequence_mean, partial(objective.after_cut, rescale=False))
    )
    term = Term(
        credit=partial(credit.group_normalise, std="none"),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=weights,
    )
    return Train(
        resample=partial(length.early_exits, exits=exits),
        probe=partial(credit.fork_cuts, parents=False),
        reward=partial(length.earliest_right, decay=decay),
        terms=(term,),
        loop=Loop(samples=1, lr=1e-4),
    )
