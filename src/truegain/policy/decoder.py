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
Steer = Callable[[int, Tensor], Tensor]


class Adapted(NamedTuple):
    """A linear map with a LoRA adapter beside it: A [r, in], B [out, r], and the scale of B A."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scale: float


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
    q: Linear | Adapted
    k: Linear | Adapted
    v: Linear | Adapted
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Linear | Adapted
    mlp_norm: Tensor
    gate: Linear | Adapted
    up: Linear | Adapted
    down: Linear | Adapted


class Weights(NamedTuple):
    """What a forward pass multiplies by: the blocks, the scale of the final norm, and the head."""

    layers: list[Layer]
    norm: Tensor
    head: Linear


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
        and all(type(getattr(m, "base_layer", m)) is nn.Linear for m in linear)
        and type(model.lm_head) is nn.Linear
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

    return run(weights_of(model), shape, embedded(model, input_ids), rope, attend)


def embedded(model: Any, input_ids: Tensor) -> Tensor:
    """Embeddings [..., d] of tokens, in the dtype of the computation."""
    weight = model.model.embed_tokens.weight
    return F.embedding(input_ids, weight).to(compute_dtype(weight))


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits [..., V] of hidden states [..., d]."""
    return F.linear(hidden, *(_cast(p, hidden.dtype) for p in _pair(model.lm_head)))


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What to compute in: the weights' own dtype; float32 for bfloat16 on a CPU without instructions for it.

    There, products in bfloat16 take ten times as long as in float32, the conversion of the weights included.
    """
    slow = weight.is_cpu and weight.dtype == torch.bfloat16 and not _cpu_has_bfloat16()
    return torch.float32 if slow else weight.dtype


def _cpu_has_bfloat16() -> bool:
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def shape_of(model: Any) -> Shape:
    """The sizes that the blocks share."""
    c = model.config
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return Shape(c.num_attention_heads, c.num_key_value_heads, size, c.rms_norm_eps)


def weights_of(model: Any) -> Weights:
    """The parameters, not copied, unless they have to be converted to `compute_dtype`."""
    dtype = compute_dtype(model.model.embed_tokens.weight)
    found = Weights([_layer(block) for block in model.model.layers], model.model.norm.weight, _pair(model.lm_head))
    return found if found.norm.dtype == dtype else _cast(found, dtype)


def _cast(found: Any, dtype: torch.dtype) -> Any:
    """The tensors in nested tuples and lists in a dtype."""
    if isinstance(found, Tensor):
        return found.to(dtype)
    if isinstance(found, list):
        return [_cast(item, dtype) for item in found]
    if hasattr(found, "_fields"):
        return type(found)(*(_cast(item, dtype) for item in found))
    return tuple(_cast(item, dtype) for item in found) if isinstance(found, tuple) else found


def _layer(block: Any) -> Layer:
    # Joining q, k, v (and gate, up) into one product gains nothing on a CPU, and in training it costs a concatenation
    # of the gradients, so the maps stay apart.
    attention, mlp = block.self_attn, block.mlp
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return Layer(
        norm=block.input_layernorm.weight,
        q=_map(attention.q_proj),
        k=_map(attention.k_proj),
        v=_map(attention.v_proj),
        q_norm=None if q_norm is None else q_norm.weight,
        k_norm=None if k_norm is None else k_norm.weight,
        out=_map(attention.o_proj),
        mlp_norm=block.post_attention_layernorm.weight,
        gate=_map(mlp.gate_proj),
        up=_map(mlp.up_proj),
        down=_map(mlp.down_proj),
    )


def _pair(linear: Any) -> Linear:
    return linear.weight, linear.bias


def _map(module: Any) -> Linear | Adapted:
    """A linear map of a block. Without gradient, an adapter is added to the weight, once for many tokens."""
    base = getattr(module, "base_layer", None)
    if base is None:
        return _pair(module)
    a, b, scale = (getattr(module, name)["default"] for name in ("lora_A", "lora_B", "scaling"))
    # In a short format the sum would round a small adapter away.
    if torch.is_grad_enabled() or base.weight.dtype.itemsize < 4:
        return Adapted(base.weight, base.bias, a.weight, b.weight, scale)
    return torch.addmm(base.weight, b.weight, a.weight, alpha=scale), base.bias


def rotary(model: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [..., 1, D] of positions [...], in the dtype of the computation.

    The sine carries the sign of the rotation: rotated(x) = x * cos + swap(x) * sin, where swap exchanges the halves.
    """
    rope = model.model.rotary_emb
    angle = positions[..., None].float() * rope.inv_freq.float()
    cos, sin = angle.cos() * rope.attention_scaling, angle.sin() * rope.attention_scaling
    dtype = compute_dtype(model.model.embed_tokens.weight)
    return torch.cat((cos, cos), -1).to(dtype).unsqueeze(-2), torch.cat((-sin, sin), -1).to(dtype).unsqueeze(-2)


def run(
    weights: Weights,
    shape: Shape,
    x: Tensor,
    rope: tuple[Tensor, Tensor],
    attend: Attend,
    steer: Steer | None = None,
) -> Tensor:
    """Embeddings [..., d] through all blocks and the final norm. ``attend(i, q, k, v)`` takes q [..., H, D] and k, v
    [..., K, D] of block i, rotated, and gives [..., H * D]. ``steer(i, x)`` changes what block i hands on.
    """
    for index, layer in enumerate(weights.layers):
        x = _block(index, layer, shape, x, rope, attend)
        x = x if steer is None else steer(index, x)
    return F.rms_norm(x, x.shape[-1:], weights.norm, shape.eps)


def _block(index: int, layer: Layer, shape: Shape, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
    h = F.rms_norm(x, x.shape[-1:], layer.norm, shape.eps)
    q, k, v = (_apply(h, linear).unflatten(-1, (-1, shape.size)) for linear in (layer.q, layer.k, layer.v))
    if layer.q_norm is not None and layer.k_norm is not None:
        q = F.rms_norm(q, (shape.size,), layer.q_norm, shape.eps)
        k = F.rms_norm(k, (shape.size,), layer.k_norm, shape.eps)
    x = _added(x, attend(index, _rotated(q, rope), _rotated(k, rope), v), layer.out)
    h = F.rms_norm(x, x.shape[-1:], layer.mlp_norm, shape.eps)
    return _added(x, F.silu(_apply(h, layer.gate)) * _apply(h, layer.up), layer.down)


def _rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    low, high = x.chunk(2, -1)
    return torch.addcmul(x * rope[0], torch.cat((high, low), -1), rope[1])


def _apply(h: Tensor, linear: Linear | Adapted) -> Tensor:
    out = F.linear(h, linear[0], linear[1])
    return out + _low(h, linear) if isinstance(linear, Adapted) else out


def _low(h: Tensor, linear: Adapted) -> Tensor:
    """scale * B A h, computed in the adapter's number format."""
    return F.linear(F.linear(h.to(linear.a.dtype), linear.a), linear.b).mul(linear.scale).to(h.dtype)


def _added(x: Tensor, h: Tensor, linear: Linear | Adapted) -> Tensor:
    """x + linear(h), as one operation when there is no bias."""
    weight, bias = linear[:2]
    if isinstance(linear, Adapted):
        x = x + _low(h, linear)
    if bias is not None:
        return x + F.linear(h, weight, bias)
    return torch.addmm(x.flatten(0, -2), h.flatten(0, -2), weight.t()).view(x.shape)
