from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.probing import tokens_before
from truegain.core.types import Rollout
from truegain.methods.length._answer_places import answer_end
from truegain.methods.length._embeddings import Embed, embedding

# A sentence ends at a line's end, or at a mark with white space behind it; not inside of $..$, \(..\) or \[..\]
_MATHS = re.compile(r"\$\$.*?\$\$|\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL)
_END = re.compile(r"(?<=[.!?])\s+|\n+")


@component(
    "probe",
    cite=("arXiv:2508.02178", "github.com/HenryZhen97/Reconsidering-Overthinking"),
    fills=("internal_redundancy", "external_redundancy"),
)
def redundancy_of(
    roles: Mapping[str, Any],
    rollouts: Sequence[Rollout],
    *,
    window: float = 0.1,
    stride: float = 0.05,
    embed: str = "words",
    opening: str = "<think>",
    closing: str = "</think>",
    role: str = "policy",
) -> dict[str, Tensor]:
    r"""How much a thought repeats itself before it first states the answer, and how much of it comes after.

    The thought stands between ``opening`` (which may be missing) and the one ``closing``. FCS is its text up to the
    first place that states the reference answer (`answer_end`). Of the FCS's N sentences, with w = max(1,
    floor(window N)) and t = max(1, floor(stride N)), windows of w sentences begin at 0, t, 2t, .. <= N - w, and

        internal_redundancy[B]  mean over neighbours of clip(cos(e_m, e_{m+1}), 0, 1), e the windows' embeddings;
                                0 for one sentence, or fewer than two windows
        external_redundancy[B]  tokens after the FCS / tokens of the thought, both in [0, 1]

    NaN in both where there is no such thought: no or several ``closing``, nothing in it, or the answer not found in it.
    Sentences end at lines' ends and at marks with white space behind them, not inside of LaTeX maths. ``embed`` names
    an embedding (`register_embedding`). Costs no model call, unless the embedding is one.

    Raises SettingError for shares outside (0, 1] or an unknown embedding. Source: Hong et al. 2025, section 3, and its
    published code.

    >>> from types import SimpleNamespace as Some
    >>> from truegain.core.types import Problem
    >>> said = "try 6. try 6. so 42\nsure</think>42"
    >>> row = Rollout(Problem("a", "a", "42"), (), tuple(range(len(said))), (), said, "eos", ())
    >>> policy = Some(decode=lambda ids: said[: len(ids)])
    >>> found = redundancy_of({"policy": Some(policy=policy)}, [row])
    >>> found["internal_redundancy"], found["external_redundancy"]
    (tensor([0.5000]), tensor([0.2083]))
    """
    if not (0 < window <= 1 and 0 < stride <= 1):
        raise SettingError(f"redundancy_of: window={window} and stride={stride} are shares, above 0 and at most 1")
    decode, how = roles[role].policy.decode, embedding(embed)
    nothing = (float("nan"), float("nan"))
    found = [nothing] * len(rollouts)
    for n, rollout in enumerate(rollouts):
        text, answer = rollout.text, rollout.problem.answer
        end = text.find(closing)
        begin = text.find(opening, 0, max(end, 0)) + len(opening) if opening in text[: max(end, 0)] else 0
        said = None if answer is None or end < 0 else answer_end(text[:end], answer, begin)
        if said is None or text.count(closing) != 1:
            continue
        first, stop, last = (tokens_before(rollout, decode, place) for place in (begin, said, end))
        inner = repetition(sentences(text[begin:said]), window, stride, how)
        found[n] = (inner, (last - stop) / max(last - first, 1))
    values = torch.tensor(found, dtype=torch.float32).reshape(-1, 2)
    return {"internal_redundancy": values[:, 0], "external_redundancy": values[:, 1]}


def sentences(text: str) -> list[str]:
    r"""The sentences of a text, LaTeX maths kept whole.

    >>> sentences("So $a. b$ holds. Then 3.5 is it!\n\nDone")
    ['So $a. b$ holds.', 'Then 3.5 is it!', 'Done']
    """
    kept = [found.span() for found in _MATHS.finditer(text)]
    cuts = [hit.span() for hit in _END.finditer(text) if not any(a < hit.start() < b for a, b in kept)]
    starts, ends = [0, *(b for _, b in cuts)], [*(a for a, _ in cuts), len(text)]
    return [text[a:b].strip() for a, b in zip(starts, ends, strict=True) if text[a:b].strip()]


def repetition(said: Sequence[str], window: float, stride: float, embed: Embed) -> float:
    """IRD: how alike neighbouring windows of sentences are, in [0, 1]."""
    count = len(said)
    width, step = max(1, int(window * count)), max(1, int(stride * count))
    starts = range(0, count - width + 1, step)
    if len(starts) < 2:
        return 0.0
    vectors = torch.nn.functional.normalize(embed([" ".join(said[a : a + width]) for a in starts]).double(), dim=1)
    return float((vectors[:-1] * vectors[1:]).sum(dim=1).clamp(0, 1).mean())
