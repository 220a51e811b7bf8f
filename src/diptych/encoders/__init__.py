"""Towers: from a name to a module that turns pictures or text into tokens, a pooled vector and a mask.

`image_encoder(name)` and `text_encoder(name)` know our own small transformers, `timm:`, `hf:`, `open_clip:` and
weights that come inside packages (`packaged:`). All of them open their layers to an `Edit`.
"""

from __future__ import annotations

from diptych.encoders.base import Edit, Encoder, EncoderError, ImageEncoder, TextEncoder
from diptych.encoders.image import image_encoder
from diptych.encoders.text import text_encoder
from diptych.encoders.tokenizer import Tokenizer, own_tokenizer

__all__ = [
    "Edit",
    "Encoder",
    "EncoderError",
    "ImageEncoder",
    "TextEncoder",
    "Tokenizer",
    "image_encoder",
    "own_tokenizer",
    "text_encoder",
]
