"""From a name to a text encoder: one table."""

from __future__ import annotations

from diptych.encoders.base import EncoderError, TextEncoder
from diptych.encoders.own import TextTransformer
from diptych.encoders.tokenizer import own_tokenizer

SOURCES = ("transformer", "bert", "hf:NAME_OR_PATH", "open_clip:NAME[/TAG or /FILE]", "packaged:minilm")


def text_encoder(
    name: str,
    *,
    width: int = 128,
    layers: int = 3,
    heads: int = 4,
    context: int = 32,
    pretrained: bool = True,
    dropout: float = 0.1,
) -> TextEncoder:
    """A text encoder by its name.

    Args:
        name: `transformer` (our own, with our own tokenizer), `bert` (a BERT of ours, likewise; the last of its ids
            is for masks), `hf:NAME_OR_PATH` (pretrained) or
            `hf:NAME_OR_PATH#random`, `open_clip:NAME` (random) or `open_clip:NAME/TAG` (pretrained; TAG may be a
            file), `packaged:minilm` (pretrained).
        width: of our own two, as layers and heads; the others come with their sizes.
        layers: number of layers of our own.
        heads: attention heads of our own.
        context: longest text in tokens; an encoder with fewer positions takes fewer.
        pretrained: False builds the same encoder without loading weights, to be filled from a checkpoint. On the meta
            device nothing is ever loaded.
        dropout: of our own `bert`; `transformer` has none, and the others come with theirs.

    Raises:
        EncoderError: the name is not known, a library is missing, or the weights cannot be had.
    """
    if name == "transformer":
        return TextTransformer(own_tokenizer(context), width, layers, heads)
    if name == "bert":
        from diptych.encoders.halves import own_bert

        return own_bert(context, width, layers, heads, dropout)
    source, _, rest = name.partition(":")
    if source == "hf" and rest:
        from diptych.encoders.from_hf import hf_text

        return hf_text(rest, context, pretrained)
    if source == "open_clip" and rest:
        from diptych.encoders.from_open_clip import open_clip_text

        return open_clip_text(rest, context, pretrained)
    if name == "packaged:minilm":
        from diptych.encoders.packaged import minilm

        return minilm(context, pretrained)
    raise EncoderError(f"There is no text encoder {name!r}: write one of {', '.join(SOURCES)}.")
