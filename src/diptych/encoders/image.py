"""From a name to an image encoder: one table."""

from __future__ import annotations

from diptych.encoders.base import EncoderError, ImageEncoder
from diptych.encoders.own import VisionTransformer
from diptych.encoders.patches import Patches

SOURCES = (
    "vit",
    "patches",
    "timm:NAME[.TAG]",
    "hf:NAME_OR_PATH",
    "open_clip:NAME[/TAG or /FILE]",
    "packaged:efficientnet_lite0",
)


def image_encoder(
    name: str, *, size: int, width: int = 128, layers: int = 4, heads: int = 4, patch: int = 8, pretrained: bool = True
) -> ImageEncoder:
    """An image encoder by its name.

    Args:
        name: `vit` (our own), `patches` (pixels as they are, no encoder), `timm:NAME` (random) or `timm:NAME.TAG`
            (pretrained), `hf:NAME_OR_PATH` (pretrained) or `hf:NAME_OR_PATH#random`, `open_clip:NAME` (random) or
            `open_clip:NAME/TAG` (pretrained; TAG may be a file), `packaged:efficientnet_lite0` (pretrained).
        size: side of the square pictures, in pixels.
        width: of our own ViT, as layers, heads and patch; the others come with their sizes.
        layers: number of layers of our own ViT.
        heads: attention heads of our own ViT.
        patch: side of a patch of our own ViT, and of `patches`, in pixels.
        pretrained: False builds the same encoder without loading weights, to be filled from a checkpoint. On the meta
            device nothing is ever loaded.

    Raises:
        EncoderError: the name is not known, a library is missing, or the weights cannot be had.
    """
    if name == "vit":
        return VisionTransformer(size, width, layers, heads, patch)
    if name == "patches":
        return Patches(size, patch)
    source, _, rest = name.partition(":")
    if source == "timm" and rest:
        from diptych.encoders.from_timm import timm_image

        return timm_image(rest, size, pretrained)
    if source == "hf" and rest:
        from diptych.encoders.from_hf import hf_image

        return hf_image(rest, size, pretrained)
    if source == "open_clip" and rest:
        from diptych.encoders.from_open_clip import open_clip_image

        return open_clip_image(rest, size, pretrained)
    if name == "packaged:efficientnet_lite0":
        from diptych.encoders.packaged import efficientnet_lite0

        return efficientnet_lite0(size, pretrained)
    raise EncoderError(f"There is no image encoder {name!r}: write one of {', '.join(SOURCES)}.")
