from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from rollout_models import FAMILIES, FakePolicy, V, gpt2, model_of
from scipy import stats

from truegain.core.errors import DataError, RunError, SettingError
from truegain.core.types import Engine, Request, Sample, Sampling
from truegain.policy.table import table_model
from truegain.rollout.engines import engine_for
from truegain.rollout.hf import TransformersEngine
from truegain.rollout.native import NativeEngine

TRUNKS = [tuple(range(3, 3 + n)) for n in (5, 9, 2)]
# groups, forks at several cuts, suffixes of several lengths, a cut at 0 with a suffix
REQUESTS = [
    *[Request(TRUNKS[0], key=10 + i) for i in range(4)],
    *[Request(TRUNKS[1], key=20 + i, cut=cut) for i, cut in enumerate((1, 4, 9))],
    *[Request(TRUNKS[1], key=30 + i, cut=cut, suffix=(1, 2, 30)[:i]) for i, cut in enumerate((0 + 2, 4, 9, 7))],
    Request(TRUNKS[2], key=41, cut=0, suffix=(7, 8)),
    Request((), key=42, suffix=(7, 8, 9, 10)),
]


def table() -> Any:
    model = table_model(order=2, vocab_size=V, bos_token_id=1)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.weight, std=2.0)
    return model.eval()


def engine(kind: str, eos: frozenset[int] = frozenset()) -> Any:
    if kind == "gpt2":
        return TransformersEngine(FakePolicy(gpt2(), eos))
    if kind.startswith("hf "):
        return TransformersEngine(FakePolicy(model_of(kind[3:]), eos))
    return NativeEngine(FakePolicy(table() if kind == "table" else model_of(kind), eos))


def full_logits(model: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].float()


KINDS = [*FAMILIES, "table", "gpt2", "hf llama"]
SAMPLING = Sampling(max_tokens=12, temperature=1.3, top_k=20, top_p=0.95)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_draws_the_same_alone_as_among_others(kind: str) -> None:
    e = engine(kind, frozenset({5, 11, 17}))
    together = e.generate(REQUESTS, SAMPLING)
    for request, sample in zip(REQUESTS, together, strict=True):
        (alone,) = e.generate([request], SAMPLING)
        assert alone.ids == sample.ids and alone.stop == sample.stop
        assert alone.logp == pytest.approx(sample.logp, abs=1e-4)
    assert e.generate(REQUESTS[::-1], SAMPLING)[::-1] == [pytest_close(sample) for sample in together]


class pytest_close:
    def __init__(self, sample: Sample) -> None:
        self.sample = sample

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Sample)
        return other.ids == self.sample.ids and other.logp == pytest.approx(self.sample.logp, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_reported_log_probs_are_those_of_the_sampling_distribution(kind: str) -> None:
    from truegain.rollout.sampler import filtered

    e = engine(kind)
    for request, sample in zip(REQUESTS, e.generate(REQUESTS, SAMPLING), strict=True):
        assert len(sample.ids) == 12 and sample.stop == "length"
        logits = full_logits(e.policy.model, request.given + sample.ids)[len(request.given) - 1 : -1]
        want = filtered(logits, SAMPLING).log_softmax(-1).gather(-1, torch.tensor(sample.ids)[:, None])[:, 0]
        assert sample.logp == pytest.approx(want.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_zero_is_the_argmax_of_transformers_forward(kind: str) -> None:
    e = engine(kind)
    for request, sample in zip(REQUESTS, e.generate(REQUESTS, Sampling(max_tokens=8, temperature=0)), strict=True):
        tokens = request.given
        for drawn in sample.ids:
            assert drawn == int(full_logits(e.policy.model, tokens)[-1].argmax())
            tokens = (*tokens, drawn)
        assert set(sample.logp) == {0.0}


@pytest.mark.parametrize("kind", ["llama", "table", "hf llama"])
def test_a_fork_draws_what_a_fresh_request_with_the_same_tokens_draws(kind: str) -> None:
    e = engine(kind)
    fresh = [Request(request.given, key=request.key) for request in REQUESTS]
    forked = e.generate(REQUESTS, SAMPLING)
    assert [s.ids for s in forked] == [s.ids for s in e.generate(fresh, SAMPLING)]


def test_native_and_transformers_engines_draw_the_same() -> None:
    native = engine("llama", frozenset({5, 6})).generate(REQUESTS, SAMPLING)
    other = engine("hf llama", frozenset({5, 6})).generate(REQUESTS, SAMPLING)
    assert [(s.ids, s.stop) for s in native] == [(s.ids, s.stop) for s in other]


def test_a_small_memory_bound_changes_nothing_but_the_number_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from truegain.rollout import native

    policy = FakePolicy(model_of(), frozenset({5, 11, 17}))
    calls: list[int] = []
    true_rows = native.draw_rows

    def counted(decoder: Any, plan: Any, *rest: Any) -> Any:
        calls.append(len(plan.index))
        return true_rows(decoder, plan, *rest)

    monkeypatch.setattr(native, "draw_rows", counted)
    whole = NativeEngine(policy).generate(REQUESTS, SAMPLING)
    small = NativeEngine(policy, cache_bytes=30_000).generate(REQUESTS, SAMPLING)
    assert [s.ids for s in whole] == [s.ids for s in small]
    assert calls[0] == len(REQUESTS) and len(calls) > 3 and sum(calls[1:]) == len(REQUESTS)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("rows", [slice(None), slice(0, 4), slice(7, 9)])
def test_steps_over_windows_of_slots_draw_the_same(kind: str, rows: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CUDA card, where every window is recorded as a graph; here the recorded work is done as it stands."""
    from truegain.rollout import cached

    plain = engine(kind, frozenset({5, 11, 17})).generate(REQUESTS[rows], SAMPLING)
    recorded: list[Any] = []
    monkeypatch.setattr(cached, "is_windowed", lambda _: True)
    monkeypatch.setattr(cached, "record", lambda work: recorded.append(work) or work)
    monkeypatch.setattr(cached, "WINDOW", 7)
    monkeypatch.setattr(cached, "RECORD_FROM", 3)
    windowed = engine(kind, frozenset({5, 11, 17})).generate(REQUESTS[rows], SAMPLING)
    assert windowed == [pytest_close(sample) for sample in plain]
    assert recorded or max(len(sample.ids) for sample in plain) < 3


def test_requests_with_one_trunk_share_one_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    from truegain.rollout.cached import LlamaDecoder

    shapes: list[torch.Size] = []
    true_read = LlamaDecoder._read_trunks

    def counted(self: Any, tokens: torch.Tensor, *rest: Any) -> Any:
        shapes.append(tokens.shape)
        return true_read(self, tokens, *rest)

    monkeypatch.setattr(LlamaDecoder, "_read_trunks", counted)
    engine("llama").generate([Request(TRUNKS[1], key=i, cut=3 + i % 4) for i in range(16)], Sampling(max_tokens=2))
    assert shapes == [torch.Size([1, 9])]


@pytest.mark.parametrize("kind", ["llama", "table"])
def test_first_token_frequencies_match_the_softmax(kind: str) -> None:
    e = engine(kind)
    drawn = e.generate([Request(TRUNKS[0], key=i) for i in range(4000)], Sampling(max_tokens=1, temperature=2.0))
    p = (full_logits(e.policy.model, TRUNKS[0])[-1] / 2.0).softmax(-1).double()
    seen = Counter(s.ids[0] for s in drawn)
    often = [token for token in range(V) if p[token] * 4000 >= 5]
    rest = 4000 - sum(seen[token] for token in often)
    observed, expected = [seen[t] for t in often], [float(p[t]) * 4000 for t in often]
    if (left := 4000 - sum(expected)) > 5:
        observed, expected = [*observed, rest], [*expected, left]
    expected = [x * sum(observed) / sum(expected) for x in expected]
    assert len(often) > 4 and stats.chisquare(observed, expected).pvalue > 1e-3


def test_eos_ends_a_row_and_is_kept() -> None:
    ends = frozenset({5, 11, 17, 20, 21, 22})
    samples = engine("llama", ends).generate([Request(TRUNKS[0], key=i) for i in range(60)], Sampling(max_tokens=30))
    assert {s.stop for s in samples} == {"eos", "length"} or {s.stop for s in samples} == {"eos"}
    for s in samples:
        assert (s.ids[-1] in ends) == (s.stop == "eos") and not ends & set(s.ids[:-1])
        assert len(s.ids) == len(s.logp)
    assert len({len(s.ids) for s in samples}) > 5


@pytest.mark.parametrize("compact_at", [0.0, 1.0])
def test_when_finished_rows_leave_does_not_matter(compact_at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from truegain.rollout import loop

    e = engine("llama", frozenset({5, 11, 17}))
    usual = e.generate(REQUESTS * 3, SAMPLING)
    monkeypatch.setattr(loop, "COMPACT_AT", {"cpu": compact_at})
    assert [s.ids for s in e.generate(REQUESTS * 3, SAMPLING)] == [s.ids for s in usual]


def test_settings_and_requests_that_cannot_work_are_refused() -> None:
    e = engine("llama")
    with pytest.raises(DataError, match="request 1: nothing is given"):
        e.generate([REQUESTS[0], Request((), key=1)], SAMPLING)
    with pytest.raises(DataError, match="cut 6 is outside"):
        e.generate([Request((1, 2, 3), cut=6)], SAMPLING)
    with pytest.raises(DataError, match="token id 40"):
        e.generate([Request((1, 40))], SAMPLING)
    with pytest.raises(DataError, match="nothing to stand on"):
        e.score([Request((1, 2), cut=0, suffix=(3,))])
    with pytest.raises(SettingError, match="GPT2LMHeadModel"):
        NativeEngine(FakePolicy(gpt2()))
    assert e.generate([], SAMPLING) == [] and e.score([]) == []
    assert e.generate(REQUESTS[:2], Sampling(max_tokens=0)) == [Sample((), (), "length")] * 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_weights_are_named_and_nothing_is_drawn(temperature: float) -> None:
    model = model_of()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RunError, match="NaN"):
        NativeEngine(FakePolicy(model)).generate(REQUESTS[:1], Sampling(max_tokens=3, temperature=temperature))


@pytest.mark.parametrize("kind", KINDS)
def test_tree_scores_equal_scoring_each_sequence_apart(kind: str) -> None:
    e = engine(kind)
    requests = [
        *[
            Request(TRUNKS[1], cut=cut, suffix=suffix)
            for cut in (1, 5, 9)
            for suffix in ((4,), (9, 8, 7), (1,) * 6, ())
        ],
        Request(TRUNKS[0], suffix=(33, 34)),
        *[Request(TRUNKS[2], cut=1, suffix=tuple(range(n))) for n in (3, 7)],
    ]
    for request, scores in zip(requests, e.score(requests), strict=True):
        given = request.given
        logits = full_logits(e.policy.model, given)[len(given) - len(request.suffix) - 1 : -1]
        want = logits.log_softmax(-1).gather(-1, torch.tensor(request.suffix).view(-1, 1))[:, 0]
        assert scores == pytest.approx(want.tolist(), abs=1e-5)


def test_one_trunk_is_scored_in_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    from truegain.rollout import forced

    shapes: list[tuple[int, ...]] = []
    true_states = forced.hidden_states

    def counted(model: Any, ids: torch.Tensor, **more: Any) -> Any:
        shapes.append(tuple(ids.shape))
        return true_states(model, ids, **more)

    monkeypatch.setattr(forced, "hidden_states", counted)
    e = engine("llama")
    e.score(
        [Request(TRUNKS[1], cut=4, suffix=(1, 2, 3)), Request(TRUNKS[1], suffix=(5,)), Request(TRUNKS[0], suffix=(9,))]
    )
    assert shapes == [(2, 13)]
    shapes.clear()
    many = [Request(TRUNKS[1], cut=4, suffix=tuple((i + j) % V for j in range(20))) for i in range(100)]
    bounded = NativeEngine(e.policy, cache_bytes=10_000).score(many)
    assert len(shapes) >= 2 and bounded[3] == pytest.approx(e.score(many[3:4])[0], abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "table"])
def test_load_copies_weights_and_takes_the_models_own_as_they_are(kind: str) -> None:
    e, model = engine(kind), engine(kind).policy.model
    before = e.generate(REQUESTS, SAMPLING)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    e.load(e.policy.model.state_dict())
    assert e.generate(REQUESTS, SAMPLING) == before
    e.load(model.state_dict())
    after = e.generate(REQUESTS, SAMPLING)
    assert [s.ids for s in after] != [s.ids for s in before]
    assert torch.equal(next(e.policy.model.parameters()), next(model.parameters()))
    with pytest.raises(DataError, match="these weights are not of"):
        e.load({"no.such.weight": torch.zeros(1)})


def test_an_optimiser_step_in_place_is_seen_without_loading() -> None:
    e = engine("llama")
    before = e.generate(REQUESTS, Sampling(max_tokens=5))
    with torch.no_grad():
        e.policy.model.lm_head.weight.mul_(-1.0)
    assert e.generate(REQUESTS, Sampling(max_tokens=5)) != before


def test_engine_for_picks_the_native_engine_where_it_can() -> None:
    assert isinstance(engine_for(FakePolicy(model_of("qwen3"))), NativeEngine)
    assert isinstance(engine_for(FakePolicy(table())), NativeEngine)
    assert isinstance(engine_for(FakePolicy(gpt2())), TransformersEngine)
    assert isinstance(engine_for(FakePolicy(gpt2())), Engine)


def test_bfloat16_models_generate() -> None:
    policy = FakePolicy(model_of("qwen2").to(torch.bfloat16))
    e = NativeEngine(policy)
    for request, sample in zip(REQUESTS, e.generate(REQUESTS, Sampling(max_tokens=6)), strict=True):
        logits = full_logits(policy.model, request.given + sample.ids)[len(request.given) - 1 : -1]
        want = logits.log_softmax(-1).gather(-1, torch.tensor(sample.ids)[:, None])[:, 0]
        assert sample.logp == pytest.approx(want.tolist(), abs=0.5)


def test_a_model_without_a_simple_cache_is_run_over_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from truegain.rollout import hf

    e = engine("gpt2", frozenset({5, 11}))
    cached = e.generate(REQUESTS, SAMPLING)
    monkeypatch.setattr(hf, "_is_simple", lambda cache: False)
    assert [s.ids for s in e.generate(REQUESTS, SAMPLING)] == [s.ids for s in cached]


def test_dropout_is_off_while_drawing_and_the_mode_is_left_as_it_was() -> None:
    e = engine("gpt2")
    calm = e.generate(REQUESTS, SAMPLING)
    e.policy.model.train()
    assert e.generate(REQUESTS, SAMPLING) == calm and e.policy.model.training


def test_more_tokens_than_learned_positions_are_refused() -> None:
    with pytest.raises(SettingError, match="128 positions"):
        engine("gpt2").generate([Request(tuple(range(30)) * 4)], Sampling(max_tokens=9))


@pytest.mark.parametrize("group", [1, 2, 5])
def test_rows_that_share_a_trunk_draw_what_rows_with_copies_draw(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from truegain.rollout import cached

    e = engine("qwen3", frozenset({5, 11, 17, 22}))
    requests = [
        Request(trunk, key=9 * i + g, cut=len(trunk) - g % 2, suffix=(4, 5)[: g % 3])
        for i, trunk in enumerate(TRUNKS)
        for g in range(group)
    ]
    drawn = []
    for least in (1, 1000):
        monkeypatch.setattr(cached, "SHARED_FROM", least)
        drawn.append(e.generate(requests, Sampling(max_tokens=30)))
    assert [s.ids for s in drawn[0]] == [s.ids for s in drawn[1]]
    for one, other in zip(*drawn, strict=True):
        assert one.logp == pytest.approx(other.logp, abs=1e-4)
