"""The transformers engine: any causal language model, through its own forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from truegain.core.errors import SettingError
from truegain.core.types import Request, Sample, Sampling
from truegain.policy.decoder import Steer
from truegain.rollout import plan as planning
from truegain.rollout import sampler
from truegain.rollout.forced import Logp, score_apart
from truegain.rollout.loop import draw_rows
from truegain.rollout.native import load_weights
from truegain.rollout.plan import Plan
from truegain.rollout.steering import samplers_for
from truegain.rollout.stops import StopWatch


class TransformersEngine:
    """`truegain.core.types.Engine` over any policy. Rows run together when their given tokens are equally many, so
    that nothing is ever padded; equal given tokens are read once. ``max_rows`` bounds how many run at once.
    """

    def __init__(self, policy: Any, *, max_rows: int = 256, score_bytes: int = 2**30) -> None:  # noqa: D107
        self.policy, self.max_rows, self.score_bytes = policy, max_rows, score_bytes

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """Continue every request, as `truegain.rollout.native.NativeEngine.generate` does."""
        sampler.check(sampling)
        decoder = ModelDecoder(self.policy.model)
        planning.check(requests, decoder.vocabulary)
        _check_length(self.policy.model, requests, sampling.max_tokens)
        stop = sampling.stop
        watch = StopWatch(stop, self.policy.decode, decoder.vocabulary) if stop else None
        result: list[Any] = [None] * len(requests)
        with _without_dropout(self.policy.model):
            for places in self._equal(requests):
                whole = [Request(trunk=requests[place].given, key=requests[place].key) for place in places]
                for plan in planning.plans(whole, lambda rows, *_: rows, self.max_rows):
                    samplers = samplers_for(sampling, self.policy, decoder)
                    samples = draw_rows(decoder, plan, sampling, self.policy.eos_ids, watch, samplers)
                    for at, sample in zip(plan.index, samples, strict=True):
                        result[places[at]] = sample
        return result

    @torch.inference_mode()
    def score(self, requests: Sequence[Request]) -> list[Logp]:
        """Log-probs of every suffix token at temperature 1, each request in a right-padded row of its own."""
        model = self.policy.model
        planning.check(requests, _vocabulary(model), scored=True)
        _check_length(model, requests, 0)
        with _without_dropout(model):
            return score_apart(model, requests, self.score_bytes)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy a state dict into the model; nothing to do when it is the model's own."""
        load_weights(self.policy, weights)

    @staticmethod
    def _equal(requests: Sequence[Request]) -> list[list[int]]:
        """Places of the requests by how many tokens they give."""
        by_length: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            by_length.setdefault(len(request.given), []).append(place)
        return [by_length[length] for length in sorted(by_length)]


class ModelDecoder:
    """`truegain.rollout.loop.Decoder` over model(...). Its state is the tokens read and the model's own cache.

    A model whose cache is of an unknown kind is run without one, over all tokens at every step.
    """

    def __init__(self, model: Any) -> None:  # noqa: D107
        self.model = model
        self.device, self.vocabulary = next(model.parameters()).device, _vocabulary(model)
        self._layers = _blocks(model)

    @property
    def blocks(self) -> int:
        """How many blocks can be steered; 0 where they are not found."""
        return len(self._layers)

    def start(self, plan: Plan, room: int) -> tuple[dict[str, Any], Tensor]:
        """See `truegain.rollout.loop.Decoder`. The plan's trunks are equally long and whole, without suffixes."""
        of = torch.tensor(plan.of, device=self.device)
        trunks = torch.tensor(plan.trunks, device=self.device)
        out = self.model(input_ids=trunks, use_cache=True)
        cache: Any = getattr(out, "past_key_values", None)
        if not _is_simple(cache):
            return {"ids": trunks[of], "cache": None}, out.logits[of, -1]
        cache.batch_select_indices(of)
        return {"ids": trunks[of], "cache": cache}, out.logits[of, -1]

    def step(self, state: dict[str, Any], tokens: Tensor, steer: Steer | None = None) -> Tensor:
        """See `truegain.rollout.loop.Decoder`. Raises SettingError for a steered model that has no cache: what was
        changed at earlier tokens would be lost when they are read again."""
        state["ids"] = torch.cat((state["ids"], tokens[:, None]), 1)
        if state["cache"] is None:
            if steer is not None:
                raise SettingError(f"{type(self.model).__name__} has no plain cache, so it cannot be steered")
            return self.model(input_ids=state["ids"], use_cache=False).logits[:, -1]
        with _steered(self._layers, steer):
            out = self.model(input_ids=tokens[:, None], past_key_values=state["cache"], use_cache=True)
        state["cache"] = out.past_key_values
        return out.logits[:, -1]

    def select(self, state: dict[str, Any], rows: Tensor) -> dict[str, Any]:
        """See `truegain.rollout.loop.Decoder`."""
        if state["cache"] is not None:
            state["cache"].batch_select_indices(rows)
        return {"ids": state["ids"][rows], "cache": state["cache"]}


def _blocks(model: Any) -> list[Any]:
    """The blocks that the model runs one after the other: its one list of as many modules as its config says."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    return list(found[0]) if len(found) == 1 else []


@contextmanager
def _steered(blocks: Sequence[Any], steer: Steer | None) -> Iterator[None]:
    """Have ``steer`` change what each block hands on at the last position."""

    def hook(index: int) -> Any:
        def changed(_module: Any, _args: Any, out: Any) -> Any:
            assert steer is not None
            hidden = out[0] if isinstance(out, tuple) else out
            moved = torch.cat((hidden[:, :-1], steer(index, hidden[:, -1])[:, None]), 1)
            return (moved, *out[1:]) if isinstance(out, tuple) else moved

        return changed

    handles = [] if steer is None else [block.register_forward_hook(hook(n)) for n, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _check_length(model: Any, requests: Sequence[Request], room: int) -> None:
    """Refuse what a table of learned positions has no row for; rotary models have no such end."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if isinstance(limit, int) and not hasattr(config, "rope_parameters"):
        longest = max((len(request.given) for request in requests), default=0)
        if longest + room > limit:
            raise SettingError(
                f"{longest} given and {room} new tokens are more than the {limit} positions of "
                f"{type(model).__name__}: lower max_tokens or shorten the prompts"
            )


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config().vocab_size)


def _is_simple(cache: Any) -> bool:
    """True for a cache of plain keys and values, whose rows can be picked."""
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )
