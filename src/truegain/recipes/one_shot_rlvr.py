"""One-shot RLVR: GRPO on a single example."""

from __future__ import annotations

from functools import partial

from truegain.core.component import Member
from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, exploration, objective, reward


@system(
    "objective",
    paper="arXiv:2504.20571",
    cite="Wang et al. 2025, Reinforcement learning for reasoning with one training example",
    differs="the example is the first problem of the run: rank a full run's examples with "
    "`exploration.accuracy_variance` and give the best one as a file; the variance is the population's (the ranking is "
    "the same); one optimiser step per batch; each step draws one further group and drops it; reflection words are not "
    "counted; lr suits the tiny policy (source 1e-6)",
)
def one_shot_rlvr(
    examples: int = 1, copies: int = 16, policy: bool = True, beta: float = 0.001, entropy: float = 0.001
) -> Train:
    """GRPO with a penalty to the reference and an entropy bonus, on one problem repeated to fill the batch.

    ``examples`` problems are trained on, ``copies`` of each per step. ``policy=False`` leaves the policy gradient out,
    ``beta`` = 0 the penalty, ``entropy`` = 0 the bonus: the paper's ablations, with ``loop.weight_decay`` for the last.
    """
    surrogates: list[Member] = [objective.ppo_clip] if policy else []
    surrogates += [partial(objective.kl_to_reference, beta=beta)] if beta > 0 else []
    surrogates += [partial(objective.entropy_bonus, coefficient=entropy)] if entropy != 0 else []
    term = Term(credit=credit.group_normalise, surrogate=tuple(surrogates), weight=objective.sequence_mean)
    return Train(
        reward=reward.outcome,
        resample=partial(exploration.replicate, examples=examples, copies=copies),
        terms=(term,),
        roles={"reference": Role(source="init", fills="ref_logp")} if beta > 0 else {},
        loop=Loop(prompts=examples, samples=8, temperature=0.6, lr=1e-4),
    )
