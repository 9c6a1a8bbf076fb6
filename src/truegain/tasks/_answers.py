r"""Reading the final answer out of a text, and telling whether two answers are the same. Linear in the text's length.

>>> same("1,000", final_answer("so it is \\boxed{1000.0}.") or "")
True
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_ANSWER = 2000
_THOUSANDS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_PLAIN = re.compile(rf"[+-]?(?:{_THOUSANDS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,3}})?")
_RATIO = re.compile(r"([+-]?[0-9]+)/([0-9]+)|([+-]?)\\frac(?:\{([+-]?[0-9]+)\}\{([0-9]+)\}| ?([0-9]) ?([0-9]))")
_LAST = re.compile(rf"-?\$?(?:{_THOUSANDS}(?:\.[0-9]+)?|\.[0-9]+)")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")
_MAX_NUMBER = 100


def marked_answer(text: str) -> str | None:
    r"""The answer a text marks as final, stripped, or None: the last ``<answer>...</answer>``, else the last
    ``\boxed{...}``, else what follows the last ``####`` on its line.

    >>> marked_answer("<answer>3</answer> no, <answer> 4 </answer>")
    '4'
    >>> marked_answer("it is \\boxed{\\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    if start >= 0:
        return text[start + len("<answer>") : end].strip()
    boxed = _boxed(text)
    if boxed is not None:
        return boxed.strip()
    _, mark, after = text.rpartition("####")
    return after.strip().partition("\n")[0].strip() if mark else None


def final_answer(text: str, *, last_number: bool = False) -> str | None:
    """What a completion gives as its answer: the marked one, else (``last_number``) its last number, else all of it.

    What stands before the last ``</think>`` is not looked at. None when there is nothing to take.

    >>> final_answer("3 apples and 4 pears make 7 fruits", last_number=True)
    '7'
    """
    text = text.rpartition("</think>")[2]
    found = marked_answer(text)
    if found is None and last_number:
        numbers = _LAST.findall(text)
        found = numbers[-1] if numbers else None
    elif found is None:
        found = text.strip()
    return found if found and len(found) <= MAX_ANSWER else None


def same(left: str, right: str) -> bool:
    r"""Whether two answers are equal: as numbers where both are plain ones, else as normalised text.

    Plain numbers are decimals, with thousands marks or an exponent of at most three digits, ``a/b`` and
    ``\frac{a}{b}``, of single digits ``\frac12``; a ``$`` before and a ``%`` after them are no part of the number.
    Normalised text has single spaces, no case, no enclosing ``$``, no final full stop and no ``\text{}``.

    >>> same("1,000", "$1000.00"), same("1/2", "0.5"), same("Paris.", "paris"), same("1,00", "100")
    (True, True, True, False)
    """
    a, b = normalised(left), normalised(right)
    if a == b:
        return True
    x, y = number(a), number(b)
    return x is not None and x == y


def normalised(text: str) -> str:
    """The text with what does not matter taken off; see `same`."""
    text = " ".join(text.replace("\u2212", "-").split())
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
            text = text[len(opening) : -len(closing)].strip()
    text = _WRAPPED.sub(r"\1", text).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    return " ".join(text.removesuffix(".").split()).casefold()


def number(text: str) -> Fraction | None:
    """The exact value of a plain number, None for anything else. See `same` for what is plain."""
    if len(text) > _MAX_NUMBER:
        return None
    for mark in ("\\$", "$"):
        text = text.removeprefix(mark).strip()
    text = text.removesuffix("%").removesuffix("\\").strip()
    if _PLAIN.fullmatch(text):
        return Fraction(text.replace(",", ""))
    ratio = _RATIO.fullmatch(text)
    if ratio is None:
        return None
    top, bottom = next((ratio[i], ratio[i + 1]) for i in (1, 4, 6) if ratio[i])
    value = Fraction(int(top), int(bottom)) if int(bottom) else None
    return -value if value is not None and ratio[3] == "-" else value


def _boxed(text: str) -> str | None:
    r"""The inside of the last ``\boxed{...}``, braces balanced; None when there is none or it does not close."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start:at]
    return None
