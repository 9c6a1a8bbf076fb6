"""Samplers in the engines: hidden states steered as tokens are read, with a state per row; logits changed before draws.

The oracle reads prompt and completion in one forward of the module, adding the same vectors through a hook.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from rollout_models import LETTERS, FakePolicy, V, gpt2, model_of
from torch import Tensor

from truegain.core.component import REGISTRY, component, spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.types import Request, Sampling
from truegain.methods import reward
from truegain.policy.table import table_model
from truegain.rollout.hf import TransformersEngine
from truegain.rollout.native import NativeEngine

WIDTH = 32
SEEN: list[tuple[str, float]] = []
REQUESTS = [*[Request((3, 4, 5), key=i) for i in range(5)], Request((6, 7, 8, 9), key=9, cut=2, suffix=(11, 12))]


def count_and_push(hidden, peak, text, state, *, layer=1, strength=2.0):
    """Every other token of a row is pushed, by its number and its peak: wrong if a row's state or peak is another's."""
    number = state.get("number", torch.zeros(len(hidden)))
    SEEN.extend(zip(text, peak.tolist(), strict=True))
    push = (number % 2 == 0).float() * strength * (1 + number) * peak
    return hidden + push[:, None] * torch.linspace(-1, 1, hidden.shape[1]), {"number": number + 1}


def forbid(logits, history, *, token=7):
    """Never this token, and never the one drawn last."""
    out = logits.clone()
    out[:, token] = float("-inf")
    return out.scatter(1, history[:, -1:], float("-inf")) if history.shape[1] else out


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    for member in (count_and_push, forbid):
        component("sampler", cite="truegain")(member)
    SEEN.clear()
    yield
    for member in (count_and_push, forbid):
        REGISTRY.pop(spec_of(member).full_name, None)


def engine(kind: str, eos: frozenset[int] = frozenset()) -> Any:
    if kind == "gpt2":
        return TransformersEngine(FakePolicy(gpt2(), eos))
    if kind == "hf":
        return TransformersEngine(FakePolicy(model_of("llama"), eos))
    return NativeEngine(FakePolicy(model_of(kind), eos))


def blocks_of(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def steered_logits(model: Any, given: tuple[int, ...], ids: tuple[int, ...], layer: int) -> Tensor:
    """Logits [len(ids), V] before each drawn token; what was drawn before is read once more, push by push."""
    peaks: list[float] = []
    rows: list[Tensor] = []
    for t in range(len(ids)):
        pushes = torch.zeros(len(given) + t)
        for number in range(t):
            pushes[len(given) + number] = (number % 2 == 0) * 2.0 * (1 + number) * peaks[number]

        def hook(_m: Any, _a: Any, out: Any, pushes: Tensor = pushes) -> Any:
            hidden = out[0] if isinstance(out, tuple) else out
            moved = hidden + pushes[None, :, None] * torch.linspace(-1, 1, WIDTH)
            return (moved, *out[1:]) if isinstance(out, tuple) else moved

        handle = blocks_of(model)[layer].register_forward_hook(hook)
        with torch.no_grad():
            last = model(input_ids=torch.tensor([given + ids[:t]])).logits[0, -1].float()
        handle.remove()
        rows.append(last)
        peaks.append(float(last.softmax(-1).max()))
    return torch.stack(rows)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "hf", "gpt2"])
def test_log_probs_are_those_of_a_model_read_anew_with_the_same_pushes(kind: str, layer: int) -> None:
    found = engine(kind)
    how = Sampling(max_tokens=8, samplers=(partial(count_and_push, layer=layer),))
    plain = found.generate(REQUESTS, Sampling(max_tokens=8))
    drawn = found.generate(REQUESTS, how)
    assert any(a.ids != b.ids for a, b in zip(plain, drawn, strict=True))
    for request, sample in zip(REQUESTS, drawn, strict=True):
        wanted = steered_logits(found.policy.model, request.given, sample.ids, layer).log_softmax(-1)
        own = wanted[torch.arange(len(sample.ids)), torch.tensor(sample.ids)]
        assert sample.logp == pytest.approx(own.tolist(), abs=2e-3)
    # The first drawn token is seen with its own text; the last one is never read.
    assert SEEN[0][0] == LETTERS[drawn[0].ids[0]]


@pytest.mark.parametrize("kind", ["llama", "hf"])
def test_a_rows_state_is_its_own_while_neighbours_end(kind: str) -> None:
    found = engine(kind, frozenset(range(0, V, 4)))
    how = Sampling(max_tokens=12, samplers=(count_and_push,))
    together = found.generate(REQUESTS, how)
    assert len({len(sample.ids) for sample in together}) > 2
    for request, sample in zip(REQUESTS, together, strict=True):
        (alone,) = found.generate([request], how)
        assert (alone.ids, alone.stop) == (sample.ids, sample.stop)


@pytest.mark.parametrize("kind", ["llama", "hf"])
def test_a_sampler_of_logits_runs_before_each_draw(kind: str) -> None:
    drawn = engine(kind).generate(REQUESTS, Sampling(max_tokens=16, temperature=2.0, samplers=(forbid,)))
    for sample in drawn:
        assert 7 not in sample.ids and all(a != b for a, b in zip(sample.ids, sample.ids[1:], strict=False))


def test_a_table_has_no_hidden_states_and_refuses_by_name_but_takes_samplers_of_logits() -> None:
    table = NativeEngine(FakePolicy(table_model(order=1, vocab_size=V, bos_token_id=1)))
    with pytest.raises(SettingError, match=r"count_and_push steers hidden states, and TablePolicy has none"):
        table.generate(REQUESTS, Sampling(max_tokens=2, samplers=(count_and_push,)))
    assert all(7 not in s.ids for s in table.generate(REQUESTS, Sampling(max_tokens=20, samplers=(forbid,))))


@pytest.mark.parametrize("layer", [-1, 2, True, None])
def test_a_block_that_the_model_does_not_have_is_refused(layer: Any) -> None:
    with pytest.raises(SettingError, match="layer must be 0 to 1 of LlamaForCausalLM"):
        engine("llama").generate(REQUESTS, Sampling(samplers=(partial(count_and_push, layer=layer),)))


def test_what_is_no_sampler_is_refused() -> None:
    with pytest.raises(WiringError, match=r"reward\.outcome is a reward, not a sampler"):
        engine("llama").generate(REQUESTS, Sampling(samplers=(reward.outcome,)))


def test_a_model_without_a_plain_cache_cannot_be_steered() -> None:
    found = engine("hf")
    found.policy.model.config.use_cache = False

    class Forgetful(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def forward(self, input_ids: Any, **_: Any) -> Any:
            return self.inner(input_ids=input_ids, use_cache=False)

    found.policy.model = Forgetful(found.policy.model)
    assert found.generate(REQUESTS[:1], Sampling(max_tokens=3))
    with pytest.raises(SettingError, match="no plain cache"):
        found.generate(REQUESTS[:1], Sampling(max_tokens=3, samplers=(count_and_push,)))
