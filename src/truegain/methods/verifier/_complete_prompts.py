from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Problem, Rollout
from truegain.methods.verifier._rouge_l import rouge_l


@component("search", cite="arXiv:2507.10532")
def complete_prompts(
    draw: Any, problems: Sequence[Problem], *, shares: tuple[float, ...] = (0.4, 0.6, 0.8)
) -> tuple[list[Rollout], dict[str, float]]:
    """Does the model know the problems by heart? It is given the first ``shares`` of each and goes on greedily.

    A prompt is cut after ``floor(share * characters)``, white space around it left out; of a chat prompt the last
    message is cut, and given as plain text. Facts of each continuation, of which there is one per share and problem:
    ``share``; ``exact``, 1 where it begins with the true remainder, letter by letter; ``rouge``, `rouge_l` of the
    remainder and as many characters of the continuation; ``told``, 1 where the reference answer stands in it as a word
    of its own, 0 where not or without a reference. Logs the mean of the last three for each share: *partial-prompt
    completion rate* and *answer accuracy*. A remainder longer than ``loop.max_tokens`` is never completed.

    Problems too short to be cut at a share are left out there. Short answers are told by chance, and so are short
    remainders: compare with problems that nobody can have seen, such as those of the task ``calculation``.
    ``shares`` lie between 0 and 1; SettingError otherwise. Source: Wu et al. 2025, section 3.

    >>> from types import SimpleNamespace as Some
    >>> row = Rollout(Problem("a", "12*4=4"), (), (), (), "8, so 48", "eos", ())
    >>> loop = Some(again=lambda asked, samples, temperature: [replace(row, problem=p) for p in asked])
    >>> complete_prompts(loop, [Problem("a", "12*4=48", "48")], shares=(0.9,))[1]
    {'exact at 0.9': 1.0, 'rouge at 0.9': 1.0, 'told at 0.9': 1.0}
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise SettingError(f"complete_prompts: shares={shares!r}; give at least one, each between 0 and 1")
    found: list[Rollout] = []
    logs: dict[str, float] = {}
    for share in shares:
        cuts = [(one, *_cut(one, share)) for one in problems]
        asked = [(one, rest) for one, begin, rest in cuts if begin and rest]
        begun = [replace(one, prompt=begin) for one, begin, rest in cuts if begin and rest]
        rows: list[Rollout] = draw.again(begun, 1, temperature=0.0) if begun else []
        here = [_facts(one, rest, row.text) for (one, rest), row in zip(asked, rows, strict=True)]
        found += [
            replace(row, facts={**row.facts, "share": share, **facts}) for row, facts in zip(rows, here, strict=True)
        ]
        for name in ("exact", "rouge", "told") if here else ():
            logs[f"{name} at {share:g}"] = sum(facts[name] for facts in here) / len(here)
    return found, logs


def _cut(problem: Problem, share: float) -> tuple[str, str]:
    """The first part of a problem's text, and the rest of it."""
    prompt = problem.prompt
    text = (prompt if isinstance(prompt, str) else prompt[-1]["content"]).strip()
    at = int(share * len(text) + 1e-9)
    return text[:at], text[at:]


def _facts(problem: Problem, rest: str, said: str) -> dict[str, float]:
    answer = (problem.answer or "").strip()
    told = bool(answer) and re.search(rf"(?<![\w.]){re.escape(answer)}(?![\w]|\.\w)", said) is not None
    return {"exact": float(said.startswith(rest)), "rouge": rouge_l(said[: len(rest)], rest), "told": float(told)}
