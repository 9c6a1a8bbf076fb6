from __future__ import annotations

import re

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Problem, Rollout

_NUMBER = re.compile(r"confidence\s*[:=]\s*\**\s*(-?\d{1,9}(?:\.\d{1,9})?)", re.IGNORECASE)


@component("score", cite=("arXiv:2410.09724", "SeanLeng1/Reward-Calibration"), fills="confidence")
def stated_confidence(problem: Problem, rollout: Rollout, *, top: float = 10.0, missing: float = 0.5) -> float:
    """How sure a completion says it is, from its last ``Confidence: NUMBER``: the number over ``top``, cut to [0, 1].

    ``missing`` is what a completion counts as that says nothing, in [0, 1]: 0.5 is neither sure nor unsure. The prompt
    has to ask for it. Raises SettingError for a ``top`` that is not positive or a ``missing`` outside [0, 1].
    Source: Leng et al. 2024, prompts and parser.

    >>> row = Rollout(Problem("p", "?"), (), (), (), "It is 7. Confidence: 9", "eos", ())
    >>> stated_confidence(row.problem, row)
    0.9
    """
    if not top > 0 or not 0 <= missing <= 1:
        raise SettingError(f"stated_confidence: top={top} must be positive, missing={missing} from 0 to 1")
    found = _NUMBER.findall(rollout.text)
    return min(max(float(found[-1]) / top, 0.0), 1.0) if found else missing
