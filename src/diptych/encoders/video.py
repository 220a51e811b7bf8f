"""Video towers. TimeSformer: attention over time, then over space, in every layer of a vision transformer.

"Is Space-Time Attention All You Need for Video Understanding?", Bertasius et al. 2021 (arXiv 2102.05095), divided
attention; on transformers' TimesformerModel. As in ALPRO, tokens are averaged over time behind the last LayerNorm.

The temporal path ends in a linear map that begins at zero, in every layer, and time embeddings begin at zero: at first
the tower is a plain ViT on each frame, whose class token is the mean over frames in every layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diptych.batch import Features
from diptych.encoders.base import CLIP_MEAN, CLIP_STD, Edit, EncoderError, ImageEncoder, all_real, editing, need

SOURCES = ("timesformer", "timesformer:timm:NAME")

# names in timm's vision transformer -> those in transformers' TimeSformer; the temporal path gets a copy of two of them
_TIMM = (
    (r"^cls_token$", ("embeddings.cls_token",)),
    (r"^pos_embed$", ("embeddings.position_embeddings",)),
    (r"^patch_embed\.proj\.", ("embeddings.patch_embeddings.projection.",)),
    (r"^blocks\.(\d+)\.norm1\.", (r"encoder.layer.\1.layernorm_before.", r"encoder.layer.\1.temporal_layernorm.")),
    (
        r"^blocks\.(\d+)\.attn\.qkv\.",
        (r"encoder.layer.\1.attention.attention.qkv.", r"encoder.layer.\1.temporal_attention.attention.qkv."),
    ),
    (
        r"^blocks\.(\d+)\.attn\.proj\.",
        (r"encoder.layer.\1.attention.output.dense.", r"encoder.layer.\1.temporal_attention.output.dense."),
    ),
    (r"^blocks\.(\d+)\.norm2\.", (r"encoder.layer.\1.layernorm_after.",)),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", (r"encoder.layer.\1.intermediate.dense.",)),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", (r"encoder.layer.\1.output.dense.",)),
    (r"^norm\.", ("layernorm.",)),
)


class TimeSformer(ImageEncoder):
    """Divided space-time attention over F frames; a picture is a video of one frame.

    Called with another number of frames than it was made for, it takes the nearest of its time embeddings.

    Args:
        size: side of a frame, in pixels.
        width: D.
        layers: number of layers.
        heads: attention heads.
        patch: side of a patch, in pixels.
        frames: F for which there are time embeddings.
        drop_path: share of samples in which the last layer's parts are skipped in training, rising from 0 at the first;
            0.1 in TimeSformer, ALPRO and HD-VILA.

    Raises:
        EncoderError: transformers is missing, or patches do not fill the frame.
    """

    prefix = 1
    model: Any

    def __init__(
        self,
        size: int = 224,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        patch: int = 16,
        frames: int = 4,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        try:
            from transformers import TimesformerConfig, TimesformerModel
        except ImportError as error:
            raise need("hf", error) from None
        if size % patch:
            raise EncoderError(f"Frames of {size} pixels cannot be cut into patches of {patch}: change one of them.")
        config = TimesformerConfig(
            image_size=size,
            patch_size=patch,
            num_frames=frames,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            initializer_range=0.02 * math.sqrt(768 / width),  # as in TimeSformer-B, at any width
        )
        vars(config)["drop_path_rate"] = drop_path  # a share, which transformers takes for an integer when it is set
        self.name, self.width, self.frames = "timesformer", width, frames
        self.grid = (size // patch, size // patch)
        self.set_pixels(size, CLIP_MEAN, CLIP_STD)
        self.model = TimesformerModel(config)
        for layer in self.layers:
            nn.init.zeros_(layer.temporal_dense.weight)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(layer.temporal_dense.bias)  # type: ignore[union-attr, arg-type]

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers; their hidden states are the class token and patches x frames, frames together."""
        return list(self.model.encoder.layer)

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, F, 3, H, W), or (B, 3, H, W) -> patch tokens (B, P, D), mean over frames; class token (B, D); mask."""
        video = self.pixels(image if image.ndim == 5 else image[:, None])  # (B, F, 3, H, W)
        self.model.config.num_frames = video.shape[1]  # its layers tell patches and frames apart by this
        with editing(self.layers, edit):
            x = self.model(pixel_values=video).last_hidden_state  # (B, 1 + P * F, D)
        tokens = x[:, 1:].unflatten(1, (-1, video.shape[1])).mean(2)  # (B, P, D)
        return Features(tokens, x[:, 0], all_real(tokens))

    def start_from(self, state: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> None:
        """Takes the weights of a vision transformer of timm, whose attention is copied to the temporal one (ALPRO).

        Args:
            state: of a model of the same sizes, heads left out.
            mean: (3, 1, 1), by which its pictures were normalised.
            std: likewise.

        Raises:
            EncoderError: the weights are not those of such a model.
        """
        found = {}
        for name, value in state.items():
            named = [re.sub(pattern, to, name) for pattern, tos in _TIMM if re.search(pattern, name) for to in tos]
            if not named:
                raise EncoderError(f"A plain vision transformer has no weight {name!r}: leave it out, or take another.")
            found.update(dict.fromkeys(named, value))
        own = self.model.state_dict()
        fresh = "temporal_dense", "time_embeddings"
        lacking = sorted(name for name in own if name not in found and not any(part in name for part in fresh))
        unfit = [name for name, value in found.items() if name not in own or own[name].shape != value.shape]
        if lacking or unfit:
            raise EncoderError(
                f"These weights do not fit the tower at {(lacking + unfit)[0]!r}: make both of one size."
            )
        self.model.load_state_dict(found, strict=False)
        self.mean, self.std = mean.clone(), std.clone()


def video_encoder(
    name: str,
    *,
    size: int = 64,
    width: int = 128,
    layers: int = 3,
    heads: int = 4,
    patch: int = 8,
    frames: int = 4,
    pretrained: bool = True,
) -> TimeSformer:
    """A video encoder by its name.

    Args:
        name: `timesformer` (random) or `timesformer:timm:NAME`, which begins as that vision transformer.
        size: side of the frames, in pixels.
        width: as layers, heads and patch, of a random one; the other comes with its sizes.
        layers: number of layers.
        heads: attention heads.
        patch: side of a patch, in pixels.
        frames: number of frames for which there are time embeddings.
        pretrained: False builds the same encoder without loading weights, to be filled from a checkpoint.

    Raises:
        EncoderError: the name is not known, a library is missing, or the weights cannot be had.
    """
    if name == "timesformer":
        return TimeSformer(size, width, layers, heads, patch, frames)
    if not name.startswith("timesformer:timm:"):
        raise EncoderError(f"There is no video encoder {name!r}: write one of {', '.join(SOURCES)}.")
    from diptych.encoders.from_timm import timm_image

    image = timm_image(name.removeprefix("timesformer:timm:"), size, pretrained)
    vit = image.model
    if not hasattr(vit, "cls_token") or not hasattr(vit, "blocks"):
        raise EncoderError(f"{name!r} is no plain vision transformer: name one such as vit_base_patch16_224.")
    side, depth, count = vit.patch_embed.patch_size[0], len(vit.blocks), vit.blocks[0].attn.num_heads
    made = TimeSformer(size, image.width, depth, count, side, frames)
    made.start_from(vit.state_dict(), image.mean, image.std)
    made.name = name
    return made
