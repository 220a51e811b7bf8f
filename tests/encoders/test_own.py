"""Our own towers: shapes, padding, causality, and the parameter counts of CLIP."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diptych.encoders import EncoderError, image_encoder, own_tokenizer, text_encoder
from diptych.encoders.own import MLP, TextTransformer, VisionTransformer


def picture(seed: int = 0, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(size=16, width=32, layers=2, heads=2, patch=4).eval()


def transformer(context: int = 12) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(own_tokenizer(context), width=32, layers=2, heads=2).eval()


def test_image_shapes() -> None:
    features = vit()(picture())
    assert features.tokens.shape == (2, 16, 32)
    assert features.pooled.shape == (2, 32)
    assert features.mask.all()
    assert features.mask.shape == (2, 16)


def test_uint8_equals_float_between_zero_and_one() -> None:
    encoder = vit()
    torch.testing.assert_close(encoder(picture()), encoder(picture().float() / 255))


def test_pixels_are_normalised_with_clip_values() -> None:
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    torch.testing.assert_close(vit().pixels(white)[0, :, 3, 5], expected)


def test_patches_are_in_row_major_order() -> None:
    encoder = vit()
    image = picture()
    changed = image.clone()
    changed[:, :, 4:8, 8:12] = 255 - changed[:, :, 4:8, 8:12]  # row 1, column 2 of 4 x 4
    seen: list[torch.Tensor] = []

    def read(index: int, hidden: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if index == 0:
            seen.append(hidden)
        return hidden, mask

    encoder(image, edit=read)
    encoder(changed, edit=read)
    differs = (seen[0] != seen[1]).any(-1).any(0)
    assert differs.nonzero().flatten().tolist() == [1 + 1 * 4 + 2]  # behind the class token


def test_another_size_is_refused() -> None:
    with pytest.raises(EncoderError, match="16 x 16 pixels and got 20 x 20"):
        vit()(picture(size=20))


@pytest.mark.parametrize(("size", "patch", "heads", "words"), [(30, 8, 2, "patches of 8"), (32, 8, 3, "the 3 heads")])
def test_sizes_that_do_not_divide_are_refused(size: int, patch: int, heads: int, words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        image_encoder("vit", size=size, patch=patch, heads=heads, width=32)


def test_a_later_word_does_not_change_an_earlier_token() -> None:
    encoder = transformer()
    ids, mask = encoder.tokenizer.encode(["a red circle", "a red square"])
    tokens = encoder(ids, mask).tokens
    torch.testing.assert_close(tokens[0, :3], tokens[1, :3])  # <start> a red
    assert not torch.allclose(tokens[0, 3], tokens[1, 3])


def test_padding_changes_nothing() -> None:
    encoder = transformer()
    short = encoder(*encoder.tokenizer.encode(["a dog"]))
    long = encoder(*encoder.tokenizer.encode(["a dog", "a big brown dog and a small white cat"]))
    torch.testing.assert_close(long.pooled[:1], short.pooled)
    torch.testing.assert_close(long.tokens[:1, :4], short.tokens)
    assert long.mask[0].tolist() == [True] * 4 + [False] * (long.mask.shape[1] - 4)


def test_padding_is_never_attended_wherever_it_stands() -> None:
    encoder = transformer()
    ids, mask = encoder.tokenizer.encode(["a dog"])
    position = torch.tensor([[1, 0, 1, 1]]).bool()  # "a" is declared padding
    other = ids.clone()
    other[0, 1] = 77
    kept = encoder(ids, position).tokens[:, [0, 2, 3]]
    torch.testing.assert_close(encoder(other, position).tokens[:, [0, 2, 3]], kept)
    assert not torch.allclose(encoder(other, mask).tokens[:, 3], encoder(ids, mask).tokens[:, 3])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_pooled_alone_is_the_same_with_the_same_gradients(kind: str) -> None:
    """The last layer answers one query of each row, whose output, and all that flows back from it, stays as it was."""
    encoder: Any = (vit() if kind == "image" else transformer()).double()
    inputs = (picture(),) if kind == "image" else encoder.tokenizer.encode(["a dog", "a big brown dog"])
    seen: list[tuple[int, ...]] = []
    encoder.blocks[-1].mlp.register_forward_hook(lambda _, args, out: seen.append(tuple(out.shape)))
    parameters = list(encoder.parameters())
    found = []
    for pooled in (encoder(*inputs).pooled, encoder.pooled(*inputs)):
        found.append((pooled, *torch.autograd.grad(pooled.square().sum(), parameters)))
    torch.testing.assert_close(found[1], found[0], atol=1e-12, rtol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in found[1])
    assert seen[1] == (2, 1, 32)


def test_pooled_alone_where_padding_stands_in_front() -> None:
    encoder = transformer()
    ids = torch.tensor([[0, 0, 5, 9, 8191]])
    mask = torch.tensor([[False, False, True, True, True]])
    torch.testing.assert_close(encoder.pooled(ids, mask), encoder(ids, mask).pooled)


def test_pooled_is_the_end_token() -> None:
    encoder = transformer()
    ids, mask = encoder.tokenizer.encode(["a dog", "a big brown dog"])
    features = encoder(ids, mask)
    torch.testing.assert_close(features.pooled[0], features.tokens[0, 3])
    torch.testing.assert_close(features.pooled[1], features.tokens[1, 5])


def test_the_mask_is_told_from_the_ids() -> None:
    encoder = transformer()
    ids, mask = encoder.tokenizer.encode(["a dog", "a big brown dog"])
    torch.testing.assert_close(encoder(ids), encoder(ids, mask))


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(EncoderError, match="at most 12 tokens and got 13"):
        transformer()(torch.ones(1, 13, dtype=torch.long))


def test_quick_gelu() -> None:
    mlp = MLP(4, "quick_gelu")
    torch.nn.init.eye_(mlp.expand.weight)
    torch.nn.init.eye_(mlp.contract.weight)
    torch.nn.init.zeros_(mlp.expand.bias)
    torch.nn.init.zeros_(mlp.contract.bias)
    x = torch.tensor([[[-1.0, 0.0, 1.0, 2.0]]])
    torch.testing.assert_close(mlp(x), x / (1 + torch.exp(-1.702 * x)))


def test_half_precision() -> None:
    features = vit().to(torch.bfloat16)(picture())
    assert features.tokens.dtype == torch.bfloat16
    assert features.tokens.isfinite().all()


def test_parameter_counts_are_those_of_clip_vit_b_32() -> None:
    """Without the two projections, which are the heads of a dual encoder: 87,849,216 and 63,428,096 with them."""
    with torch.device("meta"):
        image = image_encoder("vit", size=224, width=768, layers=12, heads=12, patch=32)
        text = text_encoder("transformer", width=512, layers=12, heads=8, context=77)
    assert sum(p.numel() for p in image.parameters()) == 87_849_216 - 768 * 512
    words = (49_408 - text.vocab_size) * 512  # CLIP has more words
    assert sum(p.numel() for p in text.parameters()) == 63_428_096 - 512 * 512 - words
    assert next(image.parameters()).is_meta


def test_initial_scale_of_each_layer_shrinks_with_depth() -> None:
    torch.manual_seed(0)
    deep = VisionTransformer(size=16, width=64, layers=8, heads=2, patch=4)
    added = torch.stack([block.mlp.contract.weight.detach().std() for block in deep.blocks])
    torch.testing.assert_close(added, torch.full((8,), 64**-0.5 * 16**-0.5), rtol=0.05, atol=0)
    assert not any(block.attention.qkv.bias.any() for block in deep.blocks)
