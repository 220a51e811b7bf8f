"""FIBER against the figures of its authors' code (tests/reference/README.md), in all three ways of running it."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from method_helpers import write_tokenizer
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from diptych.batch import Batch
from diptych.encoders.base import IMAGENET_MEAN, IMAGENET_STD
from diptych.encoders.from_timm import TimmImage
from diptych.methods.fusion.fiber import FIBER, Config

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "fiber_official.npz")
TEXT, WORDS, WIDTH = 8, 30, 12


def theirs(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name])


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of that name in the run that made the figures: drawn by its name, and so no part of the file."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    small = name.endswith("bias") or "relative_position_bias_table" in name
    scale = 0.1 if small else 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.2
    mean = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.5 if "alpha" in name else 0.0
    return torch.from_numpy(np.asarray(mean + scale * noise, dtype=np.float32))


@pytest.fixture(scope="module")
def method(tmp_path_factory) -> FIBER:
    """Swin of width 4 with Swin-B's depths, RoBERTa of width 8 with 12 layers, six pairs; the weights of theirs."""
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("roberta")
    sizes = {"vocab_size": WORDS, "hidden_size": TEXT, "num_hidden_layers": 12, "num_attention_heads": 2}
    places = {"intermediate_size": 2 * TEXT, "max_position_embeddings": 14, "type_vocab_size": 1}
    RobertaModel(RobertaConfig(**sizes, **places, layer_norm_eps=1e-5)).save_pretrained(folder)
    write_tokenizer(folder, WORDS)
    swin = timm.models.swin_transformer.SwinTransformer(
        img_size=64, window_size=2, embed_dim=4, depths=(2, 2, 18, 2), num_heads=(1, 1, 2, 2), num_classes=0
    )
    shapes = [tuple(int(size) for size in shape.split(",") if size) for shape in REFERENCE["shapes"].tolist()]
    state = {name: weight(name, shape) for name, shape in zip(REFERENCE["names"].tolist(), shapes, strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        tower = TimmImage(swin, "swin", 64, IMAGENET_MEAN, IMAGENET_STD)
        patch.setattr("diptych.models.paired_config.image_encoder", lambda *args, **options: tower)
        sizes = {"image_size": 64, "context": 12, "hidden": WIDTH, "fused": 6, "queue": 0}
        made = FIBER(Config(text=f"hf:{folder}", tasks=("coarse", "caption"), **sizes)).eval()
    found = FIBER.from_official(state)
    # their model makes the temperature for the contrast alone, with queues of 4096 pictures
    assert {name for name, _ in made.named_parameters()} - set(found) == {"joint.tau"}
    assert made.load_state_dict(found, strict=False).unexpected_keys == []
    return made


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch({"image": theirs("image"), "text": theirs("ids"), "text_mask": theirs("mask")})


def close(mine: Tensor, expected: Tensor) -> None:
    assert_close(mine, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.shows("P", "fiber")
@torch.no_grad()
def test_a_pair_fused_features_and_heads_are_those_of_the_papers_code(method, batch) -> None:
    found: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, args, output: found.update({name: output[0] if isinstance(output, tuple) else output})

    towers, mask = method.towers, batch.text_mask
    # the second pair, whose windows are shifted
    block, layer = towers.image.blocks[2 + 2 + 15].body, towers.text.encoder.layers[7]
    hooks = [block.register_forward_hook(keep("block")), layer.register_forward_hook(keep("layer"))]
    image, text = method.encode_image(batch), method.encode_text(batch)
    fused = method.fuse(image, text)
    for hook in hooks:
        hook.remove()
    close(found["block"].flatten(1, 2), theirs("block_15"))
    close(found["layer"][mask], theirs("layer_7")[mask])
    close(fused.image, theirs("fused_image"))
    close(fused.text[mask], theirs("fused_text")[mask])
    close(fused.pooled, theirs("fused_pooled"))
    close(method.match_head(fused.pooled), theirs("match"))
    close(method.fill(image, text)[mask], theirs("words")[mask])


@pytest.mark.shows("P", "fiber")
@torch.no_grad()
def test_features_for_the_contrast_are_those_of_the_papers_code(method, batch) -> None:
    image, text = method.embed_image(batch), method.embed_text(batch)
    close(image.tokens, F.normalize(theirs("dual_image"), dim=-1))
    close(text.tokens[batch.text_mask], F.normalize(theirs("dual_text"), dim=-1)[batch.text_mask])
    close(image.pooled, theirs("dual_image_pooled").flatten(1))
    close(text.pooled, theirs("dual_text_pooled"))


@pytest.mark.shows("P", "fiber")
@torch.no_grad()
def test_what_a_caption_says_next_is_that_of_the_papers_code(method, batch) -> None:
    seen = method.seen(method.encode_image(batch))
    close(seen, theirs("caption_image"))
    close(method.write(seen, batch.text, batch.text_mask)[batch.text_mask], theirs("caption_words")[batch.text_mask])
