"""What every tower is: tokens, one pooled vector and a mask out; its layers open to reading and editing.

Later methods put prompts into a layer (MaPLe, VPT), let frames exchange messages between layers (X-CLIP), drop
tokens, or read every hidden state. All of that is one function, an `Edit`, which any encoder calls before each of its
layers. Own encoders call it in their loop; the encoders of other libraries call it from forward pre-hooks that live
for one forward pass. There is no edited copy of anybody's model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diptych.batch import Features
    from diptych.encoders.tokenizer import Tokenizer

Edit = Callable[[int, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""`edit(i, hidden, mask) -> (hidden, mask)`, called before layer i.

hidden: (B, T, D), class and register tokens of an image in front; mask: (B, T) bool, True where a token may be
attended, or None where all may. An edit that changes T must return a mask of the new T, unless it was given None.
"""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class EncoderError(ValueError):
    """An encoder cannot be built or run as asked; the message is one sentence that says what to do."""


class Encoder(nn.Module):
    """A tower. Called with its inputs it returns raw (not normalised) `Features` of width `width`.

    Attributes:
        width: D of tokens and pooled.
        prefix: how many tokens stand in front of the hidden states but not in `Features.tokens` (class token,
            registers). Edits must leave them there.
        projection: (D_out, width) or None, the map into a joint space that came with pretrained weights.
        logit_scale: the logarithm of the scale that came with pretrained weights, or None.
        logit_bias: the bias of the logits that came with pretrained weights (SigLIP), or None.
        name: the name that the encoder was made from.
    """

    width: int
    prefix: int = 0
    projection: Tensor | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    name: str = ""

    @property
    def layers(self) -> list[nn.Module]:
        """The layers in the order in which they run; `edit` is called before each of them."""
        raise NotImplementedError

    def check_tokens(self, tokens: Tensor) -> None:
        """Says clearly that a class token was edited away, which no later error would."""
        if tokens.shape[1] <= self.prefix:
            raise EncoderError(
                f"After the edits {tokens.shape[1]} tokens are left, but the first {self.prefix} of {self.name!r} are "
                "its class and register tokens: keep them in front and at least one more."
            )


class ImageEncoder(Encoder):
    """A tower for pictures: `encoder(image, edit=None)` with image (B, 3, H, W), uint8 or float in [0, 1].

    Attributes:
        image_size: side of the square pictures it takes, in pixels.
        grid: (rows, columns) of the patch tokens, which are in row-major order.
        mean, std: (3, 1, 1) buffers by which pictures are normalised.
    """

    image_size: int
    grid: tuple[int, int]
    mean: Tensor
    std: Tensor

    def set_pixels(self, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        """Declares the size of the pictures and how their channels are normalised."""
        self.image_size = size
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(3, 1, 1))

    def pixels(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 or float in [0, 1] -> normalised, in the type of the encoder.

        Raises:
            EncoderError: the picture has another size than the encoder takes.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            height, width = image.shape[-2:]
            raise EncoderError(
                f"{self.name!r} takes pictures of {self.image_size} x {self.image_size} pixels and got "
                f"{height} x {width}: resize them in the views, or make the encoder with that size."
            )
        exact = torch.promote_types(self.mean.dtype, torch.float32)
        mean, std = self.mean.to(exact), self.std.to(exact)
        if image.is_floating_point():
            return torch.addcmul(-mean / std, image.to(exact), 1 / std).to(self.mean.dtype)
        pixels = image.to(exact)  # its memory is written over: new memory costs as much as the arithmetic
        return torch.addcmul(-mean / std, pixels, 1 / (255 * std), out=pixels).to(self.mean.dtype)  # (B, 3, H, W)

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        raise NotImplementedError

    def pooled(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> pooled alone, (B, D): a tower may leave out what only its tokens need."""
        features: Features = self(image)
        return features.pooled


class TextEncoder(Encoder):
    """A tower for text: `encoder(ids, mask=None, edit=None)` with ids (B, T) int64 and mask (B, T) bool.

    Attributes:
        tokenizer: makes ids and mask from strings.
        context: the largest T.
        vocab_size: one more than the largest id.
    """

    tokenizer: Tokenizer
    context: int
    vocab_size: int

    def real(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T) bool: `mask`, or what the tokenizer can tell from the ids.

        Raises:
            EncoderError: there are more tokens than the encoder has positions for.
        """
        if ids.shape[1] > self.context:
            raise EncoderError(
                f"{self.name!r} takes at most {self.context} tokens and got {ids.shape[1]}: let its tokenizer cut the "
                "text, or make the encoder with a longer context."
            )
        return self.tokenizer.real(ids) if mask is None else mask.bool()

    def padded(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), (B, T) -> the same with padding up to `context`, for encoders that were trained so."""
        room = self.context - ids.shape[1]
        return F.pad(ids, (0, room), value=self.tokenizer.pad), F.pad(mask, (0, room), value=False)

    def forward(self, ids: Tensor, mask: Tensor | None = None, edit: Edit | None = None) -> Features:
        """(B, T) ids -> tokens (B, T, D), pooled (B, D), mask (B, T), True for all but padding."""
        raise NotImplementedError

    def pooled(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T) ids -> pooled alone, (B, D): a tower may leave out what only its tokens need."""
        features: Features = self(ids, mask)
        return features.pooled


def on_meta() -> bool:
    """Whether modules are being built on the meta device, where there is nothing to load weights into."""
    return torch.get_default_device().type == "meta"


def all_real(tokens: Tensor) -> Tensor:
    """(B, T, D) -> (B, T), all True."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def need(extra: str, error: ImportError) -> EncoderError:
    """The error for a library that is not installed, with the extra that brings it."""
    return EncoderError(f"This encoder needs a library that is not here ({error}): pip install 'diptych[{extra}]'.")


def last_real(hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D), (B, T) -> (B, D): the hidden state at the last position where the mask is True."""
    return rows_at(hidden, last_position(mask))


def last_position(mask: Tensor) -> Tensor:
    """(B, T) -> (B,): the last position where the mask is True."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).amax(dim=1)


def rows_at(x: Tensor, position: Tensor) -> Tensor:
    """(B, T, ...), (B,) -> (B, ...): of each row the entry at its own position."""
    return x[torch.arange(len(position), device=x.device), position]


def mean_real(hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D), (B, T) -> (B, D): the mean of the hidden states where the mask is True."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def apply_edit(edit: Edit, index: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Calls `edit` before layer `index` and checks what it returns.

    Raises:
        EncoderError: tokens and mask that it returns do not fit each other, or the width changed.
    """
    edited, kept = edit(index, hidden, mask)
    if edited.shape[0] != hidden.shape[0] or edited.shape[2:] != hidden.shape[2:]:
        raise EncoderError(
            f"The edit before layer {index} turned hidden states of shape {tuple(hidden.shape)} into "
            f"{tuple(edited.shape)}: only the number of tokens, the second, may change."
        )
    if kept is not None and kept.shape != edited.shape[:2]:
        raise EncoderError(
            f"The edit before layer {index} returned {edited.shape[1]} tokens with a mask of {kept.shape[1]}: return a "
            "mask (B, T) that has one entry a token."
        )
    return edited, kept


def attention_mask(mask: Tensor | None, length: int, causal: bool, like: Tensor) -> Tensor | None:
    """(B, T) or None -> (B or 1, 1, T, T) bool, True where a query may see a key; None where every one may.

    A query that would see nothing (padding in front) sees itself, so that no row of attention is empty.
    """
    if mask is None and not causal:
        return None
    allowed = torch.ones(1, 1, length, length, dtype=torch.bool, device=like.device)
    if causal:
        allowed = allowed.tril()
    if mask is not None:
        itself = torch.eye(length, dtype=torch.bool, device=like.device)
        allowed = (allowed & mask[:, None, None, :]) | itself
    return allowed


@dataclass
class Editing:
    """The state of one edited forward pass: the mask as it is now, and whether layers need another than they get."""

    mask: Tensor | None
    changed: bool = False


@contextmanager
def editing(
    layers: Sequence[nn.Module],
    edit: Edit | None,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    heads: int = 0,
    channels_last: bool = False,
) -> Iterator[Editing]:
    """While it is entered, `edit` runs before each of `layers`, whoever's they are.

    The first argument of a layer is taken as its hidden states: (B, T, D), or a feature map, which the edit sees as
    (B, H * W, D). Once an edit changed the mask or the number of tokens, the layer's argument `attention_mask` or
    `attn_mask` is replaced by one that fits. The mask at the end is that of the `Editing` that is handed out.

    Args:
        layers: modules, in the order in which they run.
        edit: what to call, or None for a plain forward pass.
        mask: (B, T) of attendable tokens before the first layer, or None.
        causal: whether the layers attend only backwards.
        heads: number of heads where the layers want a mask of (B * heads, T, T), as nn.MultiheadAttention; else 0.
        channels_last: whether feature maps are (B, H, W, D) and not (B, D, H, W).
    """
    state = Editing(mask)
    if edit is None:
        yield state
        return
    handles = [
        layer.register_forward_pre_hook(
            _hook(index, edit, state, causal=causal, heads=heads, channels_last=channels_last), with_kwargs=True
        )
        for index, layer in enumerate(layers)
    ]
    try:
        yield state
    finally:
        for handle in handles:
            handle.remove()


def _hook(index: int, edit: Edit, state: Editing, *, causal: bool, heads: int, channels_last: bool) -> Callable:
    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        call = inspect.signature(layer.forward).bind(*args, **kwargs)
        first = next(iter(call.arguments))
        value = call.arguments[first]
        if value.ndim == 4:
            if state.mask is not None:
                raise EncoderError("The layers of this encoder are feature maps: an edit cannot mask their positions.")
            call.arguments[first], kept = _edit_map(edit, index, value, channels_last)
            return call.args, call.kwargs
        hidden, kept = apply_edit(edit, index, value, state.mask)
        state.changed |= kept is not state.mask or hidden.shape[1] != value.shape[1]
        state.mask = kept
        call.arguments[first] = hidden
        if state.changed:
            _replace_mask(call, hidden, kept, causal=causal, heads=heads)
        return call.args, call.kwargs

    return before


def _edit_map(edit: Edit, index: int, value: Tensor, channels_last: bool) -> tuple[Tensor, Tensor | None]:
    grid = value if channels_last else value.permute(0, 2, 3, 1)  # (B, H, W, D)
    hidden, mask = apply_edit(edit, index, grid.flatten(1, 2), None)
    if mask is not None or hidden.shape[1] != grid.shape[1] * grid.shape[2]:
        raise EncoderError(
            f"Layer {index} works on a map of {grid.shape[1]} x {grid.shape[2]} positions: an edit may read and "
            "replace them, but not insert, drop or mask any."
        )
    edited = hidden.reshape(grid.shape)
    return (edited if channels_last else edited.permute(0, 3, 1, 2)), None


def _replace_mask(
    call: inspect.BoundArguments, hidden: Tensor, mask: Tensor | None, *, causal: bool, heads: int
) -> None:
    names = [name for name in ("attention_mask", "attn_mask") if name in call.signature.parameters]
    allowed = attention_mask(mask, hidden.shape[1], causal, hidden)
    if not names:
        if allowed is not None and not bool(allowed.all()):
            raise EncoderError("The layers of this encoder take no mask: drop the tokens instead of masking them.")
        return
    if allowed is None:
        call.arguments[names[0]] = None
        return
    # Added to the logits: a float mask means the same to transformers, timm and nn.MultiheadAttention; a bool does not.
    added = torch.zeros_like(allowed, dtype=hidden.dtype).masked_fill(~allowed, torch.finfo(hidden.dtype).min)
    if heads:
        added = added.expand(len(hidden), heads, -1, -1).flatten(0, 1)  # (B * heads, T, T)
    call.arguments[names[0]] = added
