from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.probing import CLOSING, OPENING, mean_or_nan, places_of, step_cuts, table_of
from truegain.core.types import Rollout


@component("probe", cite="arXiv:2601.03823", fills=("probe_correct", "probe_confidence"))
def forced_answers(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    step: Int[Tensor, "B T"],
    *,
    samples: int = 5,
    max_tokens: int = 32,
    temperature: float = 0.6,
    closing: str = CLOSING,
    opening: str = OPENING,
    role: str = "policy",
) -> dict[str, Tensor]:
    """Have ``role`` answer at once after each step: how often it is right, and how sure it is.

    After step s the rollout is cut, ``closing + opening`` is written there, and ``samples`` answers of at most
    ``max_tokens`` tokens are drawn at ``temperature``. Where the rollout itself closed its thought or opened its
    answer the cut comes before that, so the last step is probed without the answer the rollout gave.

        probe_correct[B,S]     share of answers that the task's check finds right, in [0, 1]
        probe_confidence[B,S]  mean over answers of exp(mean over tokens of log p), in (0, 1]

    log p of a drawn token, at the probe's temperature, is one sample of minus the entropy there, so this is the paper's
    exp(-mean entropy) without a column of entropies. Answers whose check abstained are left out; where all did, and
    past a row's last step, stands NaN. The rollouts stay as they are. Cost: steps * samples answers per row.

    Raises SettingError for fewer than one sample or token, or a temperature of 0, at which every answer is sure of
    itself. Source: Wu et al. 2026 (SPAE), section 3.

    >>> from types import SimpleNamespace as Some
    >>> import torch
    >>> from truegain.core.types import Problem, Turn
    >>> said = (Turn("policy", 0, 3),)
    >>> row = Rollout(Problem("a", "a"), (), (5, 6, 7), (-1.0, -1.0, -1.0), "a\\nb", "eos", said)
    >>> answer = Some(ids=(5, 6, 9, 4), engine_logp=(-1.0, -1.0, 0.0, -0.5), cut=2, facts={"correct": 1.0})
    >>> wrong = Some(ids=(5, 6, 7, 9, 4), engine_logp=(0.0, 0.0, 0.0, 0.0, 0.0), cut=3, facts={"correct": 0.0})
    >>> policy = Some(encode=lambda text: (9,), decode=lambda ids: "a\\nb"[: len(ids)])
    >>> loop = Some(fork=lambda places, n, **how: [answer, wrong])
    >>> forced_answers({"policy": Some(policy=policy)}, loop, [row], torch.tensor([[0, 0, 1]]), samples=1)
    {'probe_correct': tensor([[1., 0.]]), 'probe_confidence': tensor([[0.6065, 1.0000]])}
    """
    if samples < 1 or max_tokens < 1 or not temperature > 0:
        raise SettingError(
            f"forced_answers: samples={samples}, max_tokens={max_tokens}, temperature={temperature} must be above 0"
        )
    policy, cue = roles[role].policy, closing + opening
    given = len(policy.encode(cue)) if cue else 0
    cuts = step_cuts(step, rollouts, policy.decode, (closing, opening))
    places = places_of(cuts)
    how = {"insert": cue, "max_tokens": max_tokens, "temperature": temperature, "role": role}
    drawn = draw.fork([(rollouts[row], cut) for row, cut in places], samples, **how)
    right: dict[tuple[int, int], float] = {}
    sure: dict[tuple[int, int], float] = {}
    for n, place in enumerate(places):
        answers = [r for r in drawn[n * samples : (n + 1) * samples] if "abstained" not in r.facts]
        right[place] = mean_or_nan([float(r.facts["correct"]) for r in answers if "correct" in r.facts])
        own = [r.engine_logp[place[1] + given :] for r in answers]
        sure[place] = mean_or_nan([math.exp(sum(logp) / len(logp)) for logp in own if logp])
    return {"probe_correct": table_of(cuts, right, step), "probe_confidence": table_of(cuts, sure, step)}
