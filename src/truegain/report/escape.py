"""Make untrusted text safe and honest to show: bounded, visible, escaped."""

from __future__ import annotations

import html
import unicodedata

# Categories that draw nothing or change what others draw: controls, formats (bidi overrides, zero widths, tags),
# surrogates, private use, unassigned, and the line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MAX_MARKS = 4


def visible(text: str, *, limit: int = 600, length: int | None = None) -> str:
    """Plain text of at most about ``limit`` characters in which nothing is hidden.

    Newline and tab stay; every other control, format, bidi or unassigned character is shown as ``‹U+202E›``. Stacks
    of more than four combining marks are cut. What is left out at the end is said; ``length`` is the length of the
    whole when ``text`` is only its beginning.

    >>> visible("a\\u202eb\\x00")
    'a‹U+202E›b‹U+0000›'
    >>> visible("x" * 1000, limit=5)
    'xxxxx … (995 more characters)'
    """
    out: list[str] = []
    marks = 0
    for character in text[:limit]:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if character not in "\n\t" and category in _INVISIBLE:
            out.append(f"‹U+{ord(character):04X}›")
        elif marks <= _MAX_MARKS:
            out.append(character)
    left = max(len(text), length or 0) - min(limit, len(text))
    return "".join(out) + (f" … ({left} more characters)" if left > 0 else "")


def escape(value: object, *, limit: int = 600) -> str:
    """`visible` text, escaped for HTML element content and quoted attributes.

    >>> escape('<script>"')
    '&lt;script&gt;&quot;'
    """
    return html.escape(visible(str(value), limit=limit), quote=True)
