"""Where a text first states a given answer."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"-?[0-9]+")


def answer_end(text: str, answer: str, start: int = 0) -> int | None:
    """The character behind the first place at or after ``start`` that states the answer; None where there is none.

    An answer must stand on its own: not behind a letter, a digit, a point or an operator that would make it part of
    something else, nor before a digit, a letter or a decimal. White space within it may be of any length. A whole
    number of more than three digits is also found with commas between its thousands. An empty answer is never found.

    The rule is that of the published code of IRD-ERD (Hong et al. 2025, arXiv 2508.02178), which kept to answers of two
    digits or more: one digit is found in any arithmetic. Where answers are short or not literal, ask a model instead:
    `credit.forced_answers`, then `answers_by_probe`.

    >>> answer_end("12*4=48, so 4 tens", "48")
    7
    >>> answer_end("about 1,048,576 bytes", "1048576")
    15
    >>> answer_end("148 or 4.8", "48") is None
    True
    """
    wanted = answer.strip()
    if not wanted:
        return None
    forms = [r"\s+".join(map(re.escape, wanted.split()))]
    if _WHOLE.fullmatch(wanted) and len(wanted.lstrip("-")) > 3:
        forms.append(re.escape(f"{int(wanted):,}"))
    # `=` may stand before it, as in a sum; a sign or a point may not: "-48" and "0.48" are other numbers. One star
    # multiplies, two make it bold.
    found = re.compile(r"(?<![\w.,+/^-])(?<!(?<!\*)\*)(?:" + "|".join(forms) + r")(?![\w]|[.,][0-9])").search(
        text, start
    )
    return None if found is None else found.end()
