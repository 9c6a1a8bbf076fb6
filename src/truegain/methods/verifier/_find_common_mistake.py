from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.types import Rollout


@component("probe", cite=("arXiv:2507.10532", "arXiv:2506.10947"), fills="common_mistake")
def find_common_mistake(
    rollouts: Sequence[Rollout],
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    *,
    opening: str = "<answer>",
    closing: str = "</answer>",
) -> dict[str, Tensor]:
    """Which rows give the wrong answer that most rows of their problem give.

    Fills ``common_mistake[B]``: 1 for the rows whose answer is the commonest wrong one of their group, else 0. An
    answer is what stands between the last ``opening`` and the ``closing`` behind it, compared as text with white space
    left out. A row without one does not vote and gets 0; of equally common ones the first by alphabet wins. A row is
    wrong where ``correct`` is below 0.5. Costs nothing.

    Source: the majority-voted incorrect labels of Shao et al. 2025 (Spurious Rewards) and Wu et al. 2025, who took the
    vote once, before training.

    >>> import torch
    >>> from truegain.core.types import Problem
    >>> said = [f"<answer>{answer}</answer>" for answer in ("4", "5", "6", "5")]
    >>> rows = [Rollout(Problem("a", "2+2"), (), (), (), text, "eos", ()) for text in said]
    >>> find_common_mistake(rows, torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long))
    {'common_mistake': tensor([0., 1., 0., 1.])}
    """
    answers = [_answer(rollout.text, opening, closing) for rollout in rollouts]
    groups = cast("list[int]", cast(Any, group).tolist())
    wrong = cast("list[bool]", cast(Any, correct < 0.5).tolist())
    votes: dict[int, Counter[str]] = {}
    for number, answer, bad in zip(groups, answers, wrong, strict=True):
        if bad and answer:
            votes.setdefault(number, Counter())[answer] += 1
    winner = {number: min(said, key=lambda text: (-said[text], text)) for number, said in votes.items()}
    given = [
        float(bad and bool(answer) and winner.get(number) == answer)
        for number, answer, bad in zip(groups, answers, wrong, strict=True)
    ]
    return {"common_mistake": correct.new_tensor(given)}


def _answer(text: str, opening: str, closing: str) -> str:
    _, mark, after = text.rpartition(opening)
    inside, end, _ = after.partition(closing)
    return "".join(inside.split()) if mark and end else ""
