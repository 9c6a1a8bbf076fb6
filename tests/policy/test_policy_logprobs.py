from __future__ import annotations

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from truegain.core.errors import DataError
from truegain.policy import logprobs
from truegain.policy.heads import ScalarHead, token_values
from truegain.policy.logprobs import has_plain_head, token_logp
from truegain.policy.policy import Policy
from truegain.policy.tokenizer import character_tokenizer

SMALL = {"vocab_size": 108, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip
PROMPTS = [(1, 5, 9), (1,), (1, 30, 31, 32, 33)]
TOKENS = torch.tensor([[7, 8, 9, 10], [20, 21, 0, 0], [40, 0, 0, 0]])
LENGTHS = torch.tensor([4, 2, 0])


def small(kind: str) -> Policy:
    torch.manual_seed(0)
    models = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8)),
        "scaled": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=108, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
    }
    model = models[kind]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Policy(model, character_tokenizer(), kind)


def oracle(policy, prompts, tokens, lengths, temperature=1.0):
    """Row by row, unpadded, from the model's own logits in float64."""
    logp, entropy = [], []
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([[*prompt, *tokens[i, : lengths[i]].tolist()]])
        scores = (policy.model(input_ids=ids).logits[0].double() / temperature).log_softmax(-1)
        for t in range(tokens.shape[1]):
            if t >= lengths[i]:
                logp.append(torch.zeros(()))
                entropy.append(torch.zeros(()))
                continue
            row = scores[len(prompt) + t - 1]
            logp.append(row[tokens[i, t]])
            entropy.append(-(row.exp() * row).sum())
    return torch.stack(logp).view(tokens.shape), torch.stack(entropy).view(tokens.shape)


def gradients(policy, loss):
    policy.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "scaled", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropy_equal_those_of_the_full_logits(kind, temperature):
    policy = small(kind)
    logp, entropy = token_logp(policy, PROMPTS, TOKENS, LENGTHS, temperature=temperature, entropy=True)
    expected, spread = oracle(policy, PROMPTS, TOKENS, LENGTHS, temperature)
    assert torch.allclose(logp.double(), expected.double(), atol=1e-5)
    assert torch.allclose(entropy.double(), spread.double(), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "scaled"])
@pytest.mark.parametrize(("chunk", "keep"), [(1, 0), (4 * 108, 2 * 4 * 108), (2**28, 0), (2**28, 2**28)])
def test_gradients_equal_those_of_the_full_logits_for_any_chunk(kind, chunk, keep, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(logprobs, "KEEP_BYTES", keep)
    policy = small(kind)
    weight = torch.tensor([[0.3, -1.0, 0.5, 2.0], [1.0, -0.7, 9.0, 9.0], [9.0] * 4])
    logp, entropy = token_logp(policy, PROMPTS, TOKENS, LENGTHS, temperature=0.8, entropy=True)
    found = gradients(policy, (logp * weight).sum() + (entropy * weight.flip(1)).sum())
    logp, entropy = oracle(policy, PROMPTS, TOKENS, LENGTHS, 0.8)
    expected = gradients(policy, (logp * weight).sum() + (entropy * weight.flip(1)).sum())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-5, rtol=1e-4), name


def test_a_head_with_bias_gets_its_gradient():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(5, 3), torch.randn(7, 3), torch.randn(7)
    targets = torch.tensor([0, 6, 2, 2, 5])
    leaves = [t.double().requires_grad_() for t in (hidden, weight, bias)]

    def both(h, w, b):
        return logprobs.logp_from_hidden(h, w, b, targets, 1.3, True)

    plain = (torch.nn.functional.linear(*leaves) / 1.3).log_softmax(-1)
    expected = (plain.gather(1, targets[:, None])[:, 0], -(plain.exp() * plain).sum(-1))
    for which in (0, 1):
        ours = torch.autograd.grad(both(*leaves)[which].sum(), leaves)
        theirs = torch.autograd.grad(expected[which].sum(), leaves, retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_padding_is_inert():
    policy = small("llama")
    logp, _ = token_logp(policy, PROMPTS, TOKENS, LENGTHS)
    other = TOKENS.clone()
    other[1, 2:], other[2, :] = 99, 77
    wide = torch.nn.functional.pad(other, (0, 3), value=55)
    padded, _ = token_logp(policy, PROMPTS, wide, LENGTHS)
    assert torch.allclose(padded[:, :4], logp, atol=1e-6)
    assert not padded[:, 4:].any() and not logp[1, 2:].any() and not logp[2].any()


def test_without_grad_nothing_is_recorded():
    logp, entropy = token_logp(small("llama"), PROMPTS, TOKENS, LENGTHS, entropy=True, grad=False)
    assert not logp.requires_grad and not entropy.requires_grad


def test_a_bfloat16_model_gives_float32_log_probs_that_sum_to_one():
    policy = small("llama")
    policy.model.to(torch.bfloat16)
    every = torch.arange(108)[:, None]
    logp, _ = token_logp(policy, [(1, 5)] * 108, every, torch.ones(108, dtype=torch.long))
    assert logp.dtype == torch.float32
    assert abs(float(logp.detach().exp().sum()) - 1.0) < 1e-4  # log-probs rounded to 8 bits would miss by 1e-2


def test_only_models_with_a_plain_head_take_the_short_way():
    assert has_plain_head(small("llama").model) and has_plain_head(small("gpt2").model)
    assert not has_plain_head(small("scaled").model)
    assert not has_plain_head(Policy.load("table").model)


def test_an_empty_prompt_is_refused():
    with pytest.raises(DataError, match="prompt has no tokens"):
        token_logp(small("llama"), [()], TOKENS[:1], LENGTHS[:1])


def test_an_empty_batch_of_tokens_gives_zeros():
    logp, _ = token_logp(small("llama"), PROMPTS, TOKENS, torch.zeros(3, dtype=torch.long))
    assert logp.shape == (3, 4) and not logp.any()


def test_a_critic_sees_what_stands_before_the_token_and_a_reward_model_the_token_too():
    policy, head = small("llama"), ScalarHead(16)
    assert not token_values(policy, head, PROMPTS, TOKENS, LENGTHS).any()  # zero at the start
    torch.nn.init.normal_(head.linear.weight)
    changed = TOKENS.clone()
    changed[0, 3] = 50  # the last token of row 0
    before = [token_values(policy, head, PROMPTS, t, LENGTHS) for t in (TOKENS, changed)]
    after = [token_values(policy, head, PROMPTS, t, LENGTHS, after=True) for t in (TOKENS, changed)]
    assert torch.allclose(before[0], before[1])
    assert not torch.allclose(after[0][0, 3], after[1][0, 3])
    assert torch.allclose(after[0][0, :3], before[0][0, 1:], atol=1e-6)  # after t is before t + 1


def test_a_head_is_the_same_after_saving_and_a_damaged_one_is_refused(tmp_path):
    head = ScalarHead(16)
    torch.nn.init.normal_(head.linear.weight)
    head.save(tmp_path / "critic.safetensors")
    assert torch.equal(ScalarHead.load(tmp_path / "critic.safetensors").linear.weight, head.linear.weight)
    (tmp_path / "critic.safetensors").write_bytes(b"no head")
    with pytest.raises(DataError, match="not a readable scalar head"):
        ScalarHead.load(tmp_path / "critic.safetensors")


def test_a_head_on_the_table_policy_gives_each_context_a_number_of_its_own():
    policy = Policy.load("table")
    head = ScalarHead(108)
    with torch.no_grad():
        head.linear.weight.copy_(torch.arange(108.0)[None])
    # The context before a token is the token before it: the last of the prompt, then the completion's own.
    found = token_values(policy, head, PROMPTS, TOKENS, LENGTHS, grad=False)
    for row, (prompt, tokens, length) in enumerate(zip(PROMPTS, TOKENS.tolist(), LENGTHS.tolist(), strict=True)):
        before = [prompt[-1], *tokens][:length]
        assert found[row, :length].tolist() == before and not found[row, length:].any()


@pytest.mark.parametrize("chunk", [1, 2**28])
def test_entropy_and_log_probs_hold_for_logits_far_from_zero(chunk, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", chunk)
    torch.manual_seed(0)
    hidden, weight = torch.eye(3), 30 * torch.randn(9, 3) - 1000
    targets = torch.tensor([8, 0, 4])
    logp, entropy = logprobs.logp_from_hidden(hidden, weight, None, targets, 1.0, True)
    scores = (hidden.double() @ weight.double().T).log_softmax(-1)
    assert torch.allclose(logp.double(), scores.gather(1, targets[:, None])[:, 0], atol=1e-4)  # of numbers near 1000
    assert torch.allclose(entropy.double(), -(scores.exp() * scores).sum(-1), atol=1e-5)


def test_a_gradient_of_the_entropy_alone_and_a_second_backward_pass_are_right():
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 3).requires_grad_(), torch.randn(7, 3).requires_grad_()
    targets = torch.tensor([0, 6, 2, 2, 5])
    _, entropy = logprobs.logp_from_hidden(hidden, weight, None, targets, 1.0, True)
    scores = (hidden @ weight.T).log_softmax(-1)
    expected = torch.autograd.grad(-(scores.exp() * scores).sum(), [hidden, weight])
    for _ in range(2):
        found = torch.autograd.grad(entropy.sum(), [hidden, weight], retain_graph=True)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
