from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.probing import CLOSING, OPENING, step_cuts, table_of
from truegain.core.types import Rollout
from truegain.methods.length._answer_places import answer_end


@component("probe", cite=("arXiv:2509.25827", "arXiv:2508.02178"), fills="has_answer")
def stated_answers(
    roles: Mapping[str, Any],
    rollouts: Sequence[Rollout],
    step: Int[Tensor, "B T"],
    *,
    closing: str = CLOSING,
    opening: str = OPENING,
    role: str = "policy",
) -> dict[str, Tensor]:
    """Which steps of the thought state the reference answer, by their text: a judge of chunks without a model.

    Fills ``has_answer[B,S]``: 1 where `answer_end` finds the problem's answer in what the step wrote, 0 where not, NaN
    past a row's last step and throughout where the problem has no reference answer. The thought ends where the rollout
    writes ``closing`` or ``opening``. ``role`` names whose tokenizer the rollouts are in. Costs nothing. An answer that
    is short, or never written as it stands, needs `answers_by_probe` instead.

    Source: Jiang et al. 2025 (DECS), whose judge is a small model; the rule is that of Hong et al. 2025.

    >>> from types import SimpleNamespace as Some
    >>> import torch
    >>> from truegain.core.types import Problem, Turn
    >>> said = (Turn("policy", 0, 3),)
    >>> row = Rollout(Problem("a", "a", "48"), (), (5, 6, 7), (-1.0, -1.0, -1.0), "6*8\\n=48\\nok", "eos", said)
    >>> policy = Some(decode=lambda ids: ("", "6*8\\n", "6*8\\n=48\\n", "6*8\\n=48\\nok")[len(ids)])
    >>> stated_answers({"policy": Some(policy=policy)}, [row], torch.tensor([[0, 1, 2]]))
    {'has_answer': tensor([[0., 1., 0.]])}
    """
    decode = roles[role].policy.decode
    cuts = step_cuts(step, rollouts, decode, (closing, opening))
    found: dict[tuple[int, int], float] = {}
    numbered: list[Mapping[int, int]] = []
    for row, (rollout, steps) in enumerate(zip(rollouts, cuts, strict=True)):
        numbered.append({number: number for number in steps})
        before = 0
        for number in sorted(steps):
            upto = len(decode(rollout.ids[: steps[number]]))
            answer = rollout.problem.answer
            said = None if answer is None else answer_end(rollout.text[:upto], answer, before)
            found[row, number] = float("nan") if answer is None else float(said is not None)
            before = upto
    return {"has_answer": table_of(numbered, found, step)}
