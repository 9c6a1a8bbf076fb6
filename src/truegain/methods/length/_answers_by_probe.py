from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("probe", cite="truegain", fills="has_answer")
def answers_by_probe(probe_correct: Float[Tensor, "B S"], *, threshold: float = 0.5) -> dict[str, Tensor]:
    """Which steps have reached the answer: those after which a forced answer is right often enough.

    ``has_answer[B,S]`` is 1 where ``probe_correct`` is ``threshold`` or more, else 0; NaN stays NaN. To stand behind
    `credit.forced_answers` where the answer cannot be found in the text: it is short, not literal, or only implied.
    Raises SettingError for a threshold outside (0, 1].

    >>> import torch
    >>> answers_by_probe(torch.tensor([[0.2, 0.6, float("nan")]]))
    {'has_answer': tensor([[0., 1., nan]])}
    """
    if not 0 < threshold <= 1:
        raise SettingError(f"answers_by_probe: threshold={threshold}; a share above 0 and at most 1")
    reached = (probe_correct >= threshold).to(probe_correct.dtype)
    return {"has_answer": torch.where(probe_correct.isnan(), probe_correct, reached)}
