from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from truegain.core.component import component
from truegain.core.draws import child_key, uniforms
from truegain.core.errors import SettingError
from truegain.core.probing import CLOSING, OPENING, reasoning_end
from truegain.core.types import Request, Resampled, Rollout, Turn


@component("resample", cite="arXiv:2505.07686")
def early_exits(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    exits: int = 7,
    max_tokens: int = 32,
    inducer: str = "",
    closing: str = CLOSING,
    opening: str = OPENING,
    trained: Literal["closing", "nothing"] = "closing",
) -> Resampled:
    """Leave each path early at ``exits`` random places of its thought, and have the answer there and then.

    The places are different ones of {1 .. n}, n the tokens of the thought, each equally likely (fewer where n is
    less). ``inducer + closing + opening`` is written there and an answer of at most ``max_tokens`` drawn at the loop's
    temperature. What is written is not the policy's, except ``closing``: to stop thinking is its own choice and what is
    to be learned, so those tokens are in the loss, with the log-probs that the policy gave them
    (``trained="nothing"`` leaves them out). The exits join their path's problem: one path and its exits are a group, so
    ``loop.samples`` must be 1. A path without a thought has no exit. One round per step.

    Raises SettingError for knobs out of bounds, several samples per problem, or a ``closing`` whose tokens merge with
    those beside it. Source: Dai et al. 2025 (S-GRPO), section 3.2.

    >>> from types import SimpleNamespace as Some
    >>> from truegain.core.types import Problem
    >>> said = (Turn("policy", 0, 3),)
    >>> row = Rollout(Problem("a", "a"), (), (1, 2, 3), (0.0,) * 3, "x\\ny", "eos", said, key=7)
    >>> engine = Some(score=lambda requests: [(-0.5,) * len(r.suffix) for r in requests])
    >>> policy = Some(encode=lambda text: tuple(range(len(text))), decode=lambda ids: "x\\ny"[: len(ids)])
    >>> loop = Some(round=0, samples=1, fork=lambda places, n, **how: [replace(r, cut=cut) for r, cut in places])
    >>> sorted(r.cut for r in early_exits({"policy": Some(policy=policy, engine=engine)}, loop, [row], exits=2).add)
    [1, 2]
    """
    if exits < 1 or max_tokens < 1:
        raise SettingError(f"early_exits: exits={exits} and max_tokens={max_tokens} must be 1 or more")
    if draw.samples != 1:
        raise SettingError(
            f"early_exits: one path and its exits are a group, so loop.samples must be 1, not {draw.samples}; exits="
            "sets how many there are"
        )
    if draw.round > 0:
        return Resampled()
    policy, cue = roles["policy"].policy, inducer + closing + opening
    places: list[tuple[Rollout, int]] = []
    for rollout in rollouts:
        thought = reasoning_end(rollout, policy.decode, (closing, opening))
        places += [(rollout, cut) for cut in _places(rollout, thought, exits)]
    made: list[Rollout] = draw.fork(places, 1, insert=cue, max_tokens=max_tokens) if places else []
    if trained == "closing" and made and closing:
        made = _own_closing(roles["policy"], made, inducer, closing, cue)
    return Resampled(add=made)


def _places(rollout: Rollout, thought: int, exits: int) -> list[int]:
    """Different numbers of tokens from 1 to ``thought``, a pure function of the row's key."""
    if thought < 1:
        return []
    luck = uniforms(torch.tensor([child_key(rollout.key, -1)])[:, None], torch.arange(thought))[0]
    return sorted(int(place) + 1 for place in luck.argsort(stable=True)[:exits])


def _own_closing(role: Any, made: Sequence[Rollout], inducer: str, closing: str, cue: str) -> list[Rollout]:
    """The exits with ``closing`` as the policy's own tokens, and what the policy thought of them."""
    encode = role.policy.encode
    given = encode(cue)
    begin, end = len(encode(inducer)) if inducer else 0, len(encode(inducer + closing))
    if encode(inducer + closing) != given[:end] or (inducer and encode(inducer) != given[:begin]):
        raise SettingError(
            f"early_exits: the tokens of closing={closing!r} merge with what stands beside it, so that they cannot be "
            "trained alone; let them begin and end a token, or set trained=nothing"
        )
    asked = [
        Request((*r.prompt_ids, *r.ids), cut=len(r.prompt_ids) + (r.cut or 0) + begin, suffix=given[begin:end])
        for r in made
    ]
    return [_with_own(r, begin, end, logp) for r, logp in zip(made, role.engine.score(asked), strict=True)]


def _with_own(rollout: Rollout, begin: int, end: int, logp: Sequence[float]) -> Rollout:
    """The row with tokens ``[cut + begin, cut + end)`` said by the policy."""
    cut = rollout.cut or 0
    first, last = cut + begin, cut + end
    turns: list[Turn] = []
    for turn in rollout.turns:
        if turn.author != "tool" or not turn.start <= first < turn.end:
            turns.append(turn)
            continue
        parts = (Turn("tool", turn.start, first), Turn("policy", first, last), Turn("tool", last, turn.end))
        turns += [part for part in parts if part.end > part.start]
    known = (*rollout.engine_logp[:first], *logp, *rollout.engine_logp[last:])
    return replace(rollout, turns=tuple(turns), engine_logp=known)
