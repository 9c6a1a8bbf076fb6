"""HDPO: accuracy and economy of tool calls as two losses, economy compared among right answers alone."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2604.08545",
    cite="Act Wisely: Cultivating Meta-Cognitive Tool Use in Agentic Multimodal Models, 2026",
    differs="text instead of images; the supervised cold start, described in prose only, is left out; "
    "one optimiser step per batch; lr suits the tiny policy",
)
def hdpo_metis(
    w_acc: float = 1.0, w_tool: float = 0.15, answer_weight: float = 0.9, format_weight: float = 0.1, clip: float = 0.2
) -> Train:
    """GRPO on the answer, and a second clipped loss on ``1 / (calls + 1)`` standardised among a group's right answers.

    ``w_acc`` and ``w_tool`` weigh the two losses; each has its own denominator, the second over the rows it credits.
    ``w_tool`` 0 is GRPO. Needs a task with tools, such as ``calculator`` or ``search``.
    """
    clipped = partial(objective.ppo_clip, clip_low=clip, clip_high=clip)
    accuracy = Term(credit=credit.group_normalise, surrogate=clipped, weight=objective.token_mean, scale=w_acc)
    economy = Term(credit=credit.tool_economy, surrogate=clipped, weight=objective.credited_mean, scale=w_tool)
    return Train(
        reward=(partial(reward.outcome, right=answer_weight), partial(reward.well_formed, scale=format_weight)),
        terms=(accuracy, economy),
        loop=Loop(samples=8, lr=1e-4),
    )
