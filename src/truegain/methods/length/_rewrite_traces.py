from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError, WiringError, nearest
from truegain.core.types import Resampled, Rollout
from truegain.methods.length._rewriting import REWRITING, one_each, rewriting, trace_of


@component("resample", cite="arXiv:2601.04973")
def rewrite_traces(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    candidates: int = 8,
    attempts: int = 4,
    template: str = REWRITING,
    opening: str = "<think>",
    closing: str = "</think>",
    role: str = "reasoner",
) -> Resampled:
    """Train on shortening traces instead of on solving: the rows are rewritings of ``role``'s right traces.

    ``role`` solves each problem of the step up to ``attempts`` times at the loop's temperature; its first right trace,
    without the marks, is shown to the policy in ``template`` (``{prompt}``, ``{trace}``), which writes ``candidates``
    shorter ones: the group. Problems that ``role`` does not solve give no rows. What the loop drew first, the policy's
    own solutions, is dropped; keep ``loop.samples`` at 1. One round per step.

    Raises SettingError for fewer than one attempt, fewer than two candidates or a template without ``{trace}``,
    WiringError for a role that the form does not have. Source: ConMax 2026, section 3: rejection sampling, then GRPO on
    the rewriting task.

    >>> from types import SimpleNamespace as Some
    >>> from truegain.core.types import Problem
    >>> right, said = {"correct": 1.0}, "<think>2+2=4</think>4"
    >>> row = Rollout(Problem("a", "2+2?"), (), (1,), (0.0,), said, "eos", (), facts=right)
    >>> asked = []
    >>> loop = Some(round=0, again=lambda problems, n, role="policy": asked.append((problems[0].prompt, role)) or [row])
    >>> found = rewrite_traces({"policy": None, "reasoner": None}, loop, [row], template="{prompt} {trace} shorter")
    >>> asked, len(found.add), found.drop
    ([('2+2?', 'reasoner'), ('2+2? 2+2=4 shorter', 'policy')], 1, [0])
    """
    if candidates < 2 or attempts < 1:
        raise SettingError(f"rewrite_traces: candidates={candidates} must be 2 or more, attempts={attempts} 1 or more")
    if role not in roles:
        raise WiringError(f"rewrite_traces reads role {role!r}{nearest(role, set(roles))}, which the form lacks")
    if draw.round > 0:
        return Resampled()
    problems = list({r.problem.id: r.problem for r in rollouts}.values())
    solved = one_each(draw.again(problems, attempts, role=role))
    asked = [rewriting(r.problem, trace_of(r.text, opening, closing), template) for r in solved]
    added: list[Rollout] = draw.again(asked, candidates) if asked else []
    return Resampled(add=added, drop=list(range(len(rollouts))))
