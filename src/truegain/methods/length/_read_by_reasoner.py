from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import WiringError, nearest
from truegain.core.probing import CLOSING, ENDING, OPENING
from truegain.core.types import Request, Rollout
from truegain.methods.length._rewriting import original


@component("probe", cite="arXiv:2601.04973", fills=("read_answer", "read_trace"))
def read_by_reasoner(
    roles: Mapping[str, Any],
    rollouts: Sequence[Rollout],
    *,
    opening: str = "<think>",
    closing: str = CLOSING,
    answering: str = OPENING,
    ending: str = ENDING,
    role: str = "reasoner",
) -> dict[str, Tensor]:
    """What a frozen reasoner that sees the question alone makes of a shortened trace z: how likely, and how useful.

        read_trace[B]   mean over z's tokens of log p(z_j | x, opening, z_<j)
        read_answer[B]  mean over y's tokens of log p(y_i | x, opening, z, closing + answering, y_<i)

    x is the prompt of the problem itself, without the trace that was shown (`rewrite_traces`), y the reference answer
    and ``ending``. z is the row without ``opening``, should it write it, up to ``closing`` or its end mark.
    Both are 0 or less. ``read_trace`` is NaN for an empty z, ``read_answer`` without a reference answer. Cost: one
    pass over x, z and y per row.

    Raises WiringError for a role that the form does not have. Source: ConMax 2026, equations 3 to 5.

    >>> from types import SimpleNamespace as Some
    >>> from truegain.core.types import Problem
    >>> row = Rollout(Problem("a", "q", "4"), (), (7, 8), (0.0,) * 2, "zz", "eos", ())
    >>> policy = Some(encode=lambda s: (3,) * len(s), encode_prompt=len, eos_ids=())
    >>> policy.encode_prompt = lambda prompt: (1,)
    >>> def score(asked): return [tuple(-1.0 * (len(r.trunk) + n) for n in range(len(r.suffix))) for r in asked]
    >>> engine = Some(score=score)
    >>> read_by_reasoner({"reasoner": Some(policy=policy, engine=engine)}, [row], opening="", closing="|", ending="")
    {'read_answer': tensor([-12.]), 'read_trace': tensor([-1.5000])}
    """
    if role not in roles:
        raise WiringError(f"read_by_reasoner reads with role {role!r}{nearest(role, set(roles))}, which the form lacks")
    policy, engine = roles[role].policy, roles[role].engine
    given = policy.encode(closing + answering)
    rows = [inner(policy, r, opening, closing) for r in rollouts]
    starts = [(*policy.encode_prompt(original(r.problem).prompt), *policy.encode(opening)) for r in rollouts]
    traces = engine.score([Request(start, suffix=z) for start, z in zip(starts, rows, strict=True)])
    wanted = [() if r.problem.answer is None else policy.encode(r.problem.answer + ending) for r in rollouts]
    parts = zip(starts, rows, wanted, strict=True)
    answers = engine.score([Request((*start, *z, *given), suffix=y) for start, z, y in parts])
    return {"read_answer": _means(answers), "read_trace": _means(traces)}


def inner(policy: Any, rollout: Rollout, opening: str, closing: str) -> tuple[int, ...]:
    """The tokens of the thought that a row says, from ``opening`` (or its start) to ``closing`` or its end mark."""
    ids = rollout.ids[:-1] if rollout.ids and rollout.ids[-1] in policy.eos_ids else rollout.ids
    begins, ends = policy.encode(opening), policy.encode(closing)
    if begins and ids[: len(begins)] == begins:
        ids = ids[len(begins) :]
    places = range(len(ids) - len(ends) + 1) if ends else ()
    end = next((n for n in places if ids[n : n + len(ends)] == ends), len(ids))
    return ids[:end]


def _means(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor([sum(row) / len(row) if row else float("nan") for row in rows], dtype=torch.float32)
