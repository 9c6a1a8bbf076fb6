from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.probing import CLOSING, OPENING, mean_or_nan, tokens_before
from truegain.core.types import Pair, Rollout, Turn
from truegain.methods.length._reflections import REFLECTIONS
from truegain.methods.length._thoughts import Cutting, verdict


@component("search", cite="arXiv:2505.21765")
def exit_and_prune(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    threshold: float = 0.75,
    samples: int = 4,
    prune: bool = True,
    max_tokens: int = 32,
    temperature: float = 0.6,
    words: tuple[str, ...] = REFLECTIONS,
    boundary: str = "\n",
    opening: str = "<think>",
    closing: str = CLOSING,
    answering: str = OPENING,
    role: str = "policy",
) -> list[Pair]:
    """Cut each trace where it is good enough, take out what does not help, and pair it with how it was.

    Thoughts d_1 .. d_K are runs of lines, each begun by a line that begins with one of ``words``. After each of them
    ``closing + answering`` is written and ``samples`` answers of at most ``max_tokens`` are drawn:

        p_i = share of right answers after d_1 .. d_i      exit = the first i with p_i >= threshold

    The optimised trace is d_1 .. d_exit with its shortest right answer; without an exit it is the whole trace. With
    ``prune`` each thought of it but the first, the last one first, is then taken out if one answer drawn from what is
    left is right. What is written in closing counts as the policy's: to stop is what is to be learned.

    Per problem, chosen is the shortest right optimised trace, rejected the longest wrong one of the ``rollouts``, or
    the longest of all where none is wrong; no pair where nothing is right, or where both are right and chosen is not
    shorter in tokens. The pair's meta ``exit`` (thoughts kept; 0 for no exit) and ``thoughts`` (of the trace that
    chosen was) are those of chosen. Cost: thoughts * (samples + 1) short answers per trace.

    Raises SettingError for a threshold outside (0, 1] or fewer than one sample or token.
    Source: An et al. 2025, section 3.

    >>> from types import SimpleNamespace as Some
    >>> from truegain.core.types import Problem
    >>> def row(text, right):
    ...     ids, facts = tuple(text.encode()), {"correct": right}
    ...     return Rollout(Problem("a", "a"), (), ids, (0.0,) * len(ids), text, "eos", (), facts=facts)
    >>> policy = Some(decode=lambda ids: bytes(ids).decode(), eos_ids=())
    >>> def said(places, n, **how): return [row(r.text[:cut] + ">7", float(cut > 2)) for r, cut in places]
    >>> old = row("a\\nwait\\nbut\\nb>7", 1.0)
    >>> [pair] = exit_and_prune({"policy": Some(policy=policy)}, Some(fork=said), [old], closing=">", samples=1)
    >>> pair.chosen, pair.meta
    ('a\\nwait\\n>7', {'exit': 2, 'thoughts': 3})
    """
    if not 0 < threshold <= 1 or samples < 1 or max_tokens < 1:
        raise SettingError(
            f"exit_and_prune: threshold={threshold} lies in (0, 1], samples={samples} and max_tokens={max_tokens} are "
            "1 or more"
        )
    cutting, decode = Cutting(words, boundary, opening, closing), roles[role].policy.decode
    how = {"insert": closing + answering, "max_tokens": max_tokens, "temperature": temperature, "role": role}
    traces = [r for r in rollouts if "abstained" not in r.facts]
    ends = [thought_ends(r, decode, cutting) for r in traces]
    places = [(r, cut) for r, cuts in zip(traces, ends, strict=True) for cut in cuts]
    drawn: list[Rollout] = draw.fork(places, samples, **how) if places else []
    answers = iter([drawn[n * samples : (n + 1) * samples] for n in range(len(places))])
    better: list[tuple[Rollout, dict[str, int]]] = []
    for trace, cuts in zip(traces, ends, strict=True):
        tried = [next(answers) for _ in cuts]
        chances = [mean_or_nan([verdict(r) for r in rows if "abstained" not in r.facts]) for rows in tried]
        place = first_exit(chances, threshold)
        kept = trace if place is None else min(filter(verdict, tried[place]), key=lambda r: len(r.ids))
        last = len(cuts) if place is None else place + 1
        if prune and verdict(kept):
            kept = _pruned(draw, kept, [0, *cuts[:last]] if cuts else [], how)
        better.append((kept, {"exit": 0 if place is None else place + 1, "thoughts": len(cuts)}))
    return _pairs(roles[role].policy, traces, better)


def first_exit(chances: Sequence[float], threshold: float) -> int | None:
    """The first place whose chance reaches the threshold; None if none does. NaN reaches nothing.

    >>> first_exit([0.1, 0.3, 0.8, 0.9], 0.75)
    2
    """
    return next((n for n, chance in enumerate(chances) if chance >= threshold), None)


def thought_ends(rollout: Rollout, decode: Any, cutting: Cutting) -> list[int]:
    """How many tokens there are up to the end of each thought."""
    starts = cutting.thoughts(rollout.text)
    ends = [*starts[1:], cutting.bounds(rollout.text)[1]] if starts else []
    cuts = [tokens_before(rollout, decode, end) for end in ends]
    return [cut for n, cut in enumerate(cuts) if cut > (cuts[n - 1] if n else 0)]


def _pruned(draw: Any, trace: Rollout, bounds: Sequence[int], how: Mapping[str, Any]) -> Rollout:
    """The trace without every thought ``bounds[n] : bounds[n + 1]`` that an answer can do without, the first kept."""
    pieces = [(trace.ids[a:b], trace.engine_logp[a:b]) for a, b in pairwise(bounds)]
    for n in reversed(range(1, len(pieces))):
        left = pieces[:n] + pieces[n + 1 :]
        ids, logp = (tuple(chain.from_iterable(part)) for part in zip(*left, strict=True))
        begun = replace(trace, ids=ids, engine_logp=logp, turns=(Turn("policy", 0, len(ids)),), text="")
        (found,) = draw.fork([(begun, len(ids))], 1, **how)
        if verdict(found):
            pieces, trace = left, found
    return trace


def _pairs(policy: Any, traces: Sequence[Rollout], better: Sequence[tuple[Rollout, dict[str, int]]]) -> list[Pair]:
    """One pair per problem that has a right optimised trace."""

    def text(rollout: Rollout) -> str:
        ended = bool(rollout.ids) and rollout.ids[-1] in policy.eos_ids
        return policy.decode(rollout.ids[:-1] if ended else rollout.ids)

    found: list[Pair] = []
    for name in dict.fromkeys(r.problem.id for r in traces):
        old = [r for r in traces if r.problem.id == name]
        new = [one for one, r in zip(better, traces, strict=True) if r.problem.id == name and verdict(one[0])]
        if not new:
            continue
        chosen, meta = min(new, key=lambda one: len(one[0].ids))
        wrong = [r for r in old if not verdict(r)]
        rejected = max(wrong or old, key=lambda r: len(r.ids))
        if wrong or len(chosen.ids) < len(rejected.ids):
            problem = rejected.problem
            found.append(Pair(name, problem.prompt, text(chosen), text(rejected), {**problem.meta, **meta}))
    return found
