"""No encoder at all: the pixels of each patch as its token, for models that look at pictures themselves."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features
from diptych.encoders.base import CLIP_MEAN, CLIP_STD, Edit, EncoderError, ImageEncoder, all_real


class Patches(ImageEncoder):
    """Normalised pixels, 3 * patch * patch a token, row by row; nothing in it learns, and there are no layers."""

    def __init__(self, size: int, patch: int) -> None:
        super().__init__()
        if patch < 1 or size < 1 or size % patch:
            raise EncoderError(f"Pictures of {size} pixels cannot be cut into patches of {patch}: change one of them.")
        self.name, self.width, self.patch = "patches", 3 * patch * patch, patch
        self.grid = (size // patch, size // patch)
        self.set_pixels(size, CLIP_MEAN, CLIP_STD)

    @property
    def layers(self) -> list[nn.Module]:
        """None."""
        return []

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D), their mean (B, D), mask (B, P); there is no layer to edit before."""
        tokens = F.pixel_unshuffle(self.pixels(image), self.patch).flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(1), all_real(tokens))
