from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diptych.encoders import EncoderError
from diptych.encoders.video import TimeSformer, video_encoder

pytest.importorskip("transformers")

HALF = torch.full((3, 1, 1), 0.5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def tower(frames: int = 3) -> TimeSformer:
    torch.manual_seed(0)
    return TimeSformer(32, 24, 2, 2, 8, frames).eval()


def moving(frames: int = 3) -> TimeSformer:
    """A tower whose temporal path is not zero any more."""
    made = tower(frames)
    for layer in made.layers:
        nn.init.normal_(layer.temporal_dense.weight, std=0.5)
    nn.init.normal_(made.model.embeddings.time_embeddings)
    return made


def test_tokens_are_as_many_for_any_number_of_frames() -> None:
    made = moving()
    for frames in (1, 2, 3, 5):
        found = made(draw(2, frames, 3, 32, 32))
        assert found.tokens.shape == (2, 16, 24)
        assert found.pooled.shape == (2, 24)
        assert found.mask.all()
    assert torch.equal(made(draw(2, 3, 32, 32)).tokens, made(draw(2, 3, 32, 32)[:, None]).tokens)


def test_equal_frames_with_a_zero_temporal_path_are_one_frame() -> None:
    made, picture = tower(), draw(2, 3, 32, 32)
    one, three = made(picture), made(picture[:, None].expand(2, 3, 3, 32, 32))
    assert_close(three.tokens, one.tokens)
    assert_close(three.pooled, one.pooled)
    assert (moving()(picture[:, None].expand(2, 3, 3, 32, 32)).tokens - one.tokens).abs().max() > 1e-2


def test_with_a_zero_temporal_path_tokens_are_the_mean_of_plain_frames_in_one_layer() -> None:
    made = TimeSformer(32, 24, 1, 2, 8, 3).eval()
    video = draw(2, 3, 3, 32, 32)
    frames = torch.stack([made(frame).tokens for frame in video.unbind(1)])
    assert_close(made(video).tokens, frames.mean(0))


def test_order_of_frames_matters_by_time_embeddings_alone() -> None:
    made, video = moving(), draw(2, 3, 3, 32, 32)
    swapped = video[:, [2, 0, 1]]
    assert (made(video).tokens - made(swapped).tokens).abs().max() > 1e-2
    nn.init.zeros_(made.model.embeddings.time_embeddings)
    assert_close(made(video).tokens, made(swapped).tokens, atol=1e-5, rtol=1e-5)


def test_patches_stay_where_they_are_in_the_picture() -> None:
    made = tower()
    picture = draw(1, 3, 32, 32)
    changed = picture.clone()
    changed[:, :, 8:16, 24:] += 0.2  # row 1, column 3
    for layer in made.layers:  # without attention a token is its own patch
        nn.init.zeros_(layer.attention.output.dense.weight)
    difference = (made(picture).tokens - made(changed).tokens).abs().sum(2)[0]
    assert difference.nonzero().flatten().tolist() == [1 * made.grid[1] + 3]


@pytest.mark.parametrize("frames", [1, 4])
def test_at_first_the_tower_is_the_vision_transformer_that_it_began_as(frames: int) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0
    ).eval()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    made = TimeSformer(32, 24, 2, 2, 8, frames).eval()
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    made.start_from(vit.state_dict(), mean, std)
    picture = draw(2, 3, 32, 32)
    expected = vit.forward_features((picture - mean) / std)
    found = made(picture[:, None].expand(2, frames, 3, 32, 32))
    assert_close(found.pooled, expected[:, 0], atol=1e-5, rtol=1e-5)
    assert_close(found.tokens, expected[:, 1:], atol=1e-5, rtol=1e-5)
    for layer in made.layers:
        assert layer.temporal_dense.weight.abs().max() == 0
        assert layer.temporal_dense.bias.abs().max() == 0
        copied = layer.temporal_attention.attention.qkv.weight
        assert torch.equal(copied, layer.attention.attention.qkv.weight)
        assert torch.equal(layer.temporal_layernorm.weight, layer.layernorm_before.weight)


def test_the_temporal_path_learns_from_its_zero() -> None:
    made = tower()
    made(draw(2, 3, 3, 32, 32)).tokens.square().sum().backward()
    assert all(layer.temporal_dense.weight.grad.abs().max() > 0 for layer in made.layers)


def test_drop_path_rises_from_the_first_layer_to_the_last() -> None:
    made = TimeSformer(32, 24, 3, 2, 8, 2, drop_path=0.2)
    assert [getattr(layer.drop_path, "drop_prob", 0.0) for layer in made.layers] == pytest.approx([0.0, 0.1, 0.2])


def test_names() -> None:
    assert video_encoder("timesformer", size=16, width=16, layers=1, heads=2, frames=2).frames == 2
    pytest.importorskip("timm")
    with torch.device("meta"):
        made = video_encoder("timesformer:timm:vit_tiny_patch16_224", size=224, frames=4)
    assert (made.width, len(made.layers), made.grid, made.frames) == (192, 12, (14, 14), 4)
    for name in ("swin", "timesformer:hf:x"):
        with pytest.raises(EncoderError, match="no video encoder"):
            video_encoder(name)
    with torch.device("meta"), pytest.raises(EncoderError, match="no plain vision transformer"):
        video_encoder("timesformer:timm:resnet18", size=64)
    with pytest.raises(EncoderError, match="cannot be cut"):
        TimeSformer(30, 16, 1, 2, 8)


def test_weights_that_do_not_fit_say_so() -> None:
    timm = pytest.importorskip("timm")
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0
    )
    with pytest.raises(EncoderError, match=r"do not fit the tower at 'embeddings\.position_embeddings'"):
        tower().start_from(vit.state_dict(), HALF, HALF)
    with pytest.raises(EncoderError, match="no weight 'head"):
        tower().start_from({"head.weight": torch.zeros(1)}, HALF, HALF)
