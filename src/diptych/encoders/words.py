"""Which tokens make up a word, for masking whole words (`objectives.masked.word_units`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.encoders.base import EncoderError
from diptych.encoders.tokenizer import Tokenizer

_BEFORE_WORDS = ("Ġ", "▁")  # byte-level BPE (RoBERTa, GPT-2) and SentencePiece mark the space ahead of a word


class WordPieces(nn.Module):
    """Tells from ids which tokens go on with the word of the token before them.

    It reads the marks in the vocabulary: `##ing` (WordPiece), a space ahead of a word (byte-level BPE, SentencePiece),
    or `</w>` at its end (CLIP, our own). Special tokens belong to no word. With a mark ahead of words, signs that
    follow a word without a space belong to it.

    Raises:
        EncoderError: the vocabulary has none of these marks.
    """

    joins: Tensor
    opens: Tensor
    special: Tensor

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        words = tokenizer.backend.get_vocab()
        size = tokenizer.vocab_size + 1  # one more, which may be a model's own id for the mask
        joins, opens = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
        special = torch.zeros(size, dtype=torch.bool)
        special[-1] = True
        special[list(tokenizer.backend.get_added_tokens_decoder())] = True
        space = next((mark for mark in _BEFORE_WORDS if any(word.startswith(mark) for word in words)), None)
        if any(word.endswith("</w>") for word in words):
            opens[[index for word, index in words.items() if not word.endswith("</w>")]] = True
        elif any(word.startswith("##") for word in words):
            joins[[index for word, index in words.items() if word.startswith("##")]] = True
        elif space is not None:
            joins[[index for word, index in words.items() if not word.startswith(space)]] = True
        else:
            raise EncoderError("The vocabulary does not say where words begin or end: mask single tokens instead.")
        self.register_buffer("joins", joins, persistent=False)
        self.register_buffer("opens", opens, persistent=False)
        self.register_buffer("special", special, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T) bool, True where a token continues the word of the token before it."""
        now, before = ids[:, 1:], ids[:, :-1]
        goes_on = (self.joins[now] | self.opens[before]) & ~self.special[now] & ~self.special[before]
        return torch.cat([torch.zeros_like(self.joins[ids[:, :1]]), goes_on], dim=1)


def mask_id(tokenizer: Tokenizer) -> int:
    """The id that stands for a masked word: the tokenizer's own, or one more than its last (`own_bert` has it)."""
    known = (tokenizer.backend.token_to_id(name) for name in ("[MASK]", "<mask>"))
    return next((found for found in known if found is not None), tokenizer.vocab_size)


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that are no words, such as start, end, padding and mask: never masked, and never put in for a word."""
    return sorted({tokenizer.pad, mask_id(tokenizer), *tokenizer.backend.get_added_tokens_decoder()})
