"""Errors that a user can act on: one line that names the place and the mend."""


class TruegainError(Exception):
    """Base of every error truegain raises on purpose. The message is one line: what, where, and how to mend it."""


class WiringError(TruegainError):
    """A component cannot be connected: an unknown column or knob, a missing provider, a wrong signature or shape."""


class SettingError(TruegainError):
    """A setting is unknown, out of bounds or of the wrong type."""


class DataError(TruegainError):
    """A data file, a model folder or a run folder cannot be used as it is."""


class RunError(TruegainError):
    """A run had to stop: a non-finite loss, a full disk, a folder that another run holds."""


def nearest(name: str, legal: "list[str] | tuple[str, ...] | set[str]") -> str:
    """Return ``" (did you mean 'x'?)"`` for the legal name closest to ``name``, or an empty string.

    >>> nearest("gropo", ["grpo", "ppo"])
    " (did you mean 'grpo'?)"
    >>> nearest("zzz", ["grpo"])
    ''
    """
    from difflib import get_close_matches

    found = get_close_matches(name, sorted(legal), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
