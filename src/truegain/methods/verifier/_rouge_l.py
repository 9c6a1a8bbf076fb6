from __future__ import annotations

import re

_WORD = re.compile(r"\w+|[^\w\s]")


def rouge_l(said: str, wanted: str) -> float:
    """How alike two texts are: F1 of their longest common subsequence of words, signs counted as words, in [0, 1].

        2 * lcs / (words said + words wanted)

    1 where both are empty, 0 where one is. Case does not count. Source: Lin 2004 (ROUGE), with beta 1.

    >>> rouge_l("the cat sat", "the cat slept"), rouge_l("3+4", "3+4"), rouge_l("", "x")
    (0.6666666666666666, 1.0, 0.0)
    """
    a, b = _WORD.findall(said.casefold()), _WORD.findall(wanted.casefold())
    if not a or not b:
        return float(not a and not b)
    before = [0] * (len(b) + 1)
    for word in a:
        here = [0]
        for n, other in enumerate(b):
            here.append(before[n] + 1 if word == other else max(here[n], before[n + 1]))
        before = here
    return 2 * before[-1] / (len(a) + len(b))
