from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError, WiringError, nearest
from truegain.core.probing import CLOSING
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods.length._read_by_reasoner import inner
from truegain.methods.length._rewriting import REWRITING, one_each, original, rewriting, trace_of
from truegain.methods.length._thoughts import verdict


@component("search", cite="arXiv:2601.04973")
def compress_traces(
    roles: Mapping[str, Any],
    draw: Any,
    problems: Sequence[Problem],
    *,
    attempts: int = 4,
    finishes: int = 1,
    temperature: float = 0.6,
    template: str = REWRITING,
    opening: str = "<think>",
    closing: str = CLOSING,
    role: str = "reasoner",
) -> list[Rollout]:
    """Have the policy shorten ``role``'s right traces, and ``role`` go on from the short ones: examples to learn from.

    ``role`` solves each problem up to ``attempts`` times at the loop's temperature; the policy rewrites its first right
    trace once, shown in ``template``, at ``temperature``; ``role`` is given the problem's own prompt, ``opening``, the
    short trace and ``closing``, and finishes up to ``finishes`` times. The first right one is kept, as if all of it had
    been written in answer to the problem. Problems without one are left out. The fact ``saved`` is the share of the
    trace's tokens that is gone.

    Raises SettingError for fewer than one attempt or finish, WiringError for a role that the form does not have.
    Source: ConMax 2026, section 3.

    >>> from types import SimpleNamespace as Some
    >>> def row(text, right=0.0):
    ...     ids, facts = tuple(text.encode()), {"correct": right}
    ...     return Rollout(Problem("a", "q"), (1,), ids, (0.0,) * len(ids), text, "eos", (), facts=facts)
    >>> policy = Some(encode=lambda s: tuple(s.encode()), encode_prompt=lambda p: (1,), eos_ids=(), decode=None)
    >>> def again(asked, n, role="policy", temperature=None):
    ...     return [row("aabb>9", 1.0) if role == "reasoner" else row("ab")]
    >>> def fork(places, n, role): return [row(bytes(r.ids).decode() + "9", 1.0) for r, _ in places]
    >>> roles = {"policy": Some(policy=policy), "reasoner": Some(policy=policy)}
    >>> found = compress_traces(roles, Some(again=again, fork=fork), [Problem("a", "q")], opening="", closing=">")
    >>> found[0].text, found[0].facts["saved"]
    ('ab>9', 0.5)
    """
    if min(attempts, finishes) < 1:
        raise SettingError(f"compress_traces: attempts={attempts} and finishes={finishes} are 1 or more")
    if role not in roles:
        raise WiringError(f"compress_traces reads role {role!r}{nearest(role, set(roles))}, which the form lacks")
    policy = roles["policy"].policy
    solved = {r.problem.id: r for r in one_each(draw.again(list(problems), attempts, role=role))}
    asked = [rewriting(r.problem, trace_of(r.text, opening, closing), template) for r in solved.values()]
    short = [r for r in draw.again(asked, 1, temperature=temperature) if inner(policy, r, opening, closing)]
    begun = [_begun(policy, r, opening, closing) for r in short]
    drawn: list[Rollout] = draw.fork([(r, len(r.ids)) for r in begun], finishes, role=role) if begun else []
    found: list[Rollout] = []
    for n, start in enumerate(begun):
        right = [r for r in drawn[n * finishes : (n + 1) * finishes] if verdict(r)]
        if right:
            old = len(policy.encode(trace_of(solved[start.problem.id].text, opening, closing)))
            new = len(inner(policy, short[n], opening, closing))
            facts = {**right[0].facts, "saved": 1 - new / max(old, 1)}
            turns = (Turn("policy", 0, len(right[0].ids)),)
            found.append(replace(right[0], facts=facts, turns=turns, parent=None, cut=None))
    return found


def _begun(policy: Any, short: Rollout, opening: str, closing: str) -> Rollout:
    """The short trace as the beginning of an answer to the problem itself."""
    ids = (*policy.encode(opening), *inner(policy, short, opening, closing), *policy.encode(closing))
    problem = original(short.problem)
    return replace(
        short,
        problem=problem,
        prompt_ids=policy.encode_prompt(problem.prompt),
        ids=ids,
        engine_logp=(0.0,) * len(ids),
        turns=(Turn("policy", 0, len(ids)),),
        facts={},
        context=None,
    )
