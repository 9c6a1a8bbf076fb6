"""ProRAG: reinforcement learning with process supervision for retrieval-augmented answers."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Decode, Fit, Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, preference, reward, search


@system(
    "credit",
    paper="arXiv:2601.21912",
    cite="Wang, Zhao and Dou 2026, ProRAG",
    differs="a step is what ends with a tool call, the answer is the last; the simulation of a new node is the "
    "completion that its step was cut from (paper: rolled out again); 8 simulations of width 4 (paper 200 of 5); all "
    "siblings of different value are pairs, and no judge drops unsound ones; the worst step must score 0 or more in "
    "the rejection stage (source: the trajectory's logit); a broken step has no penalty of its own (script -2, and +1 "
    "for a sound format), the format counts with the outcome; the pool of the process channel is the group; every "
    "weight is trained (paper: LoRA); lr and counts suit the tiny policy (paper lr 1e-5)",
)
def prorag(
    beta: float = 0.3, simulations: int = 8, width: int = 4, floor: float = 0.2, lr: float = 1e-4
) -> tuple[Fit, Decode, Fit, Decode, Fit, Train]:
    """Learn to search, grow trees, fit a process reward model to sibling steps, keep what it finds sound, then RL.

    The outcome's advantage and ``beta`` times that of the step's score add up; 0 is outcome GRPO. ``simulations`` and
    ``width`` are those of the trees, ``floor`` the word F1 below which an answer earns nothing. Needs a task with
    demonstrations; ``search,style=trace`` asks for two hops from level 3 on.
    """
    segment = {"step": partial(credit.by_step, delimiter="</tool>")}
    judge = Role(source="chain", fills="step_reward", head=True)
    learn = Term(surrogate=objective.negative_logp, weight=objective.token_mean)
    dual = Term(
        credit=(partial(credit.group_normalise, eps=1e-4), partial(credit.step_scores, scale=beta)),
        surrogate=objective.ppo_clip,
        weight=objective.sequence_mean,
    )
    return (
        Fit(terms=(learn,), loop=Loop(steps=200, prompts=64, lr=lr, warmup=10, decay="cosine", micro_tokens=4096)),
        Decode(
            segment=segment,
            search=partial(search.sibling_steps, simulations=simulations, width=width),
            loop=Loop(steps=16, prompts=16),
        ),
        Fit(
            terms=(),
            pair=preference.bradley_terry,
            roles={"steps": Role(source="init", fills="model_reward", head=True, lr=3 * lr)},
            loop=Loop(steps=200, prompts=32, warmup=10, decay="linear", lr=lr),
        ),
        Decode(
            segment=segment,
            search=search.keep_sound,
            roles={"steps": judge},
            loop=Loop(steps=16, prompts=32, samples=4),
        ),
        Fit(terms=(learn,), loop=Loop(steps=32, prompts=64, lr=lr, warmup=3, decay="cosine", micro_tokens=4096)),
        Train(
            score=reward.word_f1,
            reward=(partial(reward.floored_score, floor=floor), partial(reward.well_formed, scale=1.0, broken=-1.0)),
            segment=segment,
            terms=(dual,),
            roles={"steps": judge},
            loop=Loop(prompts=16, samples=8, lr=lr),
        ),
    )
