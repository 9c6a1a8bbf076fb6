from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from truegain.core.component import component
from truegain.core.draws import child_key, uniforms
from truegain.core.errors import SettingError
from truegain.core.probing import tokens_before
from truegain.core.types import Rollout
from truegain.methods.length._reflections import REFLECTIONS
from truegain.methods.length._thoughts import Cutting, verdict


@dataclass
class _Open:
    """A trace while it is revised: ``thought`` thoughts of it are settled."""

    trace: Rollout
    thought: int = 1
    replaced: int = 0


@component("search", cite="arXiv:2504.04383")
def retro_search(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    gamma: float = 0.9,
    samples: int = 1,
    tries: int = 4,
    words: tuple[str, ...] = REFLECTIONS,
    boundary: str = "\n",
    opening: str = "<think>",
    closing: str = "</think>",
    begin: Literal["first", "random"] = "first",
    keep: Literal["right", "all"] = "right",
    role: str = "policy",
) -> list[Rollout]:
    """Go back to each change of mind in a trace, have it not happen, and keep the new ending where it is better.

    A step is a line; a thought a run of steps, and the next one begins at a step that begins with one of ``words``. At
    the end of thought 1, 2, .. of the trace as it stands, ``role`` goes on, but for the next step must not change its
    mind: of ``tries`` continuations the first ``samples`` whose first step begins with no such word are looked at. The
    rest of the trace is replaced by the one of highest value if that is more than the value of what stands there:

        V = gamma^(steps that remain behind the first one) * 1[the answer is right]

    Ties keep the original. So a right trace stays right and never gets longer, a wrong one is replaced by any right
    ending, and where no ending is better all stays as it was. ``begin="random"`` settles a random number of thoughts
    unseen, for expensive traces. ``keep`` says which traces are returned: right ones, or all. Their fact ``replaced``
    counts revisions, ``steps`` what remains of them. Traces that abstained are left out; one without a change of mind
    comes back as it is. Cost: thoughts * tries continuations per trace.

    Raises SettingError for a ``gamma`` outside (0, 1], fewer than one sample, or fewer tries than samples.
    Source: Lu et al. 2025 (Retro-Search), section 3.

    >>> from types import SimpleNamespace as Some
    >>> from truegain.core.types import Problem
    >>> def row(text, right): return Rollout(
    ...     Problem("a", "a"), (), tuple(text.encode()), (0.0,) * len(text), text, "eos", (), facts={"correct": right})
    >>> policy = Some(decode=lambda ids: bytes(ids).decode())
    >>> loop = Some(fork=lambda places, n, role: [row("a\\nwait, b\\n9", 1.0), row("a\\n9", 1.0)])
    >>> old = row("a\\nwait, b\\nc\\n9", 1.0)
    >>> [r.text for r in retro_search({"policy": Some(policy=policy)}, loop, [old], tries=2)]
    ['a\\n9']
    """
    if not 0 < gamma <= 1 or samples < 1 or tries < samples:
        raise SettingError(f"retro_search: gamma={gamma} lies in (0, 1], samples={samples} in 1 to tries={tries}")
    cutting = Cutting(words, boundary, opening, closing)
    decode = roles[role].policy.decode
    traces = [_Open(r) for r in rollouts if "abstained" not in r.facts]
    for one in traces:
        count = len(cutting.thoughts(one.trace.text))
        if begin == "random" and count > 1:
            luck = uniforms(torch.tensor([child_key(one.trace.key, -1)]), 0)
            one.thought = 1 + int(float(luck) * (count - 1))
    while live := [one for one in traces if one.thought < len(cutting.thoughts(one.trace.text))]:
        ends = [cutting.thoughts(one.trace.text)[one.thought] for one in live]
        cuts = [tokens_before(one.trace, decode, end) for one, end in zip(live, ends, strict=True)]
        places = [(one.trace, cut) for one, cut in zip(live, cuts, strict=True)]
        drawn = draw.fork(places, tries, role=role)
        for n, (one, end) in enumerate(zip(live, ends, strict=True)):
            found = [r for r in drawn[n * tries : (n + 1) * tries] if _stays(r.text, end, cutting)][:samples]
            best = max(found, key=lambda r: value(r, end, gamma, cutting), default=None)
            if best is not None and value(best, end, gamma, cutting) > value(one.trace, end, gamma, cutting):
                one.trace, one.replaced = best, one.replaced + 1
            one.thought += 1
    out = [
        replace(
            one.trace,
            facts={**one.trace.facts, "replaced": one.replaced, "steps": len(cutting.steps(one.trace.text))},
        )
        for one in traces
    ]
    return [trace for trace in out if keep == "all" or verdict(trace)]


def value(trace: Rollout, at: int, gamma: float, cutting: Cutting) -> float:
    """gamma ** (steps behind the one that begins at or after character ``at``), 0 for a wrong answer."""
    left = sum(start >= at for start in cutting.steps(trace.text))
    return verdict(trace) * gamma ** max(left - 1, 0)


def _stays(text: str, at: int, cutting: Cutting) -> bool:
    """True if what was drawn from character ``at`` on does not begin with a change of mind."""
    starts = [start for start in cutting.steps(text) if start >= at]
    return not starts or not cutting.turns(text, starts[0])
