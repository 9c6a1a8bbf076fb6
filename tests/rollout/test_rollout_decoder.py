from __future__ import annotations

import pytest
import torch
from rollout_models import FAMILIES, V, gpt2, model_of

from truegain.policy import decoder

GRID = [(family, kv, tied) for family in FAMILIES for kv, tied in ((4, False), (2, True), (1, False))]


@pytest.mark.parametrize(("family", "kv", "tied"), GRID)
def test_logits_equal_transformers_own_forward(family: str, kv: int, tied: bool) -> None:
    model = model_of(family, kv=kv, tied=tied)
    ids = torch.randint(0, V, (3, 17))
    assert decoder.supports(model)
    mine = decoder.head(model, decoder.hidden_states(model, ids))
    torch.testing.assert_close(mine, model(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_transformers_own(family: str) -> None:
    model = model_of(family, tied=family == "qwen3")
    ids, weight = torch.randint(0, V, (2, 9)), torch.randn(2, 9, V)
    (model(ids).logits.log_softmax(-1) * weight).sum().backward()
    theirs = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    (decoder.head(model, decoder.hidden_states(model, ids)).log_softmax(-1) * weight).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 32},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "rope_theta": 10000.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ],
)
def test_rotary_kinds_with_fixed_frequencies_are_followed(rope: dict[str, object]) -> None:
    model = model_of(rope_parameters=rope)
    ids = torch.randint(0, V, (2, 60))
    assert decoder.supports(model)
    torch.testing.assert_close(
        decoder.head(model, decoder.hidden_states(model, ids)), model(ids).logits, atol=1e-5, rtol=1e-5
    )


def test_models_that_differ_are_not_supported() -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not decoder.supports(gpt2())
    assert not decoder.supports(model_of(rope_parameters=dynamic))
    assert not decoder.supports(model_of(hidden_act="gelu"))
    assert not decoder.supports(model_of("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0))

    class Adapted(torch.nn.Linear):
        pass

    model = model_of()
    model.model.layers[1].self_attn.q_proj = Adapted(32, 48, bias=False)
    assert not decoder.supports(model)


def test_biases_of_every_linear_map_are_used() -> None:
    model = model_of(attention_bias=True, mlp_bias=True)
    ids = torch.randint(0, V, (2, 9))
    torch.testing.assert_close(
        decoder.head(model, decoder.hidden_states(model, ids)), model(ids).logits, atol=1e-5, rtol=1e-5
    )


def test_right_padding_changes_nothing_before_it() -> None:
    model = model_of()
    ids = torch.randint(0, V, (2, 9))
    padded = torch.cat((ids, torch.zeros(2, 5, dtype=torch.long)), 1)
    torch.testing.assert_close(
        decoder.hidden_states(model, padded)[:, :9], decoder.hidden_states(model, ids), atol=1e-6, rtol=1e-6
    )


def test_an_explicit_causal_mask_with_positions_is_the_default() -> None:
    model = model_of("qwen3")
    ids = torch.randint(0, V, (2, 9))
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    additive = torch.zeros(1, 1, 9, 9).masked_fill(~mask, float("-inf"))
    plain = decoder.hidden_states(model, ids)
    for given in (mask, additive):
        out = decoder.hidden_states(model, ids, positions=torch.arange(9).repeat(2, 1), mask=given)
        torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_close_to_float32_as_transformers_is(
    family: str, cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_cpu_has_bfloat16", lambda: cpu)
    model = model_of(family)
    ids = torch.randint(0, V, (3, 17))
    with torch.no_grad():
        exact = model(ids).logits
        half = model.to(torch.bfloat16)
        theirs = (half(ids).logits.float() - exact).abs().mean()
        mine = decoder.head(half, decoder.hidden_states(half, ids))
    assert mine.dtype == (torch.bfloat16 if cpu else torch.float32)
    assert (mine.float() - exact).abs().mean() < 1.5 * theirs


def test_bfloat16_weights_get_bfloat16_gradients_where_the_cpu_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoder, "_cpu_has_bfloat16", lambda: False)
    model = model_of("qwen2", tied=True).to(torch.bfloat16)
    ids = torch.randint(0, V, (2, 9))
    decoder.head(model, decoder.hidden_states(model, ids)).log_softmax(-1)[..., 0].sum().backward()
    mine = {name: p.grad.clone() for name, p in model.named_parameters()}
    wide = model.float()
    wide.zero_grad()
    decoder.head(wide, decoder.hidden_states(wide, ids)).log_softmax(-1)[..., 0].sum().backward()
    for name, parameter in wide.named_parameters():
        assert mine[name].dtype == torch.bfloat16
        torch.testing.assert_close(mine[name].float(), parameter.grad, atol=1e-2, rtol=1e-2, msg=name)
