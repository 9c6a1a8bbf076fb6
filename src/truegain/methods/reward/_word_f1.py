from __future__ import annotations

import re
from collections import Counter

from truegain.core.component import component
from truegain.core.probing import ENDING, OPENING
from truegain.core.types import Abstain, Problem, Rollout

_DROPPED = re.compile(r"[^\w\s]|\b(?:a|an|the)\b")


@component("score", cite=("arXiv:1606.05250", "arXiv:2601.21912"), fills="score")
def word_f1(problem: Problem, rollout: Rollout, *, opening: str = OPENING, ending: str = ENDING) -> float | Abstain:
    """F1 of the words of a completion's answer against those of the reference, in [0, 1].

    ``F1 = 2 * shared / (words of the answer + words of the reference)``, a word counted as often as it stands in both;
    small letters, without punctuation and articles, as in SQuAD's evaluation. The answer stands between the last
    ``opening`` and the ``ending`` after it; without both it has no words, which scores 0, and so does an empty one
    unless the reference is empty too. Abstains on a problem without a reference.
    Source: Rajpurkar et al. 2016, section 6.1; the outcome score of ProRAG.

    >>> row = Rollout(Problem("p", "?", "New York City"), (), (), (), "<answer>the city of york</answer>", "eos", ())
    >>> round(word_f1(row.problem, row), 3)
    0.667
    """
    if problem.answer is None:
        return Abstain(f"problem {problem.id} has no reference answer")
    _, mark, rest = rollout.text.rpartition(opening)
    said, closed, _ = rest.partition(ending)
    wrote = _words(said) if mark and closed else []
    wanted = _words(problem.answer)
    if not wrote or not wanted:
        return float(bool(mark and closed) and wrote == wanted)
    shared = (Counter(wrote) & Counter(wanted)).total()
    return 2 * shared / (len(wrote) + len(wanted))


def _words(text: str) -> list[str]:
    return _DROPPED.sub(" ", text.lower()).split()
