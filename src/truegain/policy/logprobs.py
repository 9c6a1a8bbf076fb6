"""Log-probabilities and entropy of given tokens in one forward pass, in slices of a large vocabulary."""

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

CHUNK_BYTES = 64 * 2**20
CUDA_CHUNK_BYTES = 256 * 2**20  # a card takes a larger slice in its stride, and has fewer of them to start
KEEP_BYTES = 256 * 2**20
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
        tokens = tokens.to(policy.device)
        packed = _packed(policy, prompts, tokens, lengths)
        if packed is None:
            ids, row, column, place = _layout(policy, prompts, tokens, lengths)
        else:
            ids, row, column, place = packed.ids, packed.row, packed.column, packed.before
        targets = tokens[row, column]
        if has_plain_head(policy.model):
            head = policy.model.get_output_embeddings()
            if packed is not None:
                picked = packing.hidden_states(policy.model, packed).index_select(0, place)
            else:
                picked = hidden_states(policy, ids)[row, place]
            weight, bias = head.weight.to(picked.dtype), getattr(head, "bias", None)
            bias = None if bias is None else bias.to(picked.dtype)
            logp, spread = logp_from_hidden(picked, weight, bias, targets, temperature, entropy)
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
    """The rows in one line of tokens; None when that does not pay or the model cannot do it."""
    if not all(prompts) or not is_fast(policy.model) or not has_plain_head(policy.model):
        return None
    config = policy.model.config
    params = sum(p.numel() for p in policy.model.parameters())
    width = config.num_hidden_layers * config.hidden_size
    return packing.pack(prompts, tokens.detach(), lengths, params, width)


def is_fast(model: Any) -> bool:
    """True if `truegain.policy.decoder` computes this model's forward."""
    if model not in _fast:
        _fast[model] = decoder.supports(model)
    return _fast[model]


def hidden_states(policy: Policy, ids: Tensor) -> Tensor:
    """Last hidden states [B, L, d], after the final norm, of right-padded tokens [B, L]; positions count from 0.

    Of the table policy: which row of the table the context has, one-hot.
    """
    model = policy.model
    if hasattr(model, "context_index"):
        return nn.functional.one_hot(model.context_index(ids), model.config.rows).to(policy.dtype)
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

    Logits exist for a slice of the vocabulary at a time, at most `CHUNK_BYTES`. At most `KEEP_BYTES` of them are kept
    for the gradient; the others are made anew.
    """
    if not torch.is_grad_enabled():  # of a parameter, the function would else keep what no gradient will ask for
        weight = weight.detach()
        bias = None if bias is None else bias.detach()
    logp, spread = _HeadLogp.apply(hidden, weight, bias, targets, temperature, entropy)  # pyright: ignore
    return logp, spread if entropy else None


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _slices(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = CUDA_CHUNK_BYTES if hidden.is_cuda else CHUNK_BYTES
    width = max(1, size // (_wide(hidden).itemsize * max(len(hidden), 1)))
    width -= width % 64 if width > 64 else 0  # whole tiles of a product
    return [slice(start, min(start + width, len(weight))) for start in range(0, len(weight), width)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice, temperature: float) -> Tensor:
    logits = nn.functional.linear(hidden, weight[part], None if bias is None else bias[part]).to(_wide(hidden))
    return logits if temperature == 1.0 else logits.div_(temperature)


def _inside(targets: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Which targets [N] are in a slice, and their columns [N, 1] in it (any column for the others)."""
    column = (targets - part.start).clamp(0, part.stop - part.start - 1)[:, None]
    return (targets >= part.start) & (targets < part.stop), column


class _HeadLogp(torch.autograd.Function):
    """With z the scaled logits, p their softmax and H its entropy:

    d logp_y / dz_j = [j = y] - p_j,    d H / dz_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *knobs: Any) -> Any:
        temperature, entropy = knobs
        chosen = torch.zeros(len(hidden), dtype=_wide(hidden), device=hidden.device)
        # Over the slices so far: the largest logit m, the sum of exp(z - m), and the sum of exp(z - m) (z - m)
        top, total, moment = torch.full_like(chosen, torch.finfo(chosen.dtype).min), chosen.clone(), chosen.clone()
        kept: list[Tensor] = []
        room = KEEP_BYTES if any(ctx.needs_input_grad) else 0
        for part in _slices(hidden, weight):
            z = _logits(hidden, weight, bias, part, temperature)
            inside, column = _inside(targets, part)
            chosen = torch.where(inside, z.gather(1, column)[:, 0], chosen)
            before, top = top, torch.maximum(top, z.amax(-1))
            fall = before - top
            beyond = z - top[:, None]
            p = beyond.exp()
            if entropy:
                moment = fall.exp() * (moment + fall * total) + torch.linalg.vecdot(p, beyond)
            total = fall.exp() * total + p.sum(-1)
            room -= z.nbytes
            if room >= 0:
                kept.append(z)
        whole = top + total.log()
        spread = total.log() - moment / total
        ctx.save_for_backward(hidden, weight, bias, targets, whole, spread)
        ctx.kept, ctx.temperature = kept, temperature
        ctx.set_materialize_grads(False)
        return chosen - whole, spread

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, whole, spread = ctx.saved_tensors
        on_logp, on_spread = (None if grad is None else grad / ctx.temperature for grad in grads)
        on_logp = torch.zeros_like(whole) if on_logp is None else on_logp
        scale = None if on_spread is None else -on_spread[:, None]
        shift = -on_logp[:, None] if on_spread is None else -(on_spread * spread + on_logp)[:, None]
        d_hidden = torch.zeros_like(hidden, dtype=_wide(hidden))
        d_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        d_bias = torch.empty_like(bias) if bias is not None else None
        for number, part in enumerate(_slices(hidden, weight)):
            fresh = number >= len(ctx.kept)
            z = _logits(hidden, weight, bias, part, ctx.temperature) if fresh else ctx.kept[number]
            log_p = z.sub_(whole[:, None]) if fresh else z - whole[:, None]
            d_z = log_p.exp()
            # p times -on_spread (log p + H) - on_logp, in as few passes over the slice as there are
            d_z *= shift if scale is None else torch.addcmul(shift, log_p, scale, out=log_p)
            inside, column = _inside(targets, part)
            d_z.scatter_add_(1, column, torch.where(inside, on_logp, 0.0)[:, None])
            d_z = d_z.to(hidden.dtype)
            d_hidden += d_z @ weight[part]
            if d_weight is not None:
                torch.mm(d_z.T, hidden, out=d_weight[part])
            if d_bias is not None:
                d_bias[part] = d_z.sum(0)
        return d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None


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
