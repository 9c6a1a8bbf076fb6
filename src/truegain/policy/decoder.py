"""A fast forward pass of the Llama family (Llama, Qwen2, Qwen3), straight on the parameters of the Hugging Face module.

One block function serves training (full causal, differentiable), prefill, decoding one token at a time, and scoring
under a tree mask: only the attention, passed in as ``attend``, differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# Kinds of rotary embedding whose frequencies are fixed when the module is built
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
Linear: TypeAlias = tuple[Tensor, Tensor | None]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """Heads H, key-value heads K, head size D, and the epsilon of the norms."""

    heads: int
    kv_heads: int
    size: int
    eps: float


class Layer(NamedTuple):
    """The parameters of one block; a linear map is its (weight, bias)."""

    norm: Tensor
    q: Linear
    k: Linear
    v: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Linear
    mlp_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear


def supports(model: Any) -> bool:
    """True if this file computes exactly what the model's own forward does."""
    if type(model).__name__ not in CLASSES or type(model.model.embed_tokens) is not nn.Embedding:
        return False
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    linear = [m for n, m in model.named_modules() if n.endswith(("_proj", "lm_head"))]
    return (
        rope in ROPE_TYPES
        and kinds == {"full_attention"}
        and config.hidden_act == "silu"
        and not config.attention_dropout
        and getattr(config, "pretraining_tp", 1) in (None, 1)
        and all(type(m) is nn.Linear for m in linear)
        and all(type(p.data) is Tensor for p in model.parameters())  # not sharded, not quantised
    )


def hidden_states(
    model: Any, input_ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Last hidden states [B, L, d], after the final norm, of tokens [B, L]; differentiable.

    Attention is causal and positions count from 0, so right padding is inert. With ``mask`` [B, 1, L, L] (boolean:
    true where row may look at column; or additive) and ``positions`` [B, L] it computes any other pattern, a tree for
    one. ``model`` must be one that `supports` accepts.
    """
    shape = shape_of(model)
    rope = rotary(model, torch.arange(input_ids.shape[1], device=input_ids.device) if positions is None else positions)
    grouped = shape.kv_heads != shape.heads

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
        return mixed.transpose(1, 2).flatten(2)

    x = F.embedding(input_ids, model.model.embed_tokens.weight)
    return run(model, layers_of(model), shape, x, rope, attend)


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits [..., V] of hidden states [..., d]."""
    return F.linear(hidden, model.lm_head.weight, model.lm_head.bias)


def shape_of(model: Any) -> Shape:
    """The sizes that the blocks share."""
    c = model.config
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return Shape(c.num_attention_heads, c.num_key_value_heads, size, c.rms_norm_eps)


def layers_of(model: Any) -> list[Layer]:
    """The blocks' parameters, not copied."""
    return [_layer(block) for block in model.model.layers]


def _layer(block: Any) -> Layer:
    # Joining q, k, v (and gate, up) into one product gains nothing on a CPU, and in training it costs a concatenation
    # of the gradients, so the maps stay apart.
    attention, mlp = block.self_attn, block.mlp
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return Layer(
        norm=block.input_layernorm.weight,
        q=_pair(attention.q_proj),
        k=_pair(attention.k_proj),
        v=_pair(attention.v_proj),
        q_norm=None if q_norm is None else q_norm.weight,
        k_norm=None if k_norm is None else k_norm.weight,
        out=_pair(attention.o_proj),
        mlp_norm=block.post_attention_layernorm.weight,
        gate=_pair(mlp.gate_proj),
        up=_pair(mlp.up_proj),
        down=_pair(mlp.down_proj),
    )


def _pair(linear: Any) -> Linear:
    return linear.weight, linear.bias


def rotary(model: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [..., 1, D] of positions [...], in the model's dtype.

    The sine carries the sign of the rotation: rotated(x) = x * cos + swap(x) * sin, where swap exchanges the halves.
    """
    rope = model.model.rotary_emb
    angle = positions[..., None].float() * rope.inv_freq.float()
    cos, sin = angle.cos() * rope.attention_scaling, angle.sin() * rope.attention_scaling
    dtype = model.model.embed_tokens.weight.dtype
    return torch.cat((cos, cos), -1).to(dtype).unsqueeze(-2), torch.cat((-sin, sin), -1).to(dtype).unsqueeze(-2)


def run(
    model: Any, layers: list[Layer], shape: Shape, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend
) -> Tensor:
    """Embeddings [..., d] through all blocks and the final norm. ``attend(i, q, k, v)`` takes q [..., H, D] and k, v
    [..., K, D] of block i, rotated, and gives [..., H * D].
    """
    for index, layer in enumerate(layers):
        x = _block(index, layer, shape, x, rope, attend)
    return F.rms_norm(x, x.shape[-1:], model.model.norm.weight, shape.eps)


def _block(index: int, layer: Layer, shape: Shape, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
    h = F.rms_norm(x, x.shape[-1:], layer.norm, shape.eps)
    q, k, v = (F.linear(h, *pair).unflatten(-1, (-1, shape.size)) for pair in (layer.q, layer.k, layer.v))
    if layer.q_norm is not None and layer.k_norm is not None:
        q = F.rms_norm(q, (shape.size,), layer.q_norm, shape.eps)
        k = F.rms_norm(k, (shape.size,), layer.k_norm, shape.eps)
    x = _added(x, attend(index, _rotated(q, rope), _rotated(k, rope), v), layer.out)
    h = F.rms_norm(x, x.shape[-1:], layer.mlp_norm, shape.eps)
    return _added(x, F.silu(F.linear(h, *layer.gate)) * F.linear(h, *layer.up), layer.down)


def _rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    low, high = x.chunk(2, -1)
    return torch.addcmul(x * rope[0], torch.cat((high, low), -1), rope[1])


def _added(x: Tensor, h: Tensor, pair: Linear) -> Tensor:
    """x + linear(h), as one operation when there is no bias."""
    weight, bias = pair
    if bias is not None:
        return x + F.linear(h, weight, bias)
    return torch.addmm(x.flatten(0, -2), h.flatten(0, -2), weight.t()).view(x.shape)
