"""A dual encoder as a `CLIPModel` of transformers, with its tokenizer and image processor."""

from __future__ import annotations

import math
from typing import Any

from diptych.app.export_parts import (
    ExportError,
    Files,
    cut,
    heads,
    logit_bias,
    normalisation,
    special_tokens,
    tokenizer_files,
)
from diptych.encoders.base import ImageEncoder
from diptych.encoders.clip_form import Form, clip_form, to_transformers
from diptych.models.dual_encoder import DualEncoder


def transformers_files(method: DualEncoder) -> Files:
    """What `CLIPModel.from_pretrained` reads.

    Raises:
        ExportError: a tower is not CLIP's.
    """
    image, text = clip_form(method.image), clip_form(method.text)
    if image is None or text is None:
        odd = [tower.name for tower, form in ((method.image, image), (method.text, text)) if form is None]
        raise ExportError(
            f"The CLIPModel of transformers has no tower like {' and '.join(odd)}: it takes vit, transformer and CLIP "
            "towers of open_clip: and hf:; try --to open_clip, which also takes timm, BERT and RoBERTa."
        )
    tensors = {f"vision_model.{name}": value for name, value in to_transformers(image.weights).items()}
    tensors |= {f"text_model.{name}": value for name, value in to_transformers(cut(text, method.text)).items()}
    tensors["visual_projection.weight"], tensors["text_projection.weight"] = heads(method)
    tensors["logit_scale"] = method.scale.log()
    embed, special = len(heads(method)[0]), special_tokens(method.text)
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": embed,
        "logit_scale_init_value": math.log(float(method.scale.detach())),
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": method.image.image_size,
            "patch_size": image.patch,
            **tower(image, embed),
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": method.text.vocab_size,
            "max_position_embeddings": method.text.context,
            "bos_token_id": special["bos_token"],
            "eos_token_id": special["eos_token"],
            "pad_token_id": special["pad_token"],
            **tower(text, embed),
        },
    }
    bias = logit_bias(method)
    notes = [] if bias is None else [f"{method.card.title} adds the bias {bias:.4f} to the logits; CLIPModel has none."]
    others = {
        "config.json": config,
        "preprocessor_config.json": image_processor(method.image),
        **tokenizer_files(method.text),
    }
    return Files(tensors, others, notes)


def tower(form: Form, embed: int) -> dict[str, Any]:
    """Sizes of a tower of CLIP, by the names of transformers, with a map to `embed`."""
    return {
        "hidden_size": form.width,
        "intermediate_size": form.inner,
        "num_hidden_layers": form.layers,
        "num_attention_heads": form.heads,
        "hidden_act": form.activation,
        "layer_norm_eps": form.eps,
        "projection_dim": embed,
    }


def image_processor(encoder: ImageEncoder) -> dict[str, Any]:
    """How pictures become what the encoder sees, as a CLIPImageProcessor has it."""
    mean, std = normalisation(encoder)
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": encoder.image_size, "width": encoder.image_size},
        "resample": 3,  # bicubic
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
