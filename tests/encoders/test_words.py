from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend, models, pre_tokenizers, processors

from diptych.encoders import EncoderError, Tokenizer, own_tokenizer
from diptych.encoders.words import WordPieces
from diptych.objectives.masked import word_units


def made(model, splitter) -> Tokenizer:
    backend = Backend(model)
    backend.pre_tokenizer = splitter
    backend.add_special_tokens(["[S]"])
    single = processors.TemplateProcessing(single="[S] $A [S]", special_tokens=[("[S]", backend.token_to_id("[S]"))])
    backend.post_processor = single
    return Tokenizer(backend.to_str(), 16)


def by_words(tokenizer: Tokenizer, text: str) -> list[list[str]]:
    """The pieces of a text, one list a unit."""
    ids, _ = tokenizer.encode([text])
    pieces = [tokenizer.backend.id_to_token(int(i)) for i in ids[0]]
    units = word_units(WordPieces(tokenizer)(ids))[0].tolist()
    return [[piece for piece, unit in zip(pieces, units, strict=True) if unit == u] for u in sorted(set(units))]


def test_word_piece() -> None:
    vocabulary = {"[U]": 0, "play": 1, "##ing": 2, "##s": 3, "dog": 4, "s": 5}
    tokenizer = made(models.WordPiece(vocabulary, unk_token="[U]"), pre_tokenizers.Whitespace())
    assert by_words(tokenizer, "dogs playing s") == [["[S]"], ["dog", "##s"], ["play", "##ing"], ["s"], ["[S]"]]


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_level(prefix: bool) -> None:
    """RoBERTa does not mark the first word, which special tokens are still no part of."""
    letters = {letter: index for index, letter in enumerate("Ġadogs")}
    tokenizer = made(models.BPE(letters, []), pre_tokenizers.ByteLevel(add_prefix_space=prefix))
    first = ["Ġ", "d", "o"] if prefix else ["d", "o"]
    assert by_words(tokenizer, "do gas") == [["[S]"], first, ["Ġ", "g", "a", "s"], ["[S]"]]


def test_our_own() -> None:
    tokenizer = own_tokenizer(32)
    found = by_words(tokenizer, "a red zzyzxq, on blue")
    assert found[0] == ["<start>"]
    assert found[-1] == ["<end>"]
    words = ["".join(pieces) for pieces in found[1:-1]]
    assert words == ["a</w>", "red</w>", "zzyzxq</w>", ",</w>", "on</w>", "blue</w>"]
    assert max(len(pieces) for pieces in found) > 1


def test_a_vocabulary_without_marks_says_so() -> None:
    with pytest.raises(EncoderError, match="does not say where words begin"):
        WordPieces(made(models.WordLevel({"a": 0, "[U]": 1}, unk_token="[U]"), pre_tokenizers.Whitespace()))
