"""Towers of open_clip (https://github.com/mlfoundations/open_clip).

`open_clip:NAME` is random, `open_clip:NAME/TAG` has the weights of a pretrained tag or of a local file.
"""

from __future__ import annotations

import logging
import re
import string
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diptych.batch import Features
from diptych.encoders.base import (
    Edit,
    EncoderError,
    ImageEncoder,
    TextEncoder,
    all_real,
    editing,
    last_real,
    need,
    on_meta,
)
from diptych.encoders.clip_form import own_image, own_text
from diptych.encoders.from_hf import HfText, Pooling, end_of
from diptych.encoders.from_timm import TimmImage
from diptych.encoders.tokenizer import Tokenizer, clip_tokenizer


class OpenClipViT(ImageEncoder):
    """open_clip's own vision transformer: patch tokens after its last LayerNorm, pooled as it does."""

    prefix = 1

    def __init__(self, visual: Any, name: str, size: int) -> None:
        super().__init__()
        if visual.attn_pool is not None:
            raise EncoderError(
                f"{name!r} pools by attention, which is not known here: choose a ViT with a class token."
            )
        self.name, self.visual = name, visual
        self.width = int(visual.conv1.out_channels)
        self.grid = (int(visual.grid_size[0]), int(visual.grid_size[1]))
        self.set_pixels(size, *_normalisation(visual))
        self.projection = visual.proj.detach().T.clone()  # (D_out, width)
        visual.proj, visual.output_tokens = None, True

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.visual.transformer.resblocks)

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        heads = self.visual.transformer.resblocks[0].attn.num_heads
        with editing(self.layers, edit, heads=heads) as state:
            pooled, tokens = self.visual(self.pixels(image))
        mask = all_real(tokens) if state.mask is None else state.mask[:, 1:]
        return Features(tokens, pooled, mask)


class OpenClipResNet(ImageEncoder):
    """CLIP's ResNet. Pooled is that of its attention pool, in the joint space already.

    Tokens are the last map under the value and output maps of that pool: what each position would contribute alone
    ("Extract Free Dense Labels from CLIP", Zhou et al. 2022, arXiv 2112.01071, section 3.2).
    """

    def __init__(self, visual: Any, name: str, size: int) -> None:
        super().__init__()
        self.name, self.visual = name, visual
        self.width = int(visual.output_dim)
        self.grid = (size // 32, size // 32)
        self.set_pixels(size, *_normalisation(visual))
        self.projection = torch.eye(self.width)

    @property
    def layers(self) -> list[nn.Module]:
        """The four stages."""
        return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        x = self.visual.stem(self.pixels(image))
        with editing(self.layers, edit):
            for stage in self.layers:
                x = stage(x)
        pool = self.visual.attnpool
        tokens = pool.c_proj(pool.v_proj(x.flatten(2).transpose(1, 2)))  # (B, P, D)
        return Features(tokens, pool(x), all_real(tokens))


class OpenClipMap(ImageEncoder):
    """A ResNet of CLIP without its attention pool: tokens are its last feature map, pooled is their mean."""

    def __init__(self, visual: Any, name: str, size: int) -> None:
        super().__init__()
        self.name, self.visual = name, visual
        self.width = int(visual.attnpool.q_proj.in_features)
        self.grid = (size // 32, size // 32)
        self.set_pixels(size, *_normalisation(visual))
        del visual.attnpool

    @property
    def layers(self) -> list[nn.Module]:
        """The four stages."""
        return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        x = self.visual.stem(self.pixels(image))
        with editing(self.layers, edit):
            for stage in self.layers:
                x = stage(x)
        tokens = x.flatten(2).transpose(1, 2)  # row by row
        return Features(tokens, tokens.mean(1), all_real(tokens))


class OpenClipText(TextEncoder):
    """open_clip's own text transformer.

    CLIP's is causal and pooled at its end token. SigLIP's sees both ways, is pooled at its last position and was
    trained with texts padded to `context` and padding attended, which stays so; its pooled vector has passed its
    projection, which has a bias.
    """

    def __init__(self, text: Any, name: str, base: str, context: int) -> None:
        super().__init__()
        self.causal = text.attn_mask is not None
        odd = text.cls_emb is not None or (not self.causal and text.pool_type != "last")
        if odd or (isinstance(text.text_projection, nn.Linear) and text.output_dim != text.width):
            raise EncoderError(f"The text tower of {name!r} is neither CLIP's nor SigLIP's: choose another model.")
        self.name, self.text, self.base = name, text, base
        self.width, self.vocab_size = int(text.width), int(text.vocab_size)
        self.context = min(context, int(text.context_length)) if self.causal else int(text.context_length)
        if isinstance(text.text_projection, nn.Parameter):
            self.projection = text.text_projection.detach().T.clone()  # (D_out, width)
            text.text_projection = None
        else:
            self.projection = torch.eye(int(text.output_dim))

    @cached_property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        """That of the model; made when it is first asked for, as some have to be fetched."""
        return open_clip_tokenizer(self.base, self.context, always_pad=not self.causal)

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.text.transformer.resblocks)

    def forward(self, ids: Tensor, mask: Tensor | None = None, edit: Edit | None = None) -> Features:
        """(B, T) ids -> tokens (B, T, D), pooled (B, D), mask (B, T)."""
        text, real = self.text, self.real(ids, mask)
        if not self.causal:
            ids, real = self.padded(ids, real)
        length = ids.shape[1]
        x = text.token_embedding(ids) + text.positional_embedding[:length]  # (B, T, D)
        before = text.attn_mask[:length, :length] if self.causal else None
        attended = real if self.causal else None
        with editing(self.layers, edit, attended, causal=self.causal, heads=text.heads) as state:
            x = text.transformer(x, attn_mask=before)
        x = text.ln_final(x)
        if self.causal:
            real = all_real(x) if state.mask is None else state.mask
        elif real.shape[1] != x.shape[1]:
            real = all_real(x)
        pooled = last_real(x, real) if self.causal else x[:, -1]
        return Features(x, pooled if text.text_projection is None else text.text_projection(pooled), real)


def open_clip_image(path: str, size: int, pretrained: bool) -> ImageEncoder:
    """The image tower of NAME[/TAG], or of NAME[/TAG]#map, a ResNet without its attention pool.

    Raises:
        EncoderError: open_clip is missing, knows no such name or tag, or the tower is of a kind that is not known here.
    """
    name = f"open_clip:{path}"
    path, _, part = path.partition("#")
    model, _, loaded = _load(path, pretrained, size)
    visual = model.visual
    encoder: ImageEncoder | None = None
    kind = type(visual).__name__
    if part and (part != "map" or kind != "ModifiedResNet"):
        raise EncoderError(f"{name!r} has no part {part!r}: write #map behind the name of a ResNet, or nothing.")
    if part:
        return OpenClipMap(visual, name, size)
    if kind == "VisionTransformer":
        theirs = OpenClipViT(visual, name, size)
        encoder = own_image(theirs) or theirs
    elif kind == "ModifiedResNet":
        encoder = OpenClipResNet(visual, name, size)
    elif kind == "TimmModel":
        encoder = _timm(visual, name, size)
    if encoder is None:
        raise EncoderError(f"The image tower of {name!r} is a {kind}, which is not known here: choose a ViT or ResNet.")
    return _with_scale(encoder, model) if loaded else encoder


def open_clip_text(path: str, context: int, pretrained: bool) -> TextEncoder:
    """The text tower of NAME[/TAG]; `context` can shorten the texts, not lengthen them.

    Raises:
        EncoderError: open_clip is missing, knows no such name or tag, or the tower is of a kind that is not known here.
    """
    name = f"open_clip:{path}"
    model, base, loaded = _load(path, pretrained, None)
    kind = type(model.text).__name__
    encoder: TextEncoder | None = None
    if kind == "TextTransformer":
        encoder = _text(OpenClipText(model.text, name, base, context))
    elif kind == "HFTextEncoder":
        encoder = _hf(model.text, name, open_clip_tokenizer(base, min(context, int(model.text.context_length))))
    if encoder is None:
        raise EncoderError(f"The text tower of {name!r} is a {kind}, which is not known here: choose another model.")
    return _with_scale(encoder, model) if loaded else encoder


def _text(encoder: OpenClipText) -> TextEncoder:
    """In our own modules where it can be; not where its tokenizer may have to be fetched."""
    import open_clip

    if "hf_tokenizer_name" in open_clip.get_model_config(encoder.base)["text_cfg"]:
        return encoder
    return own_text(encoder, encoder.tokenizer) or encoder


def open_clip_tokenizer(base: str, context: int, always_pad: bool = False) -> Tokenizer:
    """The tokenizer of a model of open_clip; `always_pad` also cuts at the end token as SigLIP's do."""
    import open_clip

    try:
        found = open_clip.get_tokenizer(base)
    except OSError as error:
        raise EncoderError(f"The tokenizer of open_clip's {base!r} cannot be fetched: {error}") from error
    if hasattr(found, "bpe_ranks"):
        merges = sorted(found.bpe_ranks, key=found.bpe_ranks.get)
        start, end = (found.decoder[index] for index in (found.sot_token_id, found.eot_token_id))
        return clip_tokenizer(dict(found.encoder), merges, start, end, context)
    text = found.tokenizer.backend_tokenizer.to_str()
    cleaning = open_clip.get_model_config(base)["text_cfg"].get("tokenizer_kwargs", {}).get("clean")
    if cleaning == "canonicalize":
        text = canonical(text)
    tokenizer = Tokenizer(text, context, pad=found.tokenizer.pad_token_id or 0, always_pad=always_pad)
    return replace(tokenizer, end=end_of(tokenizer)) if always_pad else tokenizer


def canonical(text: str) -> str:
    """The JSON of a tokenizer -> of one that first drops ASCII punctuation and case, as SigLIP's texts were."""
    from tokenizers import Regex, Tokenizer as Backend, normalizers

    backend = Backend.from_str(text)
    before = [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    after = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*before, *after])
    return str(backend.to_str())


def _load(path: str, pretrained: bool, size: int | None) -> tuple[Any, str, bool]:
    """The model of NAME[/TAG], its name without the tag, and whether it has weights."""
    try:
        import open_clip
    except ImportError as error:
        raise need("open_clip", error) from None
    base, _, tag = path.partition("/")
    if base not in open_clip.list_models():
        raise EncoderError(f"open_clip knows no model {base!r}; see open_clip.list_models().")
    load = tag if pretrained and not on_meta() else None
    logging.disable(logging.WARNING)  # it warns that a model without weights is random, which was asked for
    try:
        model = open_clip.create_model(
            base,
            pretrained=load or None,
            device=torch.get_default_device(),
            force_image_size=size,
            force_custom_text=True,
            pretrained_text=False,
            weights_only=True,
        )
    except (OSError, RuntimeError) as error:
        raise EncoderError(f"open_clip cannot make {path!r}: {error}") from error
    finally:
        logging.disable(logging.NOTSET)
    return model, base, bool(load)


def _timm(visual: Any, name: str, size: int) -> TimmImage:
    mean, std = _normalisation(visual)
    encoder = TimmImage(visual.trunk, name, size, mean, std)
    head = dict(visual.head.named_children())
    if not set(head) <= {"drop", "proj"}:
        raise EncoderError(f"The image tower of {name!r} ends in {', '.join(head)}, which is not known here.")
    proj = head.get("proj")
    encoder.projection = torch.eye(encoder.width) if proj is None else proj.weight.detach()
    return encoder


def _hf(text: Any, name: str, tokenizer: Tokenizer) -> HfText:
    pools: dict[str, Pooling] = {"MeanPooler": "mean", "ClsLastHiddenStatePooler": "cls"}
    pooling, proj = pools.get(type(text.pooler).__name__), text.proj
    if pooling is None or not isinstance(proj, nn.Linear | nn.Identity):
        raise EncoderError(
            f"The text tower of {name!r} ends in {type(text.pooler).__name__} and {type(proj).__name__}, which are not "
            "known here: choose a model with mean or class token and a linear projection."
        )
    width = text.transformer.config.hidden_size
    projection = proj.weight.detach() if isinstance(proj, nn.Linear) else torch.eye(width)
    return HfText(text.transformer, name, tokenizer, pooling, projection)


def _normalisation(visual: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    settings = visual.preprocess_cfg
    return tuple(settings["mean"]), tuple(settings["std"])


def _with_scale(encoder: Any, model: Any) -> Any:
    bias = getattr(model, "logit_bias", None)
    encoder.logit_scale = float(model.logit_scale.detach())
    encoder.logit_bias = None if bias is None else float(bias.detach())
    return encoder
