from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from truegain.core.draws import uniforms
from truegain.core.errors import SettingError
from truegain.core.types import Sampling
from truegain.rollout.sampler import check, draw, filtered

LOGITS = torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.5, -3.0]])


def oracle(logits: list[float], sampling: Sampling) -> list[float]:
    """Probabilities after temperature, top-k and top-p, written from the definitions."""
    weight = [math.exp(x / sampling.temperature) for x in logits]
    if sampling.top_k:
        least = sorted(weight, reverse=True)[min(sampling.top_k, len(weight)) - 1]
        weight = [w if w >= least else 0.0 for w in weight]
    total, mass, kept = sum(weight), 0.0, set()
    for token in sorted(range(len(weight)), key=lambda i: -weight[i]):
        if mass < sampling.top_p:
            kept.add(token)
        mass += weight[token] / total
    weight = [w if i in kept else 0.0 for i, w in enumerate(weight)]
    return [w / sum(weight) for w in weight]


SETTINGS = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(temperature=2.5, top_k=3),
    Sampling(top_k=1),
    Sampling(top_k=100),
    Sampling(top_p=0.6),
    Sampling(top_p=1e-6),
    Sampling(temperature=1.7, top_k=4, top_p=0.8),
]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_the_filtered_distribution_equals_a_slow_oracle(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 9, generator=generator) * 2
    want = torch.tensor([oracle(row.tolist(), sampling) for row in logits])
    torch.testing.assert_close(filtered(logits, sampling).softmax(-1), want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sampling", SETTINGS)
def test_frequencies_follow_the_distribution_and_log_probs_are_its(sampling: Sampling) -> None:
    count = 20000
    ids, logp = draw(LOGITS.expand(count, -1), uniforms(torch.arange(count), 0), sampling)
    p = torch.tensor(oracle(LOGITS[0].tolist(), sampling), dtype=torch.float64)
    seen = torch.bincount(ids, minlength=6)
    assert seen[p == 0].sum() == 0
    if (p > 0).sum() > 1:
        assert stats.chisquare(seen[p > 0].numpy(), (p[p > 0] / p.sum() * count).numpy()).pvalue > 1e-3
    torch.testing.assert_close(logp, p.log().float()[ids], atol=1e-5, rtol=1e-5)


def test_temperature_zero_takes_the_largest_and_is_certain_of_it() -> None:
    ids, logp = draw(
        torch.tensor([[0.0, 3.0, 3.0], [5.0, 1.0, 2.0]]), torch.tensor([0.9, 0.1]), Sampling(temperature=0)
    )
    assert ids.tolist() == [1, 0] and logp.tolist() == [0.0, 0.0]


def test_the_token_is_where_the_cumulative_probability_passes_the_number() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(6, -1)
    u = torch.tensor([1e-7, 0.0999, 0.1001, 0.5999, 0.6001, 1 - 2**-24])
    assert draw(logits, u, Sampling())[0].tolist() == [0, 0, 1, 2, 3, 3]


def test_a_token_without_probability_is_never_drawn_at_the_edges() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(3, -1)
    ids, _ = draw(logits, torch.tensor([2**-25, 0.5, 1 - 2**-24]), Sampling())
    assert set(ids.tolist()) <= {1, 3}


def test_settings_out_of_bounds_are_refused_by_name() -> None:
    for wrong in (
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"max_tokens": -1},
        {"stop": ("a", "")},
    ):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            check(Sampling(**wrong))


@pytest.mark.parametrize("vocabulary", [4096, 5000, 5120, 9001])
@pytest.mark.parametrize("top_k", [0, 3])
def test_a_large_vocabulary_is_drawn_from_in_blocks_to_the_same_token(vocabulary: int, top_k: int) -> None:
    torch.manual_seed(vocabulary)
    logits, uniform = 3 * torch.randn(200, vocabulary), torch.rand(200)
    uniform[:2] = torch.tensor([0.0, 1 - 2**-24])
    sampling = Sampling(1, top_k=top_k)
    ids, logp = draw(logits, uniform, sampling)
    p = filtered(logits, sampling).double().softmax(-1)
    reached = p.cumsum(-1)
    want = torch.searchsorted(reached, uniform.double()[:, None] * reached[:, -1:], right=True)[:, 0]
    off = ids != want
    assert int(off.sum()) <= 2  # at a border, the last bits decide
    assert (reached.gather(1, ids[:, None])[off, 0] - uniform[off]).abs().max() < 1e-6 if off.any() else True
    assert logp.isfinite().all()
    assert torch.allclose(logp.double(), p.gather(1, ids[:, None])[:, 0].log(), atol=1e-4)
