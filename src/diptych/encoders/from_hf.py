"""Image and text encoders of transformers, from a folder or the hub: `hf:NAME_OR_PATH`.

Weights are those of the folder; `hf:NAME_OR_PATH#random` builds from its config alone. Code from the hub is never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features
from diptych.encoders.base import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Edit,
    EncoderError,
    ImageEncoder,
    TextEncoder,
    all_real,
    editing,
    last_real,
    mean_real,
    need,
    on_meta,
)
from diptych.encoders.tokenizer import Tokenizer

HALF = (0.5, 0.5, 0.5)
# model_type -> tokens in front of the patches, mean, std (of the pictures that the public weights were trained on)
IMAGES: dict[str, tuple[int, Sequence[float], Sequence[float]]] = {
    "clip_vision_model": (1, CLIP_MEAN, CLIP_STD),
    "siglip_vision_model": (0, HALF, HALF),
    "vit": (1, HALF, HALF),
    "deit": (2, HALF, HALF),
    "beit": (1, HALF, HALF),
    "dinov2": (1, IMAGENET_MEAN, IMAGENET_STD),
    "dinov2_with_registers": (1, IMAGENET_MEAN, IMAGENET_STD),
    "blip_2_vision_model": (1, CLIP_MEAN, CLIP_STD),
    "instructblip_vision_model": (1, CLIP_MEAN, CLIP_STD),
}
# model_type of a whole -> class of its vision encoder, without its last norm: that one is learned with the Q-Former
SEES = {"blip-2": "Blip2VisionModel", "instructblip": "InstructBlipVisionModel"}
Pooling = Literal["end", "own", "cls", "mean"]
# model_type -> how a text is pooled: its end token, the model's own way, the first token; "mean" only where the folder
# says so, as those of sentence-transformers do
TEXTS: dict[str, Pooling] = {
    "clip_text_model": "end",
    "siglip_text_model": "own",
    "bert": "cls",
    "roberta": "cls",
    "xlm-roberta": "cls",
    "camembert": "cls",
    "electra": "cls",
    "distilbert": "cls",
}
_HAS_POOLER = ("vit", "deit", "beit", "bert", "roberta", "xlm-roberta", "camembert")


class HfImage(ImageEncoder):
    """A vision transformer of transformers. Tokens have passed its last LayerNorm; pooled is the class token.

    SigLIP has no class token: its pooled vector is that of its attention pool, which is already in the joint space.
    """

    model: Any

    def __init__(self, model: Any, name: str, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        config = model.config
        self.name, self.model, self.kind = name, model, str(config.model_type)
        self.width = int(config.hidden_size)
        self.prefix = IMAGES[self.kind][0] + int(getattr(config, "num_register_tokens", 0))
        self.set_pixels(size, mean, std)
        self.grid = (size // int(config.patch_size), size // int(config.patch_size))
        if self.kind == "siglip_vision_model":
            self.projection = torch.eye(self.width)

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers."""
        return _layers(self.model)

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        pixels = self.pixels(image)
        # only DINOv2 fits its positions to the picture without being asked
        other = {} if self.kind.startswith("dinov2") else {"interpolate_pos_encoding": self._resized}
        with editing(self.layers, edit) as state:
            output = self.model(pixel_values=pixels, **other)
        x = output.last_hidden_state
        self.check_tokens(x)
        if self.kind == "clip_vision_model":
            x = _named(self.model, "post_layernorm")(x)  # CLIP itself does so for the class token only
        mask = all_real(x) if state.mask is None else state.mask
        pooled = x[:, 0] if self.prefix else output.pooler_output
        return Features(x[:, self.prefix :], pooled, mask[:, self.prefix :])

    @property
    def _resized(self) -> bool:
        return int(self.model.config.image_size) != self.image_size


class HfText(TextEncoder):
    """A text transformer of transformers, pooled as `pooling` says (see TEXTS)."""

    model: Any

    def __init__(
        self, model: Any, name: str, tokenizer: Tokenizer, pooling: Pooling, projection: Tensor | None = None
    ) -> None:
        super().__init__()
        config = model.config
        self.name, self.model, self.pooling = name, model, pooling
        self.causal = config.model_type == "clip_text_model"
        self.width, self.vocab_size = int(config.hidden_size), int(config.vocab_size)
        self.tokenizer, self.context = tokenizer, tokenizer.context
        self.projection = torch.eye(self.width) if pooling == "own" and projection is None else projection

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers."""
        return _layers(self.model)

    def forward(self, ids: Tensor, mask: Tensor | None = None, edit: Edit | None = None) -> Features:
        """(B, T) ids -> tokens (B, T, D), pooled (B, D), mask (B, T).

        SigLIP was trained with texts padded to `context` and padding attended; both stay so, and the mask only says
        which tokens are words.
        """
        real = self.real(ids, mask)
        if self.pooling == "own":
            ids, real = self.padded(ids, real)
        attended = None if self.pooling == "own" else real
        with editing(self.layers, edit, attended, causal=self.causal) as state, _last(self.model, ids.shape[1]) as last:
            output = self.model(input_ids=ids, attention_mask=attended)
        x = last[0] if last else output.last_hidden_state
        if self.pooling != "own":
            real = all_real(x) if state.mask is None else state.mask
        elif real.shape[1] != x.shape[1]:
            real = all_real(x)
        pooled = {
            "end": lambda: last_real(x, real),
            "own": lambda: output.pooler_output,
            "cls": lambda: x[:, 0],
            "mean": lambda: mean_real(x, real),
        }[self.pooling]()
        return Features(x, pooled, real)


@contextmanager
def _last(model: nn.Module, length: int) -> Iterator[list[Tensor]]:
    """Collects what CLIP's text tower has after its last LayerNorm, and hands the model at least `length` tokens.

    The model itself pools where the ids have their end token, which fails when an edit has dropped tokens. We pool by
    the edited mask and do not use what it pools.
    """
    found: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        found.append(output)
        return F.pad(output, (0, 0, 0, max(0, length - output.shape[1])))

    if model.config.model_type != "clip_text_model":  # type: ignore[union-attr]
        yield found
        return
    handle = _named(model, "final_layer_norm").register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _layers(model: Any) -> list[nn.Module]:
    """The list of as many layers as the config names, wherever this version of transformers keeps it."""
    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise EncoderError(f"{type(model).__name__} has no list of {count} layers: it cannot be used as an encoder.")


def _named(model: nn.Module, ending: str) -> nn.Module:
    return next(module for name, module in model.named_modules() if name.split(".")[-1] == ending)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and reports of transformers, which has no other way to be asked for silence."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def hf_config(folder: str) -> Any:
    """The configuration of the model at a path or of a hub name.

    Raises:
        EncoderError: there is no such model, or transformers is missing.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise need("hf", error) from None
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EncoderError(f"There is no model that transformers knows at {folder!r}: {error}") from error


def _load(path: str, name: str, pretrained: bool) -> tuple[Any, str, bool]:
    """The model of `NAME_OR_PATH[#random]`, where its files are, and whether it has their weights."""
    folder = path.removesuffix("#random")
    config = hf_config(folder)
    if config.model_type in SEES:
        return _vision_of(config, path, name, pretrained)
    from transformers import AutoModel

    pooler = {"add_pooling_layer": False} if config.model_type in _HAS_POOLER else {}
    if path != folder or not pretrained or on_meta():
        return AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32, **pooler), folder, False
    try:
        with quiet():
            model, report = AutoModel.from_pretrained(
                folder, trust_remote_code=False, dtype=torch.float32, output_loading_info=True, **pooler
            )
    except OSError as error:
        raise EncoderError(
            f"The weights of {name!r} cannot be loaded ({error}); for random weights from its config alone, write "
            f"'{name}#random'."
        ) from error
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        raise EncoderError(f"{name!r} lacks {len(lacking)} of its weights, such as {lacking[0]}: get the whole model.")
    return model.train(), folder, True


def _vision_of(config: Any, path: str, name: str, pretrained: bool) -> tuple[Any, str, bool]:
    """The vision encoder alone of a whole in SEES; its tokens have not passed its last norm (LAVIS: `ln_vision`)."""
    import transformers

    folder, loads = path.removesuffix("#random"), not path.endswith("#random") and pretrained and not on_meta()
    kind = getattr(transformers, SEES[config.model_type])
    if loads:
        try:
            with quiet():
                model, report = kind.from_pretrained(
                    folder,
                    config=config.vision_config,
                    dtype=torch.float32,
                    key_mapping={r"^(model\.)?vision_model\.": ""},
                    output_loading_info=True,
                )
        except OSError as error:
            raise EncoderError(f"The weights of {name!r} cannot be loaded ({error}).") from error
        if report["missing_keys"]:
            raise EncoderError(f"{name!r} has no vision encoder's weights: get the whole model.")
    else:
        model = kind(config.vision_config)
    model.post_layernorm = nn.Identity()
    return model.train(), folder, loads


def hf_image(path: str, size: int, pretrained: bool) -> HfImage:
    """The image encoder at a path or of a hub name; of a CLIP or SigLIP, its vision half and projection.

    Raises:
        EncoderError: there is no such model, it is of a kind that is not known, or its weights cannot be loaded.
    """
    name = f"hf:{path}"
    whole, folder, loaded = _load(path, name, pretrained)
    model, projection = _half(whole, "vision", "visual_projection")
    kind = str(model.config.model_type)
    if kind not in IMAGES:
        known = ", ".join([*IMAGES, "clip", "siglip"])
        raise EncoderError(f"{name!r} is of the kind {kind!r}; image encoders can be of {known}.")
    pixels = _json(folder, "preprocessor_config.json")
    mean, std = pixels.get("image_mean") or IMAGES[kind][1], pixels.get("image_std") or IMAGES[kind][2]
    encoder = HfImage(model, name, size, mean, std)
    encoder.projection = encoder.projection if projection is None else projection
    if loaded:
        encoder.logit_scale, encoder.logit_bias = _number(whole, "logit_scale"), _number(whole, "logit_bias")
    return encoder


def hf_text(path: str, context: int, pretrained: bool) -> HfText:
    """The text encoder at a path or of a hub name; of a CLIP or SigLIP, its text half and projection.

    Raises:
        EncoderError: there is no such model, it is of a kind that is not known, or its weights cannot be loaded.
    """
    name = f"hf:{path}"
    whole, folder, loaded = _load(path, name, pretrained)
    model, projection = _half(whole, "text", "text_projection")
    config = model.config
    kind = str(config.model_type)
    if kind not in TEXTS:
        known = ", ".join([*TEXTS, "clip", "siglip"])
        raise EncoderError(f"{name!r} is of the kind {kind!r}; text encoders can be of {known}.")
    pooling = "mean" if _json(folder, "1_Pooling/config.json").get("pooling_mode_mean_tokens") else TEXTS[kind]
    positions = int(config.max_position_embeddings)
    if "roberta" in kind or kind == "camembert":
        positions -= int(config.pad_token_id) + 1  # these count positions from behind the padding id
    tokenizer = hf_tokenizer(folder, min(context, positions), int(config.vocab_size))
    if pooling == "own":  # SigLIP reads its last position, padding or not
        tokenizer = replace(tokenizer, context=positions, always_pad=True)
    if pooling in ("end", "own"):  # both may pad with the id of the end
        tokenizer = replace(tokenizer, end=end_of(tokenizer))
    encoder = HfText(model, name, tokenizer, pooling, projection)
    if loaded:
        encoder.logit_scale, encoder.logit_bias = _number(whole, "logit_scale"), _number(whole, "logit_bias")
    return encoder


def hf_tokenizer(folder: str, context: int, words: int) -> Tokenizer:
    """The tokenizer at a path or of a hub name, cut at `context` tokens, for a model with embeddings of `words` ids.

    Raises:
        EncoderError: there is none, it has no form that the `tokenizers` library knows, or it is not the model's.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EncoderError(f"There is no tokenizer at {folder!r}: put its tokenizer.json there ({error}).") from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(f"The tokenizer at {folder!r} has no fast form: save it with a tokenizer.json.")
    tokenizer = Tokenizer(backend.to_str(), context, pad=found.pad_token_id or 0)
    if not words / 2 < tokenizer.vocab_size <= words:  # where the files are missing, transformers makes an empty one
        raise EncoderError(
            f"The tokenizer at {folder!r} has {tokenizer.vocab_size} entries and the model {words}: put its "
            "tokenizer.json there."
        )
    return tokenizer


def end_of(tokenizer: Tokenizer) -> int:
    """The id that ends every text, read off an empty one."""
    return int(tokenizer.backend.encode("").ids[-1])


def _half(whole: Any, side: str, projection: str) -> tuple[Any, Tensor | None]:
    """One tower of a CLIP or SigLIP with its (D_out, width) projection; any other model as it is."""
    if whole.config.model_type not in ("clip", "siglip"):
        return whole, None
    head = getattr(whole, projection, None)
    return whole.get_submodule(f"{side}_model"), None if head is None else head.weight.detach()


def _number(whole: Any, name: str) -> float | None:
    value = getattr(whole, name, None)
    return None if value is None else float(value.detach())


def _json(folder: str, file: str) -> dict[str, Any]:
    """A JSON file of a model, empty where it has none."""
    from transformers.utils import cached_file

    try:
        path = cached_file(folder, file, _raise_exceptions_for_missing_entries=False)
    except OSError:  # no network: the file, unlike the weights, can be done without
        path = None
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
