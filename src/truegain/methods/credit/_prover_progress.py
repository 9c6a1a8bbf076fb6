from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError, WiringError, nearest
from truegain.core.probing import mean_or_nan, places_of, step_cuts, table_of
from truegain.core.types import Rollout


@component("probe", cite="arXiv:2410.08146", fills="step_reward")
def prover_progress(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    step: Int[Tensor, "B T"],
    *,
    samples: int = 4,
    best_of: int = 1,
    role: str = "prover",
) -> dict[str, Tensor]:
    """Reward each step by its progress: the advantage it gives another policy mu, the prover, that goes on from there.

        Q(s)           share of right answers among ``samples`` completions of the prefix by ``role``
        Q_BoK(s)       1 - (1 - Q(s))^K, the prover being the best of ``best_of`` = K tries; K = 1 is Q
        step_reward_s  Q_BoK(after step s) - Q_BoK(before it), in [-1, 1]

    Q before the first step is that of the prompt, drawn once per problem; Q after the last token is the rollout's own
    verdict. The sum over a row telescopes to Q(end) - Q(start). Where every check abstained Q stays as it was and the
    step's reward is 0. NaN past a row's last step. K of an estimate is biased upwards less than one sample's: prefer
    more samples to a larger K. Cost: (steps - 1) * samples completions per row.

    Raises SettingError for fewer than one sample or try, WiringError for a role that the form does not have.
    Source: Setlur et al. 2024 (Rewarding Progress), section 3 and appendix.

    >>> from types import SimpleNamespace as Some
    >>> import torch
    >>> from truegain.core.types import Problem, Turn
    >>> said, right = (Turn("policy", 0, 2),), {"correct": 1.0}
    >>> row = Rollout(Problem("a", "q"), (1,), (5, 6), (0.0,) * 2, "xy", "eos", said, facts=right)
    >>> half = [Some(problem=row.problem, facts={"correct": c}) for c in (0.0, 1.0)]
    >>> loop = Some(again=lambda problems, n, role: half, fork=lambda places, n, role: half * len(places))
    >>> roles = {"prover": Some(policy=Some(decode=len))}
    >>> prover_progress(roles, loop, [row], torch.tensor([[0, 1]]), samples=2, best_of=2)
    {'step_reward': tensor([[0.0000, 0.2500]])}
    """
    if samples < 1 or best_of < 1:
        raise SettingError(f"prover_progress: samples={samples} and best_of={best_of} must be 1 or more")
    if role not in roles:
        raise WiringError(f"prover_progress draws from role {role!r}{nearest(role, set(roles))}, which the form lacks")
    cuts = step_cuts(step, rollouts, roles[role].policy.decode, ())
    problems = list({rollout.problem.id: rollout.problem for rollout in rollouts}.values())
    begun = draw.again(problems, samples, role=role)
    start = {problem.id: _share([r for r in begun if r.problem.id == problem.id]) for problem in problems}
    places = places_of(cuts)
    open_places = [(row, cut) for row, cut in places if cut < len(rollouts[row].ids)]
    drawn = draw.fork([(rollouts[row], cut) for row, cut in open_places], samples, role=role)
    value = {(row, cut): _share([rollouts[row]]) for row, cut in places}
    for n, place in enumerate(open_places):
        value[place] = _share(drawn[n * samples : (n + 1) * samples])
    progress: dict[tuple[int, int], float] = {}
    for row, steps in enumerate(cuts):
        before = _best(start[rollouts[row].problem.id], best_of)
        for number in sorted(steps):
            after = _best(value[row, steps[number]], best_of)
            progress[row, number] = after - before if math.isfinite(after - before) else 0.0
            before = after if math.isfinite(after) else before
    return {"step_reward": table_of([{number: number for number in steps} for steps in cuts], progress, step)}


def _share(rows: Sequence[Any]) -> float:
    """Share of right rows among those that were judged."""
    judged = [r for r in rows if "abstained" not in r.facts and "correct" in r.facts]
    return mean_or_nan([float(r.facts["correct"]) for r in judged])


def _best(chance: float, tries: int) -> float:
    """Chance that one of so many tries is right."""
    return 1 - (1 - chance) ** tries
