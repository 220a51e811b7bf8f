"""The tokenizers: ids, masks, offsets, cutting, any text, and equality with CLIP's own."""

from __future__ import annotations

import pickle
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from diptych.encoders import own_tokenizer
from diptych.encoders.from_open_clip import canonical, open_clip_tokenizer
from diptych.encoders.tokenizer import Tokenizer

CAPTIONS = [
    "A red circle above the blue square.",
    "Ein Gänserich fliegt über die Straße",
    "Красный круг и синий квадрат",
    "ガチョウが飛んでいる 日の丸",
    "İstanbul'da kırmızı bir kedi",
    "don't stop: 123 cats & dogs!! 🦆",
    "  two   spaces\tand\na line ",
    "",
]


def test_special_ids_and_size() -> None:
    tokenizer = own_tokenizer(16)
    ids, mask = tokenizer.encode(["a dog", "a"])
    assert tokenizer.vocab_size == 8192
    assert ids[:, 0].tolist() == [8190, 8190]
    assert ids[0, 3] == 8191
    assert ids[1].tolist()[2:] == [8191, 0]
    assert mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert ids.dtype == torch.int64


@pytest.mark.parametrize(
    "text", ["circle", "square", "dog", "red", "turquoise", "photo", "hexagon", "butterfly", "beside", "three"]
)
def test_common_words_are_one_token(text: str) -> None:
    assert own_tokenizer().encode([text])[0].shape == (1, 3)


def test_a_word_is_the_same_token_wherever_it_stands() -> None:
    ids, _ = own_tokenizer().encode(["dog", "a dog", "(DOG)"])
    assert int(ids[0, 1]) == int(ids[1, 2]) == int(ids[2, 2])


def test_offsets_are_characters_of_the_text() -> None:
    text = "A red Circle (dog), Straße."
    spans = own_tokenizer().offsets([text])[0]
    assert [text[start:end] for start, end in spans[1:7]] == ["A", "red", "Circle", "(", "dog", "),"]
    assert "".join(text[start:end] for start, end in spans) == text.replace(" ", "")
    assert spans[0] == spans[-1] == (0, 0)


def test_long_texts_are_cut_and_keep_their_end() -> None:
    tokenizer = own_tokenizer(6)
    ids, mask = tokenizer.encode(["one two three four five six seven"])
    assert ids.shape == (1, 6)
    assert ids[0, -1] == 8191
    assert mask.all()
    assert len(tokenizer.offsets(["one two three four five six seven"])[0]) == 6


def test_a_special_token_in_a_caption_is_text() -> None:
    ids, _ = own_tokenizer().encode(["the <end> of <pad>"])
    assert (ids[0, 1:-1] < 8190).all()
    assert (ids != 0).all()


def test_pickled_for_loader_workers() -> None:
    tokenizer = own_tokenizer(8)
    tokenizer.encode(["warm the cache"])
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert copy.encode(CAPTIONS)[0].equal(tokenizer.encode(CAPTIONS)[0])


def test_no_texts() -> None:
    ids, mask = own_tokenizer().encode([])
    assert ids.shape == mask.shape == (0, 0)


def test_always_pad() -> None:
    ids, mask = Tokenizer(own_tokenizer().json, context=9, always_pad=True).encode(["a dog"])
    assert ids.shape == (1, 9)
    assert mask.sum() == 4


LONG = own_tokenizer(512)
LETTERS = st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn", "Zs", "Zl", "Zp"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(LETTERS, min_size=1, max_size=12), max_size=6))
def test_any_text_survives(words: list[str]) -> None:
    """Nothing is unknown: decoding gives the normalised text back, up to spaces."""
    text = " ".join(words)
    backend = LONG.backend
    expected = backend.normalizer.normalize_str(text)
    decoded = backend.decode(backend.encode(text).ids)
    assert re.sub(r"\s", "", decoded) == re.sub(r"\s", "", expected)


def test_clip_tokenizer_equals_open_clips() -> None:
    import open_clip

    theirs = open_clip.get_tokenizer("ViT-B-32")(CAPTIONS)
    ids, mask = open_clip_tokenizer("ViT-B-32", 77).encode(CAPTIONS)
    assert theirs[:, : ids.shape[1]].equal(ids)
    assert (theirs[:, ids.shape[1] :] == 0).all()
    assert mask.sum(1).tolist() == [int(row.argmax()) + 1 for row in theirs]


def test_clip_pads_with_the_id_of_a_word_and_the_mask_is_still_right() -> None:
    tokenizer = open_clip_tokenizer("ViT-B-32", 77)
    ids, mask = tokenizer.encode(["wow !¿ yes", "no"])
    assert 0 in ids[0][mask[0]]  # "!"
    assert 0 in ids[1][~mask[1]]  # padding
    assert tokenizer.real(ids).equal(mask)


def test_the_builder_learns_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new tokenizer from plain text has the same form: bytes first, then what was learnt, the special ids last."""
    (tmp_path / "corpus.txt").write_text("die Zwergmaus schläft\n" * 3000, encoding="utf-8")
    (tmp_path / "val.txt").write_text("Nashorn\n" * 9000, encoding="utf-8")
    out = tmp_path / "out.json"
    script = Path(__file__).parents[2] / "tools" / "build_tokenizer.py"
    monkeypatch.setattr(sys, "argv", [script.name, str(tmp_path), "--out", str(out), "--size", "1300"])
    runpy.run_path(str(script), run_name="__main__")
    tokenizer = Tokenizer(out.read_text(encoding="utf-8"), 32)
    ids, _ = tokenizer.encode(["Zwergmaus", "Nashorn", "circle"])
    assert tokenizer.vocab_size == 1300
    assert ids[0].tolist()[:1] == [1298]
    assert int(ids[0, 2]) == 1299  # one token between start and end
    assert int(ids[2, 2]) == 1299
    assert int(ids[1, 2]) != 1299  # validation files are not read


def test_canonical_texts_are_siglips() -> None:
    from open_clip.tokenizer import canonicalize_text

    backend = Tokenizer(canonical(own_tokenizer().json), 32).backend
    for text in ("Hello, World_wide!  it's", "a (red) dog.", *CAPTIONS[:3]):
        assert backend.encode(text).ids == own_tokenizer().backend.encode(canonicalize_text(text)).ids
