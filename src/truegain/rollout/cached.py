"""Decoders of the native engine: the Llama family with a preallocated cache, and the table policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from truegain.policy.decoder import head, layers_of, rotary, run, shape_of
from truegain.rollout.plan import Plan, padded


@dataclass
class Cache:
    """Keys and values that B rows have read: per block [2, B, K, L, D], of which the first ``used`` slots are filled.

    ``bias`` [B, L] is 0 for slots a row may look at and -inf for others (None: it may look at all that are filled);
    ``place`` [B] is the position of the next token. A slot says nothing of a position: keys are rotated already.
    """

    blocks: list[Tensor]
    bias: Tensor | None
    place: Tensor
    used: int
    rope: tuple[Tensor, Tensor]


class LlamaDecoder:
    """Reads each trunk once, copies its keys and values to the rows that share it, then one token per row at a time."""

    def __init__(self, model: Any) -> None:  # noqa: D107
        self.model, self.shape, self.layers = model, shape_of(model), layers_of(model)
        self.embedding = model.model.embed_tokens.weight
        self.device, self.vocabulary = self.embedding.device, self.embedding.shape[0]

    @property
    def slot_bytes(self) -> int:
        """Memory of one token of one row."""
        return 2 * len(self.layers) * self.shape.kv_heads * self.shape.size * self.embedding.element_size()

    def start(self, plan: Plan, room: int) -> tuple[Cache, Tensor]:
        """Prefill: see `truegain.rollout.loop.Decoder`."""
        of, cut = torch.tensor(plan.of, device=self.device), torch.tensor(plan.cut, device=self.device)
        trunks = padded(plan.trunks, self.device)
        wide, blocks = trunks.shape[1], []
        suffix = torch.tensor([len(s) for s in plan.suffixes], device=self.device)
        longest = max(len(s) for s in plan.suffixes)
        size = wide + longest + room
        rope = rotary(self.model, torch.arange(size, device=self.device))
        hidden = self._read_trunks(trunks, rope, blocks)
        last = hidden[of, (cut - 1).clamp(min=0)]
        cache = Cache(self._spread(blocks, of, size), _bias(cut, suffix, wide, longest, size), cut, wide, rope)
        if cache.bias is not None:
            cache.bias = cache.bias.to(hidden.dtype)
        if longest:
            hidden = self._read_suffixes(padded(plan.suffixes, self.device), cache)
            ends = hidden[torch.arange(len(of), device=self.device), (suffix - 1).clamp(min=0)]
            last = torch.where((suffix > 0)[:, None], ends, last)
            cache.place = cut + suffix
        return cache, head(self.model, last)

    def step(self, state: Cache, tokens: Tensor) -> Tensor:
        """One token per row: see `truegain.rollout.loop.Decoder`."""
        shape, slot, rows = self.shape, state.used, len(tokens)
        heads, each = rows * shape.kv_heads, shape.heads // shape.kv_heads
        scale = shape.size**-0.5
        if state.bias is None:
            bias, beta = state.place.new_zeros((1, 1, 1), dtype=self.embedding.dtype), 0
        else:
            bias, beta = state.bias[:, : slot + 1].repeat_interleave(shape.kv_heads, 0).unsqueeze(1), 1

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # For one query a plain batched product is several times faster than scaled_dot_product_attention on a CPU
            block = state.blocks[index]
            keys, values = block[0].view(heads, -1, shape.size), block[1].view(heads, -1, shape.size)
            keys[:, slot] = k.reshape(heads, shape.size)
            values[:, slot] = v.reshape(heads, shape.size)
            q = q.reshape(heads, each, shape.size)
            scores = torch.baddbmm(bias, q, keys[:, : slot + 1].transpose(1, 2), beta=beta, alpha=scale)
            return torch.bmm(scores.softmax(-1), values[:, : slot + 1]).view(rows, -1)

        rope = (state.rope[0][state.place], state.rope[1][state.place])
        hidden = run(self.model, self.layers, shape, F.embedding(tokens, self.embedding), rope, attend)
        state.used += 1
        state.place = state.place + 1
        return head(self.model, hidden)

    def select(self, state: Cache, rows: Tensor) -> Cache:
        """Some rows: see `truegain.rollout.loop.Decoder`. They move up within the memory that is there."""
        count, used = len(rows), state.used
        for index, block in enumerate(state.blocks):
            block[:, :count, :, :used] = block[:, rows, :, :used]
            state.blocks[index] = block[:, :count]
        bias = None if state.bias is None else state.bias[rows]
        return Cache(state.blocks, bias, state.place[rows], used, state.rope)

    def _read_trunks(self, tokens: Tensor, rope: tuple[Tensor, Tensor], blocks: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Hidden states [N, L, d] of right-padded trunks; their keys and values go into ``blocks``."""
        grouped = self.shape.heads != self.shape.kv_heads

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            blocks.append((k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            return mixed.transpose(1, 2).flatten(2)

        here = (rope[0][: tokens.shape[1]], rope[1][: tokens.shape[1]])
        return run(self.model, self.layers, self.shape, F.embedding(tokens, self.embedding), here, attend)

    def _spread(self, blocks: list[tuple[Tensor, Tensor]], of: Tensor, size: int) -> list[Tensor]:
        """Copy the trunks' keys and values to their rows, in memory that holds ``size`` tokens."""
        spread = []
        while blocks:
            k, v = blocks.pop(0)
            block = k.new_empty((2, len(of), self.shape.kv_heads, size, self.shape.size))
            block[0, :, :, : k.shape[2]] = k[of]
            block[1, :, :, : v.shape[2]] = v[of]
            spread.append(block)
        return spread

    def _read_suffixes(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Hidden states [B, S, d] of right-padded suffixes that continue each row at its cut; fills the cache."""
        rows, count = tokens.shape
        slots = slice(cache.used, cache.used + count)
        steps = torch.arange(count, device=self.device)
        grouped = self.shape.heads != self.shape.kv_heads
        mask = torch.zeros((rows, count, slots.stop), dtype=self.embedding.dtype, device=self.device)
        if cache.bias is not None:
            mask += cache.bias[:, None, : slots.stop]
        # A padded suffix token must see something: its own slot, and nothing looks at it
        mask[:, :, slots].masked_fill_(steps[None, :] > steps[:, None], float("-inf"))
        mask[:, steps, steps + slots.start] = 0.0

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            block = cache.blocks[index]
            block[0, :, :, slots], block[1, :, :, slots] = k.transpose(1, 2), v.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                block[0, :, :, : slots.stop],
                block[1, :, :, : slots.stop],
                attn_mask=mask[:, None],
                enable_gqa=grouped,
            )
            return mixed.transpose(1, 2).flatten(2)

        places = cache.place[:, None] + steps
        rope = (cache.rope[0][places], cache.rope[1][places])
        hidden = run(self.model, self.layers, self.shape, F.embedding(tokens, self.embedding), rope, attend)
        cache.used = slots.stop
        return hidden


def _bias(cut: Tensor, suffix: Tensor, wide: int, longest: int, size: int) -> Tensor | None:
    """[B, L]: -inf at slots between a row's cut and the suffixes, and between its suffix and the drawn tokens."""
    if bool((cut == wide).all()) and bool((suffix == longest).all()):
        return None
    slot = torch.arange(size, device=cut.device)
    trunk_gap = (slot >= cut[:, None]) & (slot < wide)
    suffix_gap = (slot >= wide + suffix[:, None]) & (slot < wide + longest)
    return torch.zeros((len(cut), size), device=cut.device).masked_fill_(trunk_gap | suffix_gap, float("-inf"))


class TableDecoder:
    """The table policy: its whole state is the last tokens of each row, as many as choose a row of the table."""

    def __init__(self, model: Any) -> None:  # noqa: D107
        self.model, self.order = model, max(int(model.config.order), 1)
        self.device, self.vocabulary = next(model.parameters()).device, int(model.config.vocab_size)

    @property
    def slot_bytes(self) -> int:
        """Memory of one token of one row."""
        return 8

    def start(self, plan: Plan, room: int) -> tuple[list[Tensor], Tensor]:
        """See `truegain.rollout.loop.Decoder`. Short beginnings are filled up as the policy itself does, with bos."""
        bos = getattr(self.model.config, "bos_token_id", None) or 0
        rows = [plan.given(row)[-self.order :] for row in range(len(plan.of))]
        window = torch.tensor([[bos] * (self.order - len(row)) + list(row) for row in rows], device=self.device)
        return [window], self._logits(window)

    def step(self, state: list[Tensor], tokens: Tensor) -> Tensor:
        """See `truegain.rollout.loop.Decoder`."""
        state[0] = torch.cat((state[0][:, 1:], tokens[:, None]), 1)
        return self._logits(state[0])

    def select(self, state: list[Tensor], rows: Tensor) -> list[Tensor]:
        """See `truegain.rollout.loop.Decoder`."""
        return [state[0][rows]]

    def _logits(self, window: Tensor) -> Tensor:
        return self.model(input_ids=window).logits[:, -1]
