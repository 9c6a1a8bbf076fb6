"""What ReBalance reads off a model's own traces: the direction between two kinds of steps, its block, the quartiles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from truegain.core.errors import DataError, SettingError

FILE = "direction.npy"
WORDS = ("wait", "alternatively", "however", "hmm", "check", "verify", "no back", "let me")


def fit_balance(
    policy: Any,
    dataset: Sequence[Mapping[str, Any]],
    place: Path,
    *,
    boundary: str = "\n\n",
    opening: str = "<think>",
    closing: str = "</think>",
    words: tuple[str, ...] = WORDS,
    quartiles: tuple[float, float] = (0.25, 0.75),
    held_out: float = 0.2,
    components: int = 64,
    ridge: float = 1.0,
    reach: float = 0.9,
) -> dict[str, Any]:
    """Fit `steer_balanced` on traces of ``policy``: rows with ``prompt_ids`` and ``completion_ids``.

    A step s ends at a token whose text holds ``boundary``; c_s = exp(mean log-prob of its tokens), v_s = (c_s -
    c_{s-1})^2 / 4. A step is *reflecting* if it holds one of ``words`` or c_s lies below the lower of the ``quartiles``
    of all c, *calm* if it holds none and c_s lies above the upper one; others are left out. With h the hidden states at
    the steps' ends, S = mean(h | reflecting) - mean(h | calm), at the block whose states tell c_s best: the highest R^2
    on the ``held_out`` share of the traces, of a ridge regression (``ridge``) on the first ``components`` principal
    components. How far to steer comes from where the steps lie along S, in units of S from the midpoint of the two
    means: ``low`` moves the reflecting steps' mean onto the calm ones' (-1), ``hard_low`` moves the share ``reach`` of
    all of them over the midpoint, at least as far as ``low`` and at most three times.

    Writes `FILE` into ``place``. Returns the numbers, and as ``settings`` what the next form is to be set to. Raises
    SettingError for shares out of bounds, DataError where there are too few steps of either kind.
    Source: Li et al. 2026, its published analysis.
    """
    if not 0 < quartiles[0] < quartiles[1] < 1 or not 0 < held_out < 1 or not 0 < reach < 1:
        raise SettingError("fit_balance: quartiles rise between 0 and 1; held_out and reach are shares between 0 and 1")
    found = [_steps(policy, row, boundary, opening, closing) for row in dataset]
    trace = torch.tensor([n for n, steps in enumerate(found) for _ in steps], dtype=torch.long)
    steps = [step for one in found for step in one]
    if len(steps) < 8:
        raise DataError(f"fit_balance: {len(steps)} steps in {len(dataset)} traces are too few; give more traces")
    confidence = torch.tensor([step[0] for step in steps], dtype=torch.float64)
    jumps = [(b[0] - a[0]) ** 2 / 4 for one in found for a, b in pairwise(one)]
    says = re.compile("|".join(rf"(?<![a-z]){re.escape(word)}(?![a-z])" for word in words), re.IGNORECASE)
    reflects = torch.tensor([bool(words) and bool(says.search(step[1])) for step in steps])
    low, high = (float(confidence.quantile(q)) for q in quartiles)
    reflecting, calm = reflects | (confidence < low), ~reflects & (confidence > high)
    if min(int(reflecting.sum()), int(calm.sum()), len(jumps)) < 2:
        raise DataError(f"fit_balance: {int(reflecting.sum())} reflecting and {int(calm.sum())} calm steps are too few")
    states = torch.stack([step[2] for step in steps]).double()  # [steps, blocks, D]
    test = trace % max(round(1 / held_out), 2) == 0
    scores = [explained(states[:, n], confidence, test, components, ridge) for n in range(states.shape[1])]
    layer = max(range(len(scores)), key=scores.__getitem__)
    direction, lows = _prototypes(states[:, layer], reflecting, calm, reach)
    np.save(place / FILE, direction.float().numpy())
    spread = torch.tensor(jumps, dtype=torch.float64)
    fitted: dict[str, Any] = {
        "layer": layer,
        "sure": (low, high),
        "restless": tuple(float(spread.quantile(q)) for q in quartiles),
        "low": lows[0],
        "hard_low": lows[1],
    }
    settings = {**fitted, "direction": str(place / FILE), "boundary": boundary, "opening": opening, "closing": closing}
    counted = {"steps": len(steps), "reflecting": int(reflecting.sum()), "calm": int(calm.sum())}
    return {
        **fitted,
        **counted,
        "r2": scores,
        "settings": {f"sampler.steer_balanced.{name}": value for name, value in settings.items()},
    }


def _steps(
    policy: Any, row: Mapping[str, Any], boundary: str, opening: str, closing: str
) -> list[tuple[float, str, Tensor]]:
    """Of each step of a trace its confidence, its text, and the states [blocks, D] of its last token."""
    prompt, ids = list(row["prompt_ids"]), list(row["completion_ids"])
    if not ids:
        return []
    with torch.inference_mode():
        out = policy.model(input_ids=torch.tensor([prompt + ids], device=policy.device), output_hidden_states=True)
    logp = out.logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    own = logp.gather(1, torch.tensor(ids, device=logp.device)[:, None])[:, 0].cpu()
    # The first of them are the embeddings, and the last is normed: the states before that norm are not given.
    states = torch.stack(out.hidden_states[1:-1] or out.hidden_states[1:])[:, 0, len(prompt) :].cpu().float()
    pieces = [policy.decode((token,)) for token in ids]
    begins = next((n + 1 for n, piece in enumerate(pieces) if opening and opening in piece), 0)
    found: list[tuple[float, str, Tensor]] = []
    start = begins
    for n in range(begins, len(ids)):
        if closing and closing in pieces[n]:
            break
        if boundary in pieces[n]:
            sure = float(own[start : n + 1].mean().exp())
            found.append((sure, "".join(pieces[start : n + 1]), states[:, n]))
            start = n + 1
    return found


def explained(states: Tensor, target: Tensor, test: Tensor, components: int, ridge: float) -> float:
    """R^2 on the rows ``test`` of a ridge regression of ``target`` [N] on the other rows' principal components.

    States [N, D] are standardised by the training rows. -inf where there are fewer than two rows on either side, or the
    test rows do not differ.
    """
    train, rest = states[~test], target[test]
    if min(len(train), len(rest)) < 2 or float(rest.var()) == 0:
        return float("-inf")
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    scaled = (states - mean) / deviation
    linalg: Any = cast(Any, torch).linalg
    basis: Tensor = linalg.svd(scaled[~test], full_matrices=False).Vh
    seen = scaled @ basis[: min(components, len(basis))].mT
    x, y = seen[~test], target[~test]
    weights: Tensor = linalg.solve(x.mT @ x + ridge * torch.eye(x.shape[1]).to(x), x.mT @ (y - y.mean()))
    error = rest - (seen[test] @ weights + y.mean())
    return 1 - float((error**2).sum() / ((rest - rest.mean()) ** 2).sum())


def _prototypes(states: Tensor, reflecting: Tensor, calm: Tensor, reach: float) -> tuple[Tensor, tuple[float, float]]:
    """S [D], and how far to steer at most, ordinarily and hard."""
    direction = states[reflecting].mean(0) - states[calm].mean(0)
    middle = (states[reflecting].mean(0) + states[calm].mean(0)) / 2
    # In units of S the two means lie at 1/2 and -1/2.
    over = (states[reflecting] - middle) @ direction / direction.dot(direction)
    return direction, (-1.0, -float(over.quantile(reach).clamp(1.0, 3.0)))
