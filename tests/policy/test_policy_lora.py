from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from truegain.core.errors import DataError, SettingError
from truegain.core.types import Request, Sampling
from truegain.policy import lora
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy
from truegain.policy.tokenizer import character_tokenizer
from truegain.rollout.engines import engine_for

# peft asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
SMALL = {"vocab_size": 108, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip
# four samples of one prompt, so that packing pays, and one row of another
PROMPTS = [tuple(range(20, 50))] * 4 + [(1, 30)]
TOKENS = torch.tensor([[7, 8, 9], [20, 21, 0], [40, 0, 0], [9, 9, 9], [5, 6, 0]])
LENGTHS = torch.tensor([3, 2, 1, 3, 2])


def plain(kind: str = "llama") -> Policy:
    torch.manual_seed(0)
    models = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    }
    model = models[kind]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Policy(model, character_tokenizer(), kind)


def stirred(policy: Policy, seed: int = 1) -> Policy:
    """The policy after some training: B is no longer zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    return policy


def logp(policy: Policy, **knobs) -> torch.Tensor:
    return token_logp(policy, PROMPTS, TOKENS, LENGTHS, **knobs)[0]


def by_rows(model) -> torch.Tensor:
    """The same from the module's own forward, row by row."""
    out = torch.zeros(TOKENS.shape)
    for i, prompt in enumerate(PROMPTS):
        count = int(LENGTHS[i])
        ids = torch.tensor([[*prompt, *TOKENS[i, :count].tolist()]])
        scores = model(input_ids=ids).logits[0].double().log_softmax(-1)
        for t in range(count):
            out[i, t] = scores[len(prompt) + t - 1, TOKENS[i, t]]
    return out


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_fresh_adapter_changes_nothing(kind):
    policy = plain(kind)
    torch.testing.assert_close(logp(policy.with_lora(rank=4)), logp(policy), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_log_probs_are_those_of_peft_with_and_without_gradient(kind, tmp_path):
    policy = stirred(plain(kind).with_lora(rank=4, alpha=6.0))
    policy.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(plain(kind).model, str(tmp_path)).eval()
    with torch.no_grad():
        wanted = by_rows(theirs)
        assert (wanted - by_rows(plain(kind).model)).abs().max() > 0.1
    torch.testing.assert_close(logp(policy).detach(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(logp(policy, grad=False), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_gradients_are_those_of_peft_and_reach_the_adapter_alone(kind, tmp_path):
    policy = stirred(plain(kind).with_lora(rank=4))
    policy.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(plain(kind).model, str(tmp_path), is_trainable=True).eval()
    coefficient = torch.arange(1.0, 1 + TOKENS.numel()).view(TOKENS.shape)
    (logp(policy) * coefficient).sum().backward()
    (by_rows(theirs) * coefficient).sum().backward()
    wanted = {n.removeprefix("base_model.model."): p.grad for n, p in theirs.named_parameters() if "lora" in n}
    for name, parameter in policy.model.named_parameters():
        if lora.is_adapter_weight(name):
            torch.testing.assert_close(parameter.grad, wanted.pop(name), rtol=1e-4, atol=1e-4)
        else:
            assert parameter.grad is None and not parameter.requires_grad, name
    assert not wanted


def test_the_engine_draws_from_the_adapted_policy_and_sees_every_change_of_it():
    policy = plain().with_lora(rank=4)
    engine = engine_for(policy)
    requests = [Request(trunk=PROMPTS[0], key=i) for i in range(4)]
    for seed in (1, 2):
        stirred(policy, seed)
        samples = engine.generate(requests, Sampling(max_tokens=4))
        tokens = torch.zeros(4, 4, dtype=torch.long)
        for i, sample in enumerate(samples):
            tokens[i, : len(sample.ids)] = torch.tensor(sample.ids)
        lengths = torch.tensor([len(sample.ids) for sample in samples])
        learner, _ = token_logp(policy, PROMPTS[:4], tokens, lengths, grad=False)
        for i, sample in enumerate(samples):
            told = torch.tensor(sample.logp)
            torch.testing.assert_close(told, learner[i, : len(told)], rtol=0, atol=1e-5)


def test_a_saved_adapter_holds_the_adapter_alone_and_loads_again(tmp_path):
    plain().save(tmp_path / "base")
    policy = stirred(Policy.load(tmp_path / "base").with_lora(rank=3, alpha=5.0, targets="q_proj,down_proj"))
    policy.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    saved = load_file(tmp_path / "adapter" / lora.WEIGHTS)
    assert len(saved) == 2 * 2 * 2 and all("lora_" in name for name in saved)
    again = Policy.load(tmp_path / "adapter")
    assert torch.equal(logp(again, grad=False), logp(policy, grad=False))
    assert [n for n, p in again.model.named_parameters() if p.requires_grad] == [
        n for n, p in policy.model.named_parameters() if p.requires_grad
    ]
    assert again.encode("12") == policy.encode("12")


def test_an_adapter_that_peft_wrote_loads(tmp_path):
    plain().save(tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=4, lora_alpha=3, lora_dropout=0.1, use_rslora=True, target_modules=["q_proj", "up_proj"],
        rank_pattern={"up_proj": 2}, init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = peft.get_peft_model(model, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    policy = Policy.load(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(logp(policy), by_rows(theirs), rtol=0, atol=1e-5)


def test_merging_gives_a_plain_policy_of_the_same_distribution_that_shares_nothing(tmp_path):
    policy = stirred(plain().with_lora(rank=4))
    wanted = logp(policy, grad=False)
    merged = policy.merged()
    merged.save(tmp_path)
    assert type(merged.model) is LlamaForCausalLM and all(p.requires_grad for p in merged.model.parameters())
    assert merged.model.state_dict().keys() == plain().model.state_dict().keys()
    torch.testing.assert_close(logp(Policy.load(tmp_path), grad=False), wanted, rtol=0, atol=1e-5)
    with torch.no_grad():
        for parameter in merged.model.parameters():
            parameter.zero_()
    assert torch.equal(logp(policy, grad=False), wanted)


def test_the_base_is_shared_and_training_the_adapter_leaves_reference_and_base_alone():
    base = plain()
    policy = stirred(base.with_lora(rank=4))
    reference = policy.reference()
    before = logp(reference, grad=False), logp(base, grad=False)
    assert not any(p.requires_grad for p in reference.model.parameters())
    for other in (base.model, reference.model):
        assert other.model.embed_tokens.weight.data_ptr() == policy.model.model.embed_tokens.weight.data_ptr()
    optimiser = torch.optim.SGD([p for p in policy.model.parameters() if p.requires_grad], lr=0.1)
    logp(policy).sum().backward()
    optimiser.step()
    assert (logp(policy, grad=False) - before[0]).abs().max() > 1e-3
    assert torch.equal(logp(reference, grad=False), before[0]) and torch.equal(logp(base, grad=False), before[1])


def test_a_trainable_copy_trains_what_its_original_trains():
    base, policy = plain(), plain().with_lora(rank=2)
    assert all(p.requires_grad for p in base.reference().trainable_copy().model.parameters())
    copy = policy.reference().trainable_copy()
    for name, parameter in copy.model.named_parameters():
        assert parameter.requires_grad == lora.is_adapter_weight(name)
    stirred(copy)
    assert not torch.equal(logp(copy, grad=False), logp(policy, grad=False))


def test_weights_are_the_adapters_and_go_back_in():
    policy = plain().with_lora(rank=4)
    kept = policy.weights()
    assert kept and all(lora.is_adapter_weight(name) for name in kept)
    start = logp(policy, grad=False)
    stirred(policy)
    whole = {name: value.clone() for name, value in policy.model.state_dict().items()}
    moved = logp(policy, grad=False)
    policy.load_weights(kept)
    assert torch.equal(logp(policy, grad=False), start)
    policy.load_weights(whole)
    assert torch.equal(logp(policy, grad=False), moved)
    for strange in ({}, plain().weights(), {**kept, "x": torch.zeros(1)}, plain().with_lora(rank=2).weights()):
        with pytest.raises(DataError, match="not of 'llama'"):
            policy.load_weights(strange)
    assert torch.equal(logp(policy, grad=False), moved)


def test_the_seed_alone_decides_a_fresh_adapter():
    one, two, other = (plain().with_lora(rank=2, seed=seed).weights() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_is_float32_on_a_short_base_and_small_changes_are_not_rounded_away(tmp_path):
    plain().save(tmp_path)
    policy = Policy.load(tmp_path, dtype="bfloat16").with_lora(rank=2)
    assert policy.dtype == torch.bfloat16
    assert {p.dtype for p in policy.model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.isfinite(logp(policy)).all() and torch.isfinite(logp(policy, grad=False)).all()


def test_an_embedded_base_is_named_and_a_folder_is_written_in_full(tmp_path, monkeypatch):
    Policy.load("tiny").with_lora(rank=2).save(tmp_path / "one")
    assert json.loads((tmp_path / "one" / lora.CONFIG).read_text())["base_model_name_or_path"] == "tiny"
    plain().save(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    Policy.load("base").with_lora(rank=2).save(tmp_path / "two")
    named = json.loads((tmp_path / "two" / lora.CONFIG).read_text())["base_model_name_or_path"]
    assert named == str(tmp_path / "base")


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(SettingError, match="has none"):
        Policy.load("table").with_lora()
    with pytest.raises(SettingError, match=r"no linear map 'q_prj'.*did you mean 'q_proj'"):
        plain().with_lora(targets="q_prj")
    with pytest.raises(SettingError, match="already"):
        plain().with_lora().with_lora()
    with pytest.raises(SettingError, match="rank must be from 1"):
        plain().with_lora(rank=0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=108, n_embd=16, n_layer=1, n_head=2, n_positions=64))
    with pytest.raises(SettingError, match="has none"):
        Policy(gpt2, character_tokenizer(), "gpt2").with_lora()


@pytest.fixture
def adapter(tmp_path):
    plain().save(tmp_path / "base")
    Policy.load(tmp_path / "base").with_lora(rank=2).save(tmp_path / "adapter")
    return tmp_path / "adapter"


def refusal(folder) -> str:
    with pytest.raises(DataError) as caught:
        Policy.load(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"use_dora": True}, "use_dora='True'"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"invented": 3}, "invented='3'"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": "./gone"}, "no model folder './gone'"),
        ({"base_model_name_or_path": "tiny"}, "does not fit its base model at"),
        ({"r": 3}, "does not fit its base model at"),
        ({"r": -1}, "has rank '-1'"),
        ({"r": 10**9}, "has rank"),
        ({"target_modules": ["q_proj"]}, "does not fit its base model at"),
        ({"rank_pattern": {"q_proj": 10**9}}, "has rank"),
        ({"rank_pattern": ["q_proj"]}, "wrong kind"),
        ({"target_modules": 3}, "wrong kind"),
        ({"target_modules": "(.*)*proj"}, "has a pattern"),
        ({"alpha_pattern": {"(.*)*proj": 1}}, "has a pattern"),
        ({"target_modules": ["nothing"]}, "does not fit"),
        ({"target_modules": ["embed_tokens"]}, "does not fit"),
    ],
)
def test_an_adapter_of_another_kind_or_base_is_refused(adapter, changes, told):
    file = adapter / lora.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    message = refusal(adapter)
    assert told in message and str(adapter) in message


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"peft_type": 3}'])
def test_unreadable_settings_of_an_adapter_are_refused(adapter, text):
    (adapter / lora.CONFIG).write_text(text)
    assert lora.CONFIG in refusal(adapter)


def test_an_adapter_of_an_adapter_and_of_itself_is_refused(adapter):
    file = adapter / lora.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(adapter)}))
    assert "is an adapter, too" in refusal(adapter)


def test_a_pickled_adapter_is_not_opened(adapter):
    (adapter / lora.WEIGHTS).rename(adapter / "adapter_model.bin")
    assert "is a pickle and is not opened" in refusal(adapter)


@pytest.mark.parametrize("keep", [0, 20, -10])
def test_damaged_adapter_weights_are_named(adapter, keep):
    file = adapter / lora.WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    assert "damaged" in refusal(adapter)


def test_weights_that_are_missing_or_strange_are_named(adapter):
    file = adapter / lora.WEIGHTS
    weights = load_file(file)
    first = min(weights)
    save_file({n: v for n, v in weights.items() if n != first}, file)
    assert "does not fit its base model at" in refusal(adapter)
    save_file({**weights, "base_model.model.model.embed_tokens.weight": torch.zeros(1)}, file)
    assert "does not fit its base model at" in refusal(adapter)
