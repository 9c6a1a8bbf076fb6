"""How much of a level each of endlessly many looks may use."""

from __future__ import annotations

from truegain.core.errors import SettingError


def spent_level(look: int, *, level: float = 0.05, horizon: int = 20) -> float:
    """The share of ``level`` that look number ``look`` uses, 1 for the first look that is tested.

    ``level * h / ((h + t - 1) (h + t))`` with h = ``horizon``. The sum over all t is ``level`` (it telescopes), so a
    run may go on for ever; the first h looks together use half of it, and nearly evenly. Set ``horizon`` to about the
    number of looks that is planned: it may be wrong, it only says where the tests are sharpest.

    Raises SettingError for a level outside (0, 1), and for a horizon or a look below 1.
    Source: alpha spending, Lan and DeMets 1983; the sequence is ours.

    >>> round(sum(spent_level(t, level=0.05, horizon=20) for t in range(1, 21)), 6)
    0.025
    >>> [round(1 / spent_level(t, level=0.05, horizon=1)) for t in (1, 2, 3)]
    [40, 120, 240]
    """
    if not 0 < level < 1 or horizon < 1 or look < 1:
        raise SettingError(f"spent_level: level={level} in (0, 1), horizon={horizon} and look={look} 1 or more")
    return level * horizon / ((horizon + look - 1) * (horizon + look))
