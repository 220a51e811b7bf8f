"""Image encoders of timm (https://github.com/huggingface/pytorch-image-models)."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from diptych.batch import Features
from diptych.encoders.base import Edit, EncoderError, ImageEncoder, all_real, editing, need, on_meta

_MAPS = ("stages", "layers", "blocks")


class TimmImage(ImageEncoder):
    """A timm model: a ViT with its tokens, or a CNN or hierarchical transformer with its last map as tokens.

    The pooled vector is the model's own (class token, mean, or attention pool, after its last norm). `layers` are the
    blocks of a ViT and the stages of the others; stages cannot gain or lose positions.
    """

    model: Any

    def __init__(self, model: Any, name: str, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.name, self.model = name, model
        self.width = int(model.num_features)
        self.prefix = int(getattr(model, "num_prefix_tokens", 0))
        self.set_pixels(size, mean, std)
        pooled = int(getattr(model, "head_hidden_size", None) or self.width)
        if pooled != self.width:
            raise EncoderError(
                f"{name!r} has tokens of width {self.width} and a pooled vector of width {pooled}: choose a model that "
                "has one width, such as a ViT, ConvNeXt, ResNet or EfficientNet."
            )
        patches: Any = getattr(model, "patch_embed", None)
        if hasattr(model, "num_prefix_tokens") and hasattr(patches, "grid_size"):
            self.grid = (int(patches.grid_size[0]), int(patches.grid_size[1]))
        else:
            reduction = model.feature_info[-1]["reduction"]
            self.grid = (-(-size // reduction), -(-size // reduction))

    @property
    def layers(self) -> list[nn.Module]:
        """Blocks of a ViT, stages of any other model."""
        for name in _MAPS:
            found = getattr(self.model, name, None)
            if isinstance(found, nn.Sequential | nn.ModuleList):
                return list(found)
        return [self.model.get_submodule(f"layer{index}") for index in range(1, 5)]  # the ResNets

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        model = self.model
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        with editing(self.layers, edit, channels_last=channels_last) as state:
            x = model.forward_features(self.pixels(image))
        if x.ndim == 4:  # a map, (B, D, h, w) or (B, h, w, D)
            tokens = x.flatten(1, 2) if channels_last else x.flatten(2).transpose(1, 2)
            return Features(tokens, model.forward_head(x, pre_logits=True), all_real(tokens))
        self.check_tokens(x)
        tokens = x[:, self.prefix :]
        if isinstance(getattr(model, "fc_norm", None), nn.Module):  # models that pool by the mean normalise after it
            tokens = model.fc_norm(tokens)
        mask = all_real(x) if state.mask is None else state.mask
        pooled = model.forward_head(x, pre_logits=True)
        return Features(tokens, pooled, mask[:, self.prefix :])


def timm_image(name: str, size: int, pretrained: bool) -> TimmImage:
    """`NAME` is random, `NAME.TAG` has the weights of that tag (timm's own way of writing it).

    Raises:
        EncoderError: timm is missing, knows no such name, or cannot fetch the weights.
    """
    try:
        import timm
    except ImportError as error:
        raise need("timm", error) from None
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0) or ["none"]
        raise EncoderError(f"timm knows no model {name!r}; the nearest names are {', '.join(near)}.")
    settings = timm.get_pretrained_cfg(name)
    sized = {"img_size": size} if settings.fixed_input_size and size != settings.input_size[-1] else {}
    load = pretrained and "." in name and not on_meta()
    try:
        model = timm.create_model(name if load else name.split(".")[0], pretrained=load, num_classes=0, **sized)
    except (OSError, RuntimeError) as error:
        raise EncoderError(f"timm cannot make {name!r} for pictures of {size} pixels: {error}") from error
    return TimmImage(model, f"timm:{name}", size, settings.mean, settings.std)
