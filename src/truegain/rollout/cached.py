"""The Llama family as a decoder: what rows have read is kept as keys and values in preallocated memory.

Drawing tokens is bound by the memory that attention reads. So rows that share a trunk share its keys and values, too
(`truegain.rollout.shared`), and only what a row read by itself is kept per row.

On a CUDA card, small products leave the card waiting for Python. There a step reads a whole window of slots, those
that are not filled yet under a mask, so that all steps of a window are one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from truegain.policy.decoder import Steer, compute_dtype, embedded, rotary, run, shape_of, weights_of
from truegain.rollout.plan import Plan, padded
from truegain.rollout.shared import KeysValues, Shared, mixture, share

# With fewer rows per trunk, trunks are copied to their rows: one product over more memory is then cheaper than two
SHARED_FROM = 2
# Slots of a window, and the fewest steps left in one that are worth the two steps that recording takes
WINDOW = 256
RECORD_FROM = 8


@dataclass
class Cache:
    """Keys and values [B, K, R, D] of what each row read by itself, per block; ``used`` of the R slots are filled.

    ``bias`` [B, R] is -inf at filled slots that a row must not look at (None: there are none). ``place`` [B] is the
    position of the next token. A slot says nothing of a position, as keys are rotated before they are kept.

    Where steps are windowed, ``slot`` [1] is ``used`` on the device, ``bias`` is -inf at the slots to come, too, and
    ``recorded`` the step of the window that was read last.
    """

    blocks: list[KeysValues]
    used: int
    bias: Tensor | None
    place: Tensor
    rope: tuple[Tensor, Tensor]
    shared: Shared | None
    slot: Tensor | None = None
    recorded: Recorded | None = None

    def end(self) -> int:
        """How many slots the next step reads: those filled and its own, or the window up to there."""
        if self.slot is None:
            return self.used + 1
        return min(self.blocks[0][0].shape[2], (self.used // WINDOW + 1) * WINDOW)


@dataclass
class Recorded:
    """The step of a window that ends at slot ``end``: ``replay()`` reads ``tokens`` [B] and leaves ``logits`` [B, V].

    ``replay`` is None until a first step has been run as it is, which prepares what a CUDA graph cannot record.
    """

    end: int
    tokens: Tensor
    logits: Tensor
    replay: Callable[[], None] | None = None

    def read(self, tokens: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits of ``step(tokens)``, which is recorded at the first call."""
        if self.replay is None:
            self.replay = record(lambda: self.logits.copy_(step(self.tokens)))
        self.tokens.copy_(tokens)
        self.replay()
        return self.logits


class LlamaDecoder:
    """`truegain.rollout.loop.Decoder`: reads each trunk once, then the suffixes, then one token per row at a time."""

    def __init__(self, model: Any) -> None:  # noqa: D107
        self.model, self.shape, self.weights = model, shape_of(model), weights_of(model)
        embedding = model.model.embed_tokens.weight
        self.device, self.vocabulary, self.dtype = embedding.device, embedding.shape[0], compute_dtype(embedding)
        self.grouped, self.scale = self.shape.heads != self.shape.kv_heads, self.shape.size**-0.5
        self.windowed = is_windowed(self.device)

    def cost(self, rows: int, trunks: int, given: tuple[int, int], room: int) -> int:
        """Bytes of the cache of so many rows, whose longest trunk and longest suffix are ``given``."""
        slot = 2 * len(self.weights.layers) * self.shape.kv_heads * self.shape.size * self.dtype.itemsize
        copied = given[0] if rows < SHARED_FROM * trunks else 0
        return slot * (rows * (copied + given[1] + room) + trunks * given[0])

    def start(self, plan: Plan, room: int) -> tuple[Cache, Tensor]:
        """See `truegain.rollout.loop.Decoder`."""
        of, cut = torch.tensor(plan.of, device=self.device), torch.tensor(plan.cut, device=self.device)
        length = torch.tensor([len(suffix) for suffix in plan.suffixes], device=self.device)
        trunks, longest = padded(plan.trunks, self.device), int(length.max())
        rope = rotary(self.model, torch.arange(trunks.shape[1] + longest + room, device=self.device))
        hidden, blocks = self._read_trunks(trunks, rope)
        last = hidden[of, (cut - 1).clamp(min=0)]
        trunk_bias, own_bias = self._behind(cut, trunks.shape[1], 0), self._behind(length, longest, room)
        if self.windowed:
            own_bias[:, longest:] = float("-inf")
        if len(of) >= SHARED_FROM * len(trunks):
            memory = self._memory(len(of), longest + room)
            cache = Cache(memory, 0, _or_none(own_bias), cut, rope, share(blocks, of, _or_none(trunk_bias)))
        else:
            memory, bias = self._memory(len(of), trunks.shape[1] + longest + room), torch.cat((trunk_bias, own_bias), 1)
            cache = Cache(memory, trunks.shape[1], _or_none(bias), cut, rope, None)
            for own, block in zip(memory, blocks, strict=True):
                for mine, trunk in zip(own, block, strict=True):
                    mine[:, :, : trunks.shape[1]] = trunk[of]
        if longest:
            hidden = self._read_suffixes(padded(plan.suffixes, self.device), cache)
            ends = hidden[torch.arange(len(of), device=self.device), (length - 1).clamp(min=0)]
            last = torch.where((length > 0)[:, None], ends, last)
            cache.used, cache.place = cache.used + longest, cut + length
        if self.windowed:
            cache.slot = torch.tensor([cache.used], device=self.device)
        return cache, F.linear(last, *self.weights.head)

    @property
    def blocks(self) -> int:
        """How many blocks can be steered."""
        return len(self.weights.layers)

    def step(self, state: Cache, tokens: Tensor, steer: Steer | None = None) -> Tensor:
        """See `truegain.rollout.loop.Decoder`."""
        end, recorded = state.end(), state.recorded
        if recorded is not None and recorded.end != end:
            recorded = None
        if state.slot is None or steer is not None or (recorded is None and end - state.used < RECORD_FROM):
            logits = self._read_token(state, tokens, end, steer)
        elif recorded is None:
            logits = self._read_token(state, tokens, end, None)
            state.recorded = Recorded(end, tokens.clone(), logits)
        else:
            logits = recorded.read(tokens, lambda given: self._read_token(state, given, end, None))
        state.used += 1
        return logits

    def _read_token(self, state: Cache, tokens: Tensor, end: int, steer: Steer | None) -> Tensor:
        """Logits [B, V] behind tokens [B], which look at the slots before ``end``."""
        heads, size, count, slot = self.shape.kv_heads, self.shape.size, len(tokens), state.slot
        rows, each, shared = count * heads, self.shape.heads // heads, state.shared
        bias, beta = state.place.new_zeros((1, 1, 1), dtype=self.dtype), 0
        if state.bias is not None:
            if slot is not None:
                state.bias.index_fill_(1, slot, 0)
            bias, beta = state.bias[:, None, :end].repeat_interleave(heads, 0), 1

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # For one query, plain batched products are several times faster than scaled_dot_product_attention on a CPU
            keys, values = (memory.view(rows, -1, size) for memory in state.blocks[index])
            for memory, new in ((keys, k), (values, v)):
                if slot is None:
                    memory[:, state.used] = new.reshape(rows, size)
                else:
                    memory.index_copy_(1, slot, new.reshape(rows, 1, size))
            keys, values, q = keys[:, :end], values[:, :end], q.reshape(rows, each, size)
            scores = torch.baddbmm(bias, q, keys.transpose(1, 2), beta=beta, alpha=self.scale)
            if shared is None:
                return mixture(scores.softmax(-1), values).view(count, -1)
            p = torch.cat((scores, shared.scores(index, q, self.scale)), -1).softmax(-1)
            mixed = shared.mixed(index, p[..., end:])
            return mixed.add_(mixture(p[..., :end], values)).view(count, -1)

        rope = (state.rope[0][state.place], state.rope[1][state.place])
        hidden = run(self.weights, self.shape, embedded(self.model, tokens), rope, attend, steer)
        state.place.add_(1)
        if slot is not None:
            slot.add_(1)
        return F.linear(hidden, *self.weights.head)

    def select(self, state: Cache, rows: Tensor) -> Cache:
        """See `truegain.rollout.loop.Decoder`. Rows move up within the memory that is there."""
        used = state.used
        for block in state.blocks:
            for memory in block:
                memory[: len(rows), :, :used] = memory[rows, :, :used]
        blocks = [(keys[: len(rows)], values[: len(rows)]) for keys, values in state.blocks]
        bias = None if state.bias is None else state.bias[rows]
        shared = None if state.shared is None else state.shared.select(rows)
        return Cache(blocks, used, bias, state.place[rows], state.rope, shared, state.slot)

    def _read_trunks(self, tokens: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, list[KeysValues]]:
        """Hidden states [N, P, d] of right-padded trunks [N, P], and their keys and values."""
        blocks: list[KeysValues] = []

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()
            blocks.append((k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
            return mixed.transpose(1, 2).flatten(2)

        here = (rope[0][: tokens.shape[1]], rope[1][: tokens.shape[1]])
        return run(self.weights, self.shape, embedded(self.model, tokens), here, attend), blocks

    def _read_suffixes(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Hidden states [B, S, d] of right-padded suffixes [B, S] that go on at each row's place; kept in the cache."""
        used, end, shared = cache.used, cache.used + tokens.shape[1], cache.shared
        steps = torch.arange(tokens.shape[1], device=self.device)
        wide = 0 if shared is None else shared.blocks[0][0].shape[2]
        mask = torch.zeros((*tokens.shape, wide + end), dtype=self.dtype, device=self.device)
        if shared is not None and shared.bias is not None:
            mask[..., :wide] += shared.bias[:, None]
        if cache.bias is not None:
            mask[..., wide : wide + used] += cache.bias[:, None, :used]
        mask[..., wide + used :].masked_fill_(steps > steps[:, None], float("-inf"))

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.blocks[index]
            keys[:, :, used:end], values[:, :, used:end] = k.transpose(1, 2), v.transpose(1, 2)
            keys, values = keys[:, :, :end], values[:, :, :end]
            if shared is not None:
                keys = torch.cat((shared.blocks[index][0][shared.of], keys), 2)
                values = torch.cat((shared.blocks[index][1][shared.of], values), 2)
            q = q.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask[:, None], enable_gqa=self.grouped)
            return mixed.transpose(1, 2).flatten(2)

        places = cache.place[:, None] + steps
        rope = (cache.rope[0][places], cache.rope[1][places])
        return run(self.weights, self.shape, embedded(self.model, tokens), rope, attend)

    def _memory(self, rows: int, slots: int) -> list[KeysValues]:
        shape, how = (rows, self.shape.kv_heads, slots, self.shape.size), {"dtype": self.dtype, "device": self.device}
        # A masked slot is multiplied, too: what stands in it has to be a number
        make = torch.zeros if self.windowed else torch.empty
        return [(make(shape, **how), make(shape, **how)) for _ in self.weights.layers]

    def _behind(self, count: Tensor, filled: int, room: int) -> Tensor:
        """[B, filled + room]: -inf at the filled slots behind a row's ``count``, 0 elsewhere."""
        slot = torch.arange(filled + room, device=self.device)
        bias = torch.zeros((len(count), filled + room), dtype=self.dtype, device=self.device)
        return bias.masked_fill_((slot >= count[:, None]) & (slot < filled), float("-inf"))


def _or_none(bias: Tensor) -> Tensor | None:
    return bias if bool(bias.any()) else None


def is_windowed(device: torch.device) -> bool:
    """Whether steps read whole windows, to be recorded."""
    return device.type == "cuda"


def record(work: Callable[[], Any]) -> Callable[[], None]:
    """A CUDA graph of the work, which is not done now."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
