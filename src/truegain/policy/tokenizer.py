"""The embedded character tokenizer: one id per printable ASCII character, and marks for thoughts, answers and tools.

108 entries. Decoding is the exact inverse of encoding: nothing is normalised, merged, spaced or cleaned up.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
MARKS = ("<think>", "</think>", "<answer>", "</answer>", "<tool>", "</tool>", "<result>", "</result>")
ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))


def character_tokenizer() -> PreTrainedTokenizerFast:
    r"""Build the tokenizer. Ids: four special tokens, eight marks, newline, then ASCII 32 to 126; others are ``<unk>``.

    The marks are ordinary tokens, not special ones, so that ``skip_special_tokens`` leaves them in the text.
    ``tokenizer(text)`` puts ``<bos>`` before the text, as language models of the Llama family expect.

    >>> tokenizer = character_tokenizer()
    >>> tokenizer("3 1").input_ids
    [1, 32, 13, 30]
    >>> tokenizer.decode(tokenizer("a <answer>7\n").input_ids)
    '<bos>a <answer>7\n'
    """
    specials = (PAD, BOS, EOS, UNK)
    vocabulary = {token: i for i, token in enumerate((*specials, *MARKS, *ALPHABET))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    backend.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
