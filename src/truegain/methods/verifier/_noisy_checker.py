from __future__ import annotations

from typing import Any

from truegain.core.component import component
from truegain.core.draws import draw_key
from truegain.core.types import Abstain, Problem, Rollout
from truegain.methods.verifier._rates import check_rates


@component("score", cite="arXiv:2510.00915", fills=("score", "false_accept", "false_reject"))
def noisy_checker(
    problem: Problem, rollout: Rollout, *, false_accept: float = 0.0, false_reject: float = 0.0, share: float = 1.0
) -> dict[str, Any] | Abstain:
    """The exact verdict through a noisy channel, as ``score``, and the rates that it was drawn with.

    A wrong answer is accepted with chance ``false_accept``, a right one rejected with ``false_reject``. Both hold for
    a ``share`` of the problems, chosen by their id; the others are judged without error. Rates of 0 leave the
    verdict. The draw is a function of the problem and of the row's key, so that a run repeats. Abstains without a
    verdict. Raises SettingError for rates that are no chances, or reach 1 together.

    >>> row = Rollout(Problem("a", "a"), (), (), (), "x", "eos", (), facts={"correct": 1.0}, key=3)
    >>> noisy_checker(row.problem, row)
    {'score': 1.0, 'false_accept': 0.0, 'false_reject': 0.0}
    """
    check_rates("noisy_checker", false_accept, false_reject)
    right = rollout.facts.get("correct")
    if right is None:
        return Abstain("the task gave no verdict to pass on")
    noisy = _chance("problem", problem.id, 0) < share
    accept, reject = (false_accept, false_reject) if noisy else (0.0, 0.0)
    wrong = _chance("verdict", problem.id, rollout.key) < (reject if right > 0.5 else accept)
    return {"score": float((right > 0.5) != wrong), "false_accept": accept, "false_reject": reject}


def _chance(what: str, problem: str, key: int) -> float:
    """A number in [0, 1) that depends on these alone."""
    return (draw_key(key, f"verifier.noisy_checker/{what}", 0, problem, 0, 0) % 2**32) / 2**32
