"""Log-probabilities and entropy of given tokens in one forward pass, chunked over a large vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from truegain.core.errors import DataError
from truegain.policy import decoder, packing

if TYPE_CHECKING:
    from truegain.policy.policy import Policy

CHUNK_BYTES = 256 * 2**20
# Settings that put something between the head's product and the logits.
RESHAPED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
_fast: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_plain: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def token_logp(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    tokens: Tensor,
    lengths: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    grad: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Log-prob [B, T] of each completion token given its prompt and the tokens before it; entropy [B, T] in nats.

    ``tokens`` [B, T] are right-padded, ``lengths`` [B] says how many count; both outputs are 0.0 beyond. They are of
    the distribution softmax(logits / temperature), computed in float32 whatever the model's dtype is. Padding is
    inert: nothing looks ahead. Rows that share a prompt share its computation where that pays. Raises DataError if a
    prompt is empty, as its first token has nothing to stand on.
    """
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        packed = _packed(policy, prompts, tokens, lengths)
        if packed is None:
            ids, row, column, place = _layout(policy, prompts, tokens, lengths)
        else:
            ids, row, column, place = packed.ids, packed.row, packed.column, packed.at
        targets = tokens.to(policy.device)[row, column]
        if has_plain_head(policy.model):
            head = policy.model.get_output_embeddings()
            if packed is not None:
                states = decoder.hidden_states(policy.model, packed.ids, positions=packed.positions, mask=packed.mask)
                picked = states[packed.at_row, packed.at]
            else:
                picked = hidden_states(policy, ids)[row, place]
            bias = getattr(head, "bias", None)
            logp, spread = logp_from_hidden(picked, head.weight, bias, targets, temperature, entropy)
        else:
            logits = policy.model(input_ids=ids, use_cache=False).logits[row, place].float() / temperature
            scores = logits.log_softmax(-1)
            logp = scores.gather(-1, targets[:, None])[:, 0]
            spread = -(scores.exp() * scores).sum(-1) if entropy else None
        shape = tokens.shape
        return _scatter(logp, row, column, shape), None if spread is None else _scatter(spread, row, column, shape)


def _packed(
    policy: Policy, prompts: Sequence[tuple[int, ...]], tokens: Tensor, lengths: Tensor
) -> packing.Packed | None:
    """The rows packed by prompt, on the policy's device; None when that does not pay or the model cannot do it."""
    if not all(prompts) or not is_fast(policy.model) or not has_plain_head(policy.model):
        return None
    config = policy.model.config
    params = sum(p.numel() for p in policy.model.parameters())
    width = config.num_hidden_layers * config.hidden_size
    found = packing.pack(prompts, tokens.detach().cpu(), lengths.tolist(), params, width)
    return None if found is None else found.to(policy.device)


def is_fast(model: Any) -> bool:
    """True if `truegain.policy.decoder` computes this model's forward."""
    if model not in _fast:
        _fast[model] = decoder.supports(model)
    return _fast[model]


def hidden_states(policy: Policy, ids: Tensor) -> Tensor:
    """Last hidden states [B, L, d], after the final norm, of right-padded tokens [B, L]; positions count from 0."""
    model = policy.model
    if is_fast(model):
        return decoder.hidden_states(model, ids)
    out = model.base_model(input_ids=ids, use_cache=False)
    if not hasattr(out, "last_hidden_state"):
        raise DataError(f"{policy.source} has no hidden states: heads and probes need a transformer such as tiny")
    return out.last_hidden_state


def completion_hidden(
    policy: Policy, prompts: Sequence[tuple[int, ...]], tokens: Tensor, lengths: Tensor, *, after: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, d] of all N completion tokens with their (row, column): before each token, or ``after`` it."""
    ids, row, column, place = _layout(policy, prompts, tokens, lengths)
    return hidden_states(policy, ids)[row, place + int(after)], row, column


def has_plain_head(model: Any) -> bool:
    """True if the logits are exactly head(last hidden state). Asked of the model itself, once, on two tokens."""
    if model not in _plain:
        head = model.get_output_embeddings()
        text = getattr(model.config, "get_text_config", lambda: model.config)()
        plain = isinstance(head, nn.Linear) and all(getattr(text, name, None) in (None, 1.0) for name in RESHAPED)
        if plain:
            with torch.no_grad():
                probe = torch.zeros(1, 2, dtype=torch.long, device=head.weight.device)
                full = model(input_ids=probe, use_cache=False).logits
                last = getattr(model.base_model(input_ids=probe, use_cache=False), "last_hidden_state", None)
            plain = last is not None and torch.allclose(head(last).float(), full.float(), rtol=1e-3, atol=1e-5)
        _plain[model] = plain
    return _plain[model]


def logp_from_hidden(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-prob [N] of ``targets`` under softmax((hidden [N, d] @ weight [V, d].T + bias) / temperature), and entropy.

    Logits exist for a chunk of rows at a time, at most `CHUNK_BYTES`, and are made anew for the gradient.
    """
    logp, spread = _HeadLogp.apply(hidden, weight, bias, targets, temperature, entropy)  # pyright: ignore
    return logp, spread if entropy else None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = nn.functional.linear(hidden, weight, bias).to(_wide(hidden))
    return logits if temperature == 1.0 else logits / temperature


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


class _HeadLogp(torch.autograd.Function):
    """With z the scaled logits, p their softmax and H its entropy:

    d logp_y / dz_j = [j = y] - p_j,    d H / dz_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *knobs: Any) -> Any:
        temperature, entropy = knobs
        rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        logp = torch.empty(hidden.shape[0], dtype=_wide(hidden), device=hidden.device)
        spread = torch.zeros_like(logp)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            scores = _logits(hidden[part], weight, bias, temperature).log_softmax(-1)
            logp[part] = scores.gather(-1, targets[part, None])[:, 0]
            if entropy:
                spread[part] = -(scores.exp() * scores).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, spread)
        ctx.knobs = (temperature, entropy, rows)
        return logp, spread

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_logp, d_spread = grads
        hidden, weight, bias, targets, spread = ctx.saved_tensors
        temperature, entropy, rows = ctx.knobs
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=_wide(weight)) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=_wide(bias)) if bias is not None else None
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            scores = _logits(hidden[part], weight, bias, temperature).log_softmax(-1)
            p = scores.exp()
            d_z = p * -d_logp[part, None]
            d_z.scatter_add_(1, targets[part, None], d_logp[part, None].to(d_z.dtype))
            if entropy:
                d_z -= d_spread[part, None] * p * (scores + spread[part, None])
            d_z = (d_z / temperature).to(hidden.dtype)
            d_hidden[part] = d_z @ weight
            if d_weight is not None:
                d_weight += d_z.T @ hidden[part]
            if d_bias is not None:
                d_bias += d_z.sum(0)
        d_weight = None if d_weight is None else d_weight.to(weight.dtype)
        return d_hidden, d_weight, None if d_bias is None else d_bias.to(hidden.dtype), None, None, None


def _layout(
    policy: Policy, prompts: Sequence[tuple[int, ...]], tokens: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right-padded prompt ++ completion [B, L], and for each completion token its row, column and predicting place."""
    if not all(prompts):
        raise DataError("a prompt has no tokens: begin it with the tokenizer's beginning mark or any text")
    width = tokens.shape[1]
    start = torch.tensor([len(prompt) for prompt in prompts])
    count = lengths.detach().cpu()
    total = start + count
    ids = torch.zeros(len(prompts), max(int(total.max()), 1), dtype=torch.long)
    rows = tokens.detach().cpu()
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt)] = torch.tensor(prompt)
        ids[i, len(prompt) : int(total[i])] = rows[i, : int(count[i])]
    row, column = (torch.arange(width)[None, :] < count[:, None]).nonzero(as_tuple=True)
    place = start[row] + column - 1
    device = policy.device
    return ids.to(device), row.to(device), column.to(device), place.to(device)


def _scatter(values: Tensor, row: Tensor, column: Tensor, shape: torch.Size) -> Tensor:
    return values.new_zeros(shape).index_put((row, column), values)
