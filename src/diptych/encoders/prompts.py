"""What adaptations put into towers that stay as they are: vectors in place of words, tokens before any layer.

Built on the two places where every tower is open, its table of words and its `Edit`. Nothing is inserted where a
module of the tower is not called, and a tower given its own words back, or no change, computes what it does alone.

Letters: B batch, T tokens, N tokens put in, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diptych.encoders.base import Edit, EncoderError, ImageEncoder, TextEncoder

Change = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""Hidden states (B, T, D) and their mask (B, T), or None -> the same, changed; what an `Edit` does at one layer."""

_FIRST_NORMS = ("norm_in", "pre_layrnorm", "ln_pre", "norm_pre")  # ours, transformers', open_clip's, timm's


def word_table(encoder: TextEncoder) -> nn.Embedding:
    """The table in which the tower looks up its words.

    Raises:
        EncoderError: it has none that fits its vocabulary.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings == encoder.vocab_size:
            return module
    raise EncoderError(f"{encoder.name!r} has no table of {encoder.vocab_size:,} words: choose another text tower.")


def first_norm(encoder: ImageEncoder) -> nn.Module:
    """What patch tokens with their positions pass before the first layer: CLIP's LayerNorm; nothing, in most others."""
    named = (module for name, module in encoder.named_modules() if name.rpartition(".")[2] in _FIRST_NORMS)
    return next(named, nn.Identity())


@contextmanager
def words_changed(encoder: TextEncoder, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it is entered, `change` is applied to the embeddings of words (B, T, D), before positions are added."""

    def after(table: nn.Module, args: Any, embeddings: Tensor) -> Tensor:
        changed = change(embeddings)
        if changed.shape != embeddings.shape:
            raise EncoderError(
                f"Embeddings of shape {tuple(changed.shape)} cannot take the place of {tuple(embeddings.shape)}."
            )
        return changed

    handle = word_table(encoder).register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def filled(embeddings: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    """Puts vectors where slots are, and leaves the other embeddings.

    Args:
        embeddings: (B, T, D).
        slots: (B, T) int64, 0 for a word that stays, i for vector i - 1.
        vectors: (N, D).
    """
    chosen = vectors[(slots - 1).clamp(min=0)].to(embeddings.dtype)  # (B, T, D)
    return torch.where(slots[..., None] > 0, chosen, embeddings)


def by_layer(changes: Mapping[int, Change]) -> Edit:
    """The edit that makes a change before each of the layers that are named, counted from 0, and none elsewhere."""

    def edit(layer: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return changes[layer](hidden, mask) if layer in changes else (hidden, mask)

    return edit


def inserted(tokens: Tensor, at: int | None = None) -> Change:
    """Puts tokens (N, D), or (B, N, D), in front of the token at a position, or behind the last one."""

    def change(hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        place = hidden.shape[1] if at is None else at
        new = tokens.expand(len(hidden), -1, -1).to(hidden.dtype)  # (B, N, D)
        hidden = torch.cat([hidden[:, :place], new, hidden[:, place:]], dim=1)
        if mask is not None:
            mask = torch.cat([mask[:, :place], mask.new_ones(new.shape[:2]), mask[:, place:]], dim=1)
        return hidden, mask

    return change


def replaced(tokens: Tensor, at: int) -> Change:
    """Puts tokens (N, D), or (B, N, D), in the place of as many from a position on, which counts back if negative."""

    def change(hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        place, count = at % hidden.shape[1], tokens.shape[-2]
        new = tokens.expand(len(hidden), -1, -1).to(hidden.dtype)
        return torch.cat([hidden[:, :place], new, hidden[:, place + count :]], dim=1), mask

    return change


def dropped(start: int, stop: int | None = None) -> Change:
    """Takes the tokens from `start` to before `stop` out; both count back if negative, and None is the end."""

    def change(hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        kept = torch.ones(hidden.shape[1], dtype=torch.bool, device=hidden.device)
        kept[start:stop] = False
        return hidden[:, kept], None if mask is None else mask[:, kept]

    return change
