from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.probing import CLOSING, OPENING, places_of, step_cuts, table_of
from truegain.core.types import Rollout
from truegain.methods.credit._answer_scores import answer_scores


@component("probe", cite=("arXiv:2510.14967", "arXiv:2601.03823"), fills="answer_logp")
def answer_likelihood(
    roles: Mapping[str, Any],
    rollouts: Sequence[Rollout],
    step: Int[Tensor, "B T"],
    *,
    per: Literal["token", "answer"] = "token",
    closing: str = CLOSING,
    opening: str = OPENING,
    ending: str = "",
    role: str = "policy",
) -> dict[str, Tensor]:
    """How likely ``role`` finds the reference answer after each step, teacher-forced: nothing is drawn.

    answer_logp[B,S] = mean_k log p(a*_k | rollout up to the end of step s, ``closing + opening``, a*_<k), in nats at
    temperature 1; the sum over k with ``per="answer"``. ``ending`` is scored as part of the answer, so that an answer
    does not get what a longer one deserves. Steps end as in `forced_answers`. NaN past a row's last step and where the
    problem has no reference answer. Cost: one pass over each row, its answers sharing the row's prefill.

    Raises SettingError for an unknown ``per``. Source: Wang et al. 2025 (IGPO), equation 2.

    >>> from types import SimpleNamespace as Some
    >>> import torch
    >>> from truegain.core.types import Problem, Turn
    >>> row = Rollout(Problem("a", "a", "42"), (1,), (5, 6, 7), (0.0,) * 3, "a\\nb", "eos", (Turn("policy", 0, 3),))
    >>> policy = Some(encode=lambda text: (9,) * len(text), decode=lambda ids: "a\\nb"[: len(ids)])
    >>> engine = Some(score=lambda asked: [(0.0,) * (len(r.suffix) - 2) + (-1.0, -r.cut / 2) for r in asked])
    >>> answer_likelihood({"policy": Some(policy=policy, engine=engine)}, [row], torch.tensor([[0, 0, 1]]))
    {'answer_logp': tensor([[-1.2500, -1.5000]])}
    """
    if per not in ("token", "answer"):
        raise SettingError(f"answer_likelihood: per={per!r}; it is token or answer")
    cuts = step_cuts(step, rollouts, roles[role].policy.decode, (closing, opening))
    found = answer_scores(roles[role], rollouts, places_of(cuts), closing + opening, ending, per)
    return {"answer_logp": table_of(cuts, found, step)}
