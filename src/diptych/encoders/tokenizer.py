"""Strings -> token ids, a mask, and where each token stands in the string; the same for every tokenizer.

Our own tokenizer (`assets/tokenizer.json`, built by `tools/build_tokenizer.py`) is a byte-level BPE of CLIP's form:
lower-cased, split into words, numbers and signs, the last piece of a word marked `</w>`, so that a word is the same
token wherever it stands. It has 8,192 entries, learnt from captions in many languages, and knows any text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.text import one_line

_LETTERS = 256  # of a text for each token that is kept; no token is that long
_LARGEST_FILE = 64 << 20  # bytes of a tokenizer.json
# Loader workers are forked; a pool of threads from before the fork would be dead in them. One thread is enough here.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass
class Tokenizer:
    """Wraps a `tokenizers.Tokenizer`, given as its JSON, so that it can be pickled, compared and saved.

    Attributes:
        json: the tokenizer in the format of the `tokenizers` library, with a post-processor that adds special tokens.
        context: the largest number of tokens; longer texts are cut, keeping the end token.
        pad: the id of padding. It is never attended: masks are False there.
        end: the id of the token that ends every text, or None; where padding has the id of a word (open_clip) or of
            the end (OpenAI's CLIP), a mask can only be told from ids by it.
        always_pad: pads to `context` and not to the longest text (for models that were trained so, as SigLIP).
        keeps: which side of a longer text is kept; of an instruction the end, where the question is (InstructBLIP).
    """

    json: str = field(repr=False)
    context: int
    pad: int = 0
    end: int | None = None
    always_pad: bool = False
    keeps: Literal["start", "end"] = "start"

    @cached_property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`, set to cut at `context`."""
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_str(self.json)
        backend.no_padding()
        backend.encode_special_tokens = True  # "<end>" in somebody's caption is text
        backend.enable_truncation(self.context, direction="right" if self.keeps == "start" else "left")
        return backend

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "backend"}

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.backend.get_vocab().values()) + 1

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """B strings -> ids (B, T) int64 and mask (B, T) bool, True where a token is real; T is that of the longest."""
        found = [encoding.ids for encoding in self._encoded(self.backend.encode_batch_fast, texts)]
        lengths = np.array([len(ids) for ids in found], np.int64)
        length = self.context if self.always_pad else lengths.max(initial=0)
        ids = np.full((len(found), length), self.pad, np.int64)
        for row, values in zip(ids, found, strict=True):
            row[: len(values)] = values
        return torch.from_numpy(ids), torch.from_numpy(np.arange(length) < lengths[:, None])

    def real(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T) bool: up to the first end token, or, without one, where ids are not padding."""
        if self.end is None:
            return ids != self.pad
        ends = ids == self.end
        return (ends.cumsum(1) - ends.long()) == 0

    def offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """For each string, the (start, end) characters of each of its tokens; (0, 0) for special tokens."""
        return [list(encoding.offsets) for encoding in self._encoded(self.backend.encode_batch, texts)]

    def _encoded(self, encode: Any, texts: list[str]) -> Any:
        """What the library makes of the texts, of each so many letters that a megabyte does not cost seconds.

        Raises:
            ValueError: the tokenizer failed, as with a pattern that takes for ever on some text.
        """
        try:
            letters = _LETTERS * self.context
            return encode([text[:letters] if self.keeps == "start" else text[-letters:] for text in texts])
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust, which no `except Exception` would catch
                raise
            raise ValueError(f"the tokenizer fails on one of these texts ({one_line(str(error))}).") from None


def saved_tokenizer(like: Tokenizer, path: Path, words: int) -> Tokenizer:
    """The tokenizer in a file, with the settings of `like`, for a tower with embeddings of `words` ids.

    Raises:
        ValueError: the file is no tokenizer, or one with ids that the tower does not have.
    """
    if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path} is missing, or has more than {_LARGEST_FILE:,} bytes.")
    try:
        found = replace(like, json=path.read_text(encoding="utf-8"))
        most = max(found.vocab_size - 1, *found.backend.encode("a").ids, 0)
    except Exception as error:  # the library has no exceptions of its own
        raise ValueError(f"{path} is no tokenizer ({one_line(str(error))}).") from None
    if most >= words:
        raise ValueError(
            f"{path} has the id {most:,}, and the text tower knows {words:,} words: it is another model's."
        )
    return found


def own_tokenizer(context: int = 32) -> Tokenizer:
    """Our own multilingual tokenizer; `context` counts <start> and <end>; <pad> is 0, <end> the largest id."""
    text = resources.files("diptych.encoders").joinpath("assets/tokenizer.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer(text, context)
    return replace(tokenizer, end=tokenizer.backend.token_to_id("<end>"))


def clip_tokenizer(
    vocab: dict[str, int], merges: list[tuple[str, str]], start: str, end: str, context: int
) -> Tokenizer:
    """OpenAI's CLIP tokenizer from its vocabulary and merges; pads with 0, as open_clip does.

    Text is normalised to NFC and lower-cased, then cut by the pattern of `CLIP/clip/simple_tokenizer.py`.
    """
    from tokenizers import Regex, Tokenizer as Backend, models, normalizers, pre_tokenizers, processors

    backend = Backend(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=end))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.add_special_tokens([start, end])
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single=f"{start} $A {end}", special_tokens=[(start, vocab[start]), (end, vocab[end])]
            ),
        ]
    )
    return Tokenizer(backend.to_str(), context, end=vocab[end])
