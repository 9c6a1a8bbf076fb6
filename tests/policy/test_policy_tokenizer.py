from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from truegain.policy.tokenizer import ALPHABET, MARKS, character_tokenizer

TOKENIZER = character_tokenizer()
PIECES = st.lists(st.sampled_from([*ALPHABET, *MARKS, "  ", " .", "\n\n", " 's"]), max_size=60)


def encoded(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


def test_it_has_at_most_128_entries_and_no_two_share_an_id():
    vocabulary = TOKENIZER.get_vocab()
    assert len(TOKENIZER) == len(vocabulary) == len(set(vocabulary.values())) == 4 + 8 + 1 + 95 <= 128


@settings(max_examples=200, deadline=None)
@given(PIECES)
def test_decoding_is_the_exact_inverse_of_encoding(pieces):
    text = "".join(pieces)
    assert TOKENIZER.decode(encoded(text)) == text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(ALPHABET.replace("<", "")), max_size=60))
def test_every_character_is_one_token(characters):
    assert len(encoded("".join(characters))) == len(characters)


def test_every_mark_is_one_token():
    assert all(len(encoded(mark)) == 1 for mark in MARKS)
    assert len(encoded("<think>1<answer>")) == 3


def test_leaving_out_special_tokens_keeps_the_marks():
    ids = [*TOKENIZER("<think>a</think>").input_ids, TOKENIZER.eos_token_id]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<think>a</think>"
    assert TOKENIZER.decode(ids) == "<bos><think>a</think><eos>"


def test_a_character_outside_the_alphabet_is_unknown_and_costs_one_token():
    assert encoded("aéb") == [encoded("a")[0], TOKENIZER.unk_token_id, encoded("b")[0]]


def test_it_is_the_same_after_saving_and_loading(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "sort 3  1 .\n<think> ok 's </think><answer>1 3</answer>"
    assert loaded(text).input_ids == TOKENIZER(text).input_ids
    assert loaded.decode(loaded(text, add_special_tokens=False).input_ids) == text
    assert (loaded.pad_token, loaded.bos_token, loaded.eos_token) == ("<pad>", "<bos>", "<eos>")
