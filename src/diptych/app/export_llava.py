"""A language model that sees each token of a vision encoder, as a `LlavaForConditionalGeneration` of transformers.

LLaVA's class takes the states behind a layer of the vision encoder, which have not passed the norm behind all layers;
ours have, but for PLLaVA's `image_layer`. That norm is written as one more layer: its attention adds nothing, and its
MLP adds the normed states z, since an activation a of GELU's kind has a(z) - a(-z) = z. What the layer was given stands
beside them, and is smaller than their rounding when they are `LARGE` times as large, as the map behind undoes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diptych.app.export_generative import Whole, chat_template, filled, language_of, tokenizer_of
from diptych.app.export_parts import ExportError
from diptych.app.export_transformers import image_processor, tower
from diptych.encoders.base import ImageEncoder
from diptych.encoders.clip_form import clip_form, to_transformers
from diptych.encoders.from_hf import HfImage
from diptych.encoders.inner import InnerLayer
from diptych.fusion.connectors import AdaptivePool, Chain, Connector, Projector
from diptych.methods.generative.limber import LinearMap
from diptych.models.generative import GenerativeVLM
from diptych.views.conversations import MARKER

LARGE = 2.0**24


def llava(method: GenerativeVLM) -> Whole:
    """The model and its processor.

    Raises:
        ExportError: its connector or its vision encoder is none of LLaVA's.
    """
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    encoder = method.encoder
    maps = linear_maps(method.connector, encoder.grid[0] * encoder.grid[1])
    seen, weights = _vision(encoder)
    layer, scale, notes = -1, 1.0, []
    if isinstance(encoder, InnerLayer):
        layer = encoder.layer if encoder.layer < 0 else encoder.layer + 1  # states 0 are those ahead of all layers
    else:
        _norm_as_layer(seen, weights)
        scale = 1 / LARGE
        notes.append("The last layer of the vision tower is the norm behind its layers, which LLaVA has not.")
        notes.append("That layer is for float32 and bfloat16; float16 has no numbers as large.")
    tokenizer = tokenizer_of(method, extra_special_tokens={"image_token": MARKER})
    marker = tokenizer.convert_tokens_to_ids(MARKER)
    text, trunk, head = language_of(method.language, marker)
    config = LlavaConfig(
        vision_config=seen,
        text_config=text,
        image_token_index=marker,
        image_seq_length=method.connector.tokens,
        projector_hidden_act="gelu" if len(maps) == 2 else "linear",
        vision_feature_layer=layer,
        vision_feature_select_strategy="default" if encoder.prefix else "full",
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    first, *rest = maps
    width = first.out_features
    second = (rest[0].weight, rest[0].bias) if rest else (torch.eye(width), torch.zeros(width))
    state = {f"model.vision_tower.{name}": value for name, value in weights.items()}
    state |= {f"model.language_model.{name}": value for name, value in trunk.items()}
    linear = "model.multi_modal_projector.linear_"
    state |= {f"{linear}1.weight": first.weight * scale, f"{linear}1.bias": first.bias}
    state |= {f"{linear}2.weight": second[0], f"{linear}2.bias": second[1], "lm_head.weight": head}
    own = method.language.tokenizer
    processor = LlavaProcessor(
        CLIPImageProcessor(**image_processor(_inside(encoder))),
        tokenizer,
        patch_size=seen.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=encoder.prefix,
        chat_template=chat_template(method.template, own.word(own.begin), own.word(own.end)),
    )
    return Whole(filled(LlavaForConditionalGeneration, config, state), processor, notes)


def linear_maps(connector: Connector, patches: int) -> list[nn.Linear]:
    """The one or two maps of each patch that a connector is.

    Raises:
        ExportError: it is another.
    """
    parts = list(connector.parts) if isinstance(connector, Chain) else [connector]
    parts = [part for part in parts if not (isinstance(part, AdaptivePool) and part.cells == part.shape)]
    only: Any = parts[0] if len(parts) == 1 else None
    found = only.layers if isinstance(only, Projector) else [only.proj] if isinstance(only, LinearMap) else []
    found = [layer for layer in found if isinstance(layer, nn.Linear)]
    if len(found) not in (1, 2) or not connector.of == connector.tokens == patches:
        raise ExportError(
            "LlavaForConditionalGeneration maps each patch of a picture by one or two linear maps: train LiMBeR with "
            "prefix=0, PRIOR, or PLLaVA with frames=1 and a pool of as many cells as there are patches."
        )
    return found


def _inside(encoder: ImageEncoder) -> ImageEncoder:
    return encoder.inner if isinstance(encoder, InnerLayer) else encoder


def _vision(encoder: ImageEncoder) -> tuple[Any, dict[str, Tensor]]:
    """Config and weights of the vision tower.

    Raises:
        ExportError: LLaVA's class takes none such, or not pictures of that size.
    """
    from transformers import CLIPVisionConfig

    inner = _inside(encoder)
    form = clip_form(inner)
    if form is not None:
        config: Any = CLIPVisionConfig(image_size=inner.image_size, patch_size=form.patch, **tower(form, form.width))
        weights = to_transformers(form.weights)
    elif isinstance(inner, HfImage) and inner.kind == "siglip_vision_model":
        config, weights = type(inner.model.config)(**inner.model.config.to_dict()), dict(inner.model.state_dict())
    else:
        raise ExportError(
            "LlavaForConditionalGeneration takes vision encoders of CLIP's and SigLIP's kind, not "
            f"{inner.name!r}: train with --image vit, or with a CLIP or SigLIP as hf:NAME."
        )
    side = int(config.image_size) if form is None else round((len(weights[_PLACES]) - 1) ** 0.5) * form.patch
    if side != inner.image_size:
        raise ExportError(
            f"{inner.name!r} has places for pictures of {side} pixels and was trained on {inner.image_size}: train "
            f"with --image-size {side} to export it."
        )
    return config, weights


_PLACES = "embeddings.position_embedding.weight"


def _norm_as_layer(config: Any, weights: dict[str, Tensor]) -> None:
    """Adds the norm behind all layers as one more, whose states are `LARGE` times as large."""
    width, inner, count = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    if inner < 2 * width:
        raise ExportError(
            f"The norm behind the layers needs MLPs twice as wide as the {width} of the encoder, and they are {inner} "
            "wide: train with image_layer, as PLLaVA can."
        )
    start = next(name for name in weights if f"encoder.layers.{count - 1}." in name).partition("encoder.layers.")[0]
    last, added = (f"{start}encoder.layers.{count - past}." for past in (1, 0))
    layer = {
        name.replace(last, added): torch.zeros_like(value) for name, value in weights.items() if name.startswith(last)
    }
    ends = "weight", "bias"
    layer |= {f"{added}layer_norm2.{end}": weights[f"{start}post_layernorm.{end}"].clone() for end in ends}
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    layer[f"{added}mlp.fc1.weight"][: 2 * width] = both
    layer[f"{added}mlp.fc2.weight"][:, : 2 * width] = LARGE * both.T
    weights |= layer
    config.num_hidden_layers = count + 1
