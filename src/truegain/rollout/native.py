"""The native engine: the Llama family and the table policy, in the same process and on the policy's own parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.core.types import Request, Sample, Sampling
from truegain.policy.decoder import supports
from truegain.rollout import plan as planning
from truegain.rollout import sampler
from truegain.rollout.cached import LlamaDecoder
from truegain.rollout.forced import Logp, score_apart, score_trees
from truegain.rollout.loop import draw_rows
from truegain.rollout.steering import samplers_for
from truegain.rollout.stops import StopWatch
from truegain.rollout.table import TableDecoder

TABLE = "truegain_table"


def is_native(model: Any) -> bool:
    """True if the native engine can run the model."""
    return getattr(model.config, "model_type", None) == TABLE or supports(model)


class NativeEngine:
    """`truegain.core.types.Engine` over a policy. ``cache_bytes`` bounds the memory of what rows have read.

    The parameters are shared, not copied: after an optimiser step the engine draws from the new policy.
    """

    def __init__(self, policy: Any, *, cache_bytes: int = 2**30) -> None:
        """Raise SettingError for a model that only the transformers engine can run."""
        if not is_native(policy.model):
            name = type(policy.model).__name__
            raise SettingError(f"the native engine does not know {name}: use rollout.engines.engine_for(policy)")
        self.policy, self.cache_bytes = policy, cache_bytes
        self._watches: dict[tuple[str, ...], StopWatch] = {}

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """Continue every request; see `truegain.core.types.Engine`.

        A row's tokens depend on its given tokens, its key and the weights; on neighbours only through the last bits of
        matrix products. Log-probs are of the sampling distribution: after temperature, top-k and top-p; 0 when greedy.
        """
        sampler.check(sampling)
        decoder = self._decoder()
        planning.check(requests, decoder.vocabulary)
        watch = self._watch(sampling.stop, decoder.vocabulary)

        def cost(rows: int, trunks: int, trunk: int, suffix: int) -> int:
            return decoder.cost(rows, trunks, (trunk, suffix), sampling.max_tokens)

        result: list[Any] = [None] * len(requests)
        for plan in planning.plans(requests, cost, self.cache_bytes):
            samplers = samplers_for(sampling, self.policy, decoder)
            samples = draw_rows(decoder, plan, sampling, self.policy.eos_ids, watch, samplers)
            for place, sample in zip(plan.index, samples, strict=True):
                result[place] = sample
        return result

    @torch.inference_mode()
    def score(self, requests: Sequence[Request]) -> list[Logp]:
        """Log-probs of every suffix token at temperature 1; all requests with one trunk in one forward."""
        model = self.policy.model
        planning.check(requests, model.config.vocab_size, scored=True)
        if model.config.model_type == TABLE:
            return score_apart(model, requests, self.cache_bytes)
        return score_trees(model, requests, self.cache_bytes)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy a state dict into the model; nothing to do when it is the model's own."""
        load_weights(self.policy, weights)

    def _decoder(self) -> LlamaDecoder | TableDecoder:
        model = self.policy.model
        return TableDecoder(model) if model.config.model_type == TABLE else LlamaDecoder(model)

    def _watch(self, stop: tuple[str, ...], vocabulary: int) -> StopWatch | None:
        if stop and stop not in self._watches:
            self._watches[stop] = StopWatch(stop, self.policy.decode, vocabulary)
        return self._watches.get(stop)


def load_weights(policy: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy a state dict into the policy's model, unless it is the model's own. Raises DataError on another model's."""
    own = policy.model.state_dict()
    if all(name in own and own[name].data_ptr() == value.data_ptr() for name, value in weights.items()):
        return
    policy.load_weights(weights)
