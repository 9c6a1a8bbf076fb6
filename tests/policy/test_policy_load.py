from __future__ import annotations

import json

import huggingface_hub.constants
import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from truegain.core.errors import DataError, SettingError
from truegain.policy.policy import Policy
from truegain.policy.tokenizer import character_tokenizer

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def small_policy(vocabulary: int = 108, **more) -> Policy:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=64, **SIZES, **more))
    return Policy(model.eval(), character_tokenizer(), "small")


@pytest.fixture
def folder(tmp_path):
    small_policy().save(tmp_path / "model")
    return tmp_path / "model"


def refusal(source, kind=DataError) -> str:
    """The one-line message with which loading is refused."""
    with pytest.raises(kind) as caught:
        Policy.load(source)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_policy_loads_with_the_same_weights_and_text(tmp_path, tied):
    policy = small_policy(tie_word_embeddings=tied)
    policy.save(tmp_path)
    loaded = Policy.load(tmp_path)
    for name, value in policy.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert loaded.encode_prompt("sort 3 1\n") == policy.encode_prompt("sort 3 1\n")
    assert not [file.name for file in tmp_path.iterdir() if file.suffix in {".bin", ".pt"}]


def test_dtype_and_device_are_what_was_asked_for(folder):
    policy = Policy.load(folder, dtype="bfloat16")
    assert policy.dtype == torch.bfloat16 and policy.device.type == "cpu"
    with pytest.raises(SettingError, match="bfloat16"):
        Policy.load(folder, dtype="bfloat")


def test_a_missing_folder_is_named(tmp_path):
    assert str(tmp_path / "nothing") in refusal(tmp_path / "nothing")
    assert "did you mean 'tiny'" in refusal("tinny")


def test_a_file_is_not_a_folder(folder):
    assert "is a file" in refusal(folder / "config.json")


def test_a_folder_without_a_config_says_so(folder):
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)


def test_a_pickle_is_refused_unopened(folder):
    (folder / "model.safetensors").unlink()
    # what torch.load would run; to open it at all would be the bug
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    message = refusal(folder)
    assert "pytorch_model.bin is a pickle" in message and "convert it to safetensors" in message


def test_a_folder_without_weights_says_so(folder):
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -100])
def test_damaged_safetensors_are_named(folder, keep):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    message = refusal(folder)
    assert str(file) in message and "damaged" in message


def test_weights_of_another_model_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    assert "the weights lack" in refusal(folder)
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "no_such_model"}', "{}"])
def test_an_unreadable_config_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert str(folder) in refusal(folder)


def test_code_that_comes_with_a_checkpoint_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('this ran')")
    assert str(folder) in refusal(folder)


def test_an_encoder_and_an_encoder_decoder_are_not_causal(tmp_path):
    bert = BertConfig(vocab_size=108, **SIZES)
    BertForMaskedLM(bert).save_pretrained(tmp_path / "bert")
    assert "not a causal language model" in refusal(tmp_path / "bert")
    t5 = T5Config(vocab_size=108, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    assert "not a causal language model" in refusal(tmp_path / "t5")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    small_policy(vocabulary=100).save(tmp_path)
    message = refusal(tmp_path)
    assert "ids up to 107," in message and "100 embeddings:" in message


def test_a_missing_tokenizer_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert str(folder) in refusal(folder)


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal("nobody/nothing")
    assert "nobody/nothing" in message and "give a local folder" in message


def test_a_prompt_begins_with_the_beginning_mark_if_there_is_one():
    policy = small_policy()
    assert policy.encode_prompt("12") == (1, *policy.encode("12"))
    policy.tokenizer.bos_token = None
    assert policy.encode_prompt("12") == policy.encode("12")


def test_messages_go_through_the_chat_template_or_are_joined():
    policy = small_policy()
    messages = ({"role": "system", "content": "be brief. "}, {"role": "user", "content": "1+1?"})
    assert policy.encode_prompt(messages) == policy.encode_prompt("be brief. 1+1?")
    policy.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
    )
    assert policy.decode(policy.encode_prompt(messages)) == "[system]be brief. [user]1+1?[a]"


def test_all_end_marks_are_known():
    policy = small_policy()
    assert policy.eos_ids == {2}
    policy.model.generation_config.eos_token_id = [2, 11]
    assert policy.eos_ids == {2, 11}


def test_decoding_keeps_special_tokens_and_spaces():
    policy = small_policy()
    policy.tokenizer.add_tokens([AddedToken("<x>", special=True)])
    text = " a . 's  <eos><x>"
    assert policy.decode(policy.encode(text)) == text


def test_a_reference_is_frozen_and_shares_nothing():
    policy = small_policy()
    reference = policy.reference()
    before = reference.weights()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], value) for name, value in reference.weights().items())
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())


def test_weights_are_a_copy_and_go_back_in():
    policy = small_policy()
    kept = policy.weights()
    with torch.no_grad():
        policy.model.lm_head.weight.zero_()
    assert kept["lm_head.weight"].any()
    policy.load_weights(kept)
    assert torch.equal(policy.model.lm_head.weight, kept["lm_head.weight"])
    with pytest.raises(DataError, match="not of 'small'"):
        policy.load_weights({"lm_head.weight": torch.zeros(1)})


def test_a_run_folder_is_loaded_as_its_newest_checkpoint(tmp_path):
    for step, value in ((20, 1.0), (100, 2.0)):
        policy = Policy.load("table")
        with torch.no_grad():
            policy.model.weight.fill_(value)
        policy.save(tmp_path / "checkpoints" / f"step-{step:06d}")
    assert float(Policy.load(tmp_path).model.weight.detach().max()) == 2.0
