"""Tokens of an image encoder as one of its layers leaves them, without what comes after."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diptych.batch import Features
from diptych.encoders.base import Edit, EncoderError, ImageEncoder


class InnerLayer(ImageEncoder):
    """Another encoder, of which tokens are the states behind a layer, as LLaVA takes those behind the last but one.

    Args:
        encoder: a transformer; its pooled vector stays as it is.
        layer: index of the layer, -1 being the last, whose states have not passed the last norm.

    Raises:
        EncoderError: there is no such layer.
    """

    def __init__(self, encoder: ImageEncoder, layer: int) -> None:
        super().__init__()
        count = len(encoder.layers)
        if not -count <= layer < count:
            raise EncoderError(f"{encoder.name!r} has {count} layers and none of index {layer}: name one of those.")
        self.inner, self.layer = encoder, layer
        self.name, self.width, self.prefix = encoder.name, encoder.width, encoder.prefix
        self.image_size, self.grid = encoder.image_size, encoder.grid

    @property
    def layers(self) -> list[nn.Module]:
        """Those of the encoder."""
        return self.inner.layers

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D) behind the layer, pooled (B, D), mask (B, P)."""
        found: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            found.append(output if isinstance(output, Tensor) else output[0])

        hook = self.layers[self.layer].register_forward_hook(keep)
        try:
            features: Features = self.inner(image, edit)
        finally:
            hook.remove()
        return features._replace(tokens=found[0][:, self.prefix :])
