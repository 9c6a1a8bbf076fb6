"""Hidden states and the likeliest tokens at each place of a completion: what last-layer models of an update need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from truegain.core.errors import WiringError
from truegain.policy.logprobs import CHUNK_BYTES, completion_hidden, has_plain_head

if TYPE_CHECKING:
    from truegain.policy.policy import Policy


def check_head(policy: Policy) -> None:
    """Refuse a policy whose logits are not a linear map of its hidden states. Raises WiringError."""
    if not has_plain_head(policy.model):
        raise WiringError(
            f"columns 'hidden', 'top_ids' and 'top_logp' come from a linear unembedding, and the policy "
            f"{policy.source!r} has none: use another --model"
        )


@torch.no_grad()
def token_candidates(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    tokens: Tensor,
    lengths: Tensor,
    count: int,
    *,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Of each completion token: ``hidden`` [B,T,H], and ``top_ids``, ``top_logp`` [B,T,C] in float32; 0 in the padding.

    ``hidden`` is the state before the token over ``temperature``, so that the unembedding times it are the logits
    (without a bias) of the distribution that ``top_logp`` is of. C is the lesser of ``count`` and the vocabulary; the
    token that stands there takes the last place where it is not among the likeliest. Logits exist for a slice of the
    tokens at a time, at most `CHUNK_BYTES`. Raises WiringError for a policy without a linear unembedding.
    """
    check_head(policy)
    tokens = tokens.to(policy.device)
    found, row, column = completion_hidden(policy, prompts, tokens, lengths)
    found = found / temperature
    head = policy.model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    count = min(count, head.weight.shape[0])
    hidden = found.new_zeros(*tokens.shape, found.shape[1])
    ids = torch.zeros(*tokens.shape, count, dtype=torch.long, device=tokens.device)
    logp = torch.zeros(*tokens.shape, count, device=tokens.device)
    hidden[row, column] = found
    size = max(1, CHUNK_BYTES // (4 * head.weight.shape[0]))
    for h, b, t in zip(found.split(size), row.split(size), column.split(size), strict=True):
        logits = torch.nn.functional.linear(h, head.weight.to(h.dtype)).float()
        scores = (logits if bias is None else logits + bias.float() / temperature).log_softmax(-1)
        top, at = scores.topk(count, dim=-1)
        given = tokens[b, t][:, None]
        inside = (at == given).any(dim=1, keepdim=True)
        at[:, -1:] = torch.where(inside, at[:, -1:], given)
        top[:, -1:] = torch.where(inside, top[:, -1:], scores.gather(1, given))
        ids[b, t], logp[b, t] = at, top
    return {"hidden": hidden, "top_ids": ids, "top_logp": logp}
