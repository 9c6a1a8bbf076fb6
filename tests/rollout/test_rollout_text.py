"""Stop strings, character spans and segments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rollout_models import LETTERS, FakePolicy, V, model_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from truegain.core.errors import SettingError
from truegain.core.types import Request, Sampling
from truegain.rollout.hf import TransformersEngine
from truegain.rollout.native import NativeEngine
from truegain.rollout.segment import by_delimiter, by_length, by_line, token_spans
from truegain.rollout.stops import StopWatch


@pytest.fixture(scope="module")
def bytes_tokenizer() -> Tokenizer:
    """A byte-level BPE of a few merges: most characters beyond ASCII are several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the answer is the thing </answer>\n\n"] * 20 + ["naïve naïve"] * 9, trainer)
    return tokenizer


def stops_of(texts: Sequence[str], stops: tuple[str, ...]) -> int | None:
    """Oracle: after how many tokens the text first holds a stop string."""
    return next((n for n in range(1, len(texts) + 1) if any(stop in "".join(texts[:n]) for stop in stops)), None)


@pytest.mark.parametrize("engine", [NativeEngine, TransformersEngine])
@pytest.mark.parametrize("stops", [("a",), (" b", ":;"), ("c.", "e", "\n\n")])
def test_a_row_ends_at_the_first_token_that_completes_a_stop_string(engine: type, stops: tuple[str, ...]) -> None:
    e = engine(FakePolicy(model_of()))
    requests = [Request((1, 2, 3), key=i) for i in range(40)]
    # hot, so that texts are varied
    free = e.generate(requests, Sampling(max_tokens=40, temperature=6.0))
    stopped = e.generate(requests, Sampling(max_tokens=40, temperature=6.0, stop=stops))
    ends = [stops_of([LETTERS[i] for i in sample.ids], stops) for sample in free]
    assert any(ends)
    for one, other, end in zip(free, stopped, ends, strict=True):
        assert other.ids == one.ids[:end] and other.stop == ("stop" if end else "length")


def test_eos_wins_over_a_stop_string_in_the_same_token() -> None:
    e = NativeEngine(FakePolicy(model_of(), frozenset(range(V))))
    (sample,) = e.generate([Request((1, 2))], Sampling(max_tokens=4, stop=tuple(LETTERS[:V])))
    assert sample.stop == "eos" and len(sample.ids) == 1


def test_text_is_decoded_only_for_tokens_that_can_complete_a_stop_string() -> None:
    seen: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        seen.append(len(ids))
        return "".join(LETTERS[i] for i in ids)

    watch = StopWatch(("bc",), decode, V)
    for token in (0, 1, 0, 1, 3, 3):
        assert watch.ended(torch.tensor([token]), lambda row, n: [0, 1]) == []
    assert len(seen) == 3  # once for each new token, never for a row
    assert watch.ended(torch.tensor([2, 0]), lambda row, n: [1, 2]) == [0]


@pytest.mark.parametrize("stop", ["</answer>", "ï", "é!", "\n\n", "日本"])
def test_stop_strings_span_tokens_and_tokens_span_characters(bytes_tokenizer: Tokenizer, stop: str) -> None:
    text = "naïve é! é 日 日本語 the </answer is </answer>\n\n end"
    ids = bytes_tokenizer.encode(text).ids
    watch = StopWatch((stop,), lambda part: bytes_tokenizer.decode(list(part)), bytes_tokenizer.get_vocab_size())
    found = [
        n
        for n in range(1, len(ids) + 1)
        if watch.ended(torch.tensor([ids[n - 1]]), lambda row, count, n=n: ids[max(0, n - count) : n])
    ]
    want = next(n for n in range(1, len(ids) + 1) if stop in bytes_tokenizer.decode(ids[:n]))
    assert found[0] == want


@given(st.text(alphabet=st.sampled_from("ab ï日🙂\n the answer"), max_size=30))
def test_spans_of_byte_pieces_cover_the_text(text: str) -> None:
    tokenizer = TOKENIZER
    ids = tokenizer.encode(text).ids
    check_spans(ids, lambda part: tokenizer.decode(list(part)))


def check_spans(ids: list[int], decode: object) -> None:
    whole = decode(ids)  # type: ignore[operator]
    spans = token_spans(ids, decode)  # type: ignore[arg-type]
    assert len(spans) == len(ids)
    at = 0
    for (start, end), before in zip(spans, [None, *spans], strict=False):
        assert (start, end) == before or start == at
        at = end
    assert at == len(whole) if ids else not spans


TOKENIZER = Tokenizer(models.BPE())
TOKENIZER.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
TOKENIZER.decoder = decoders.ByteLevel()
TOKENIZER.train_from_iterator(
    ["the answer", "ab 日"],
    trainers.BpeTrainer(vocab_size=270, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
)


def test_pieces_of_one_character_share_its_span_and_others_have_their_own(bytes_tokenizer: Tokenizer) -> None:
    encoding = bytes_tokenizer.encode("the 日本! naïve")
    spans = token_spans(encoding.ids, lambda part: bytes_tokenizer.decode(list(part)))
    assert spans == [tuple(offset) for offset in encoding.offsets]  # what the tokenizer says of its own encoding
    assert spans.count((4, 5)) == 3  # 日 is three bytes


def test_bytes_that_never_make_a_character_still_have_a_span(bytes_tokenizer: Tokenizer) -> None:
    ids = bytes_tokenizer.encode("a日b").ids
    broken = [ids[0], ids[1], *ids[3:], ids[1], ids[2]]
    check_spans(broken, lambda part: bytes_tokenizer.decode(list(part)))


def test_a_decoder_that_swallows_leading_spaces_gets_right_spans() -> None:
    words = ["▁the", "▁cat", "s", "▁sat"]

    def decode(ids: Sequence[int]) -> str:
        return "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    assert token_spans([0, 1, 2, 3, 0], decode) == [(0, 3), (3, 7), (7, 8), (8, 12), (12, 16)]


def test_a_decoder_without_any_local_rule_falls_back_on_prefixes() -> None:
    # the text is the number of tokens so far and then as many bars: no window adds up to it
    assert token_spans([7, 7, 7], lambda ids: "|" * (len(ids) * (len(ids) + 1) // 2)) == [(0, 1), (1, 3), (3, 6)]
    # prefixes that do not grow: all tokens share the whole text
    assert token_spans([1, 2, 3], lambda ids: "abc" if len(ids) != 2 else "x") == [(0, 3)] * 3


def character_spans(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(text))]


def test_lines_are_counted_and_blank_ones_belong_to_the_line_before() -> None:
    text = "ab\n\n  \ncd\ne"
    assert by_line(text, character_spans(text)) == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
    assert by_line("\n\nab\nc", character_spans("\n\nab\nc")) == [0, 0, 0, 0, 0, 1]
    assert by_line("", []) == [] and by_line("ab\n", character_spans("ab\n")) == [0, 0, 0]


def test_a_token_belongs_to_the_piece_in_which_it_begins() -> None:
    assert by_delimiter("a. b. c", [(0, 2), (2, 3), (3, 6), (6, 7)], delimiter=". ") == [0, 0, 1, 2]
    assert by_delimiter("a||b", [(0, 4), (-1, -1), (3, 4)], delimiter="||") == [0, -1, 1]


def test_blocks_count_only_the_tokens_inside() -> None:
    spans = [(0, 1), (-1, -1), (1, 2), (2, 3), (3, 4)]
    assert by_length("abcd", spans, tokens=2) == [0, -1, 0, 1, 1]
    for wrong, knobs in ((by_length, {"tokens": 0}), (by_delimiter, {"delimiter": ""})):
        with pytest.raises(SettingError):
            wrong("abcd", spans, **knobs)


@given(st.text(alphabet="ab\n ", max_size=40), st.sampled_from(["\n", "\n\n", "b"]))
def test_ids_of_pieces_start_at_zero_and_rise_by_one(text: str, delimiter: str) -> None:
    ids = by_delimiter(text, character_spans(text), delimiter=delimiter)
    assert len(ids) == len(text)
    if ids:
        assert ids[0] == 0 and all(b - a in (0, 1) for a, b in pairwise(ids))
        parts = [part for part in text.split(delimiter) if part.strip()]
        assert ids[-1] + 1 == max(1, len(parts))
