"""FIBER's three ways of running two towers, against timm's Swin and transformers' RoBERTa."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diptych.encoders import EncoderError, image_encoder, text_encoder
from diptych.encoders.base import IMAGENET_MEAN, IMAGENET_STD
from diptych.encoders.blocks import ImageBlocks
from diptych.encoders.from_timm import TimmImage
from diptych.encoders.halves import TextHalves, attended
from diptych.encoders.paired import PairedTowers
from diptych.fusion import inside
from diptych.fusion.inside import without

timm = pytest.importorskip("timm")
pytest.importorskip("transformers")

IDS = torch.tensor([[5, 9, 11, 7, 3], [6, 2, 8, 0, 0]])
MASK = IDS != 0
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def swin() -> TimmImage:
    """Two stages of two blocks: maps of 8 x 8 and, after the merging of patches, of 4 x 4."""
    model = timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0
    )
    return TimmImage(model, "swin", 32, IMAGENET_MEAN, IMAGENET_STD)


def paired(folders: dict[str, str], pairs=((1, 0), (2, 1)), **options) -> PairedTowers:
    torch.manual_seed(0)
    text = TextHalves(text_encoder(f"hf:{folders['roberta']}", context=16), pairs[0][1] if pairs else 2)
    return PairedTowers(ImageBlocks(swin()), text, pairs, **options).eval()


def fuse(towers: PairedTowers, ids: Tensor = IDS, mask: Tensor = MASK) -> tuple[Tensor, Tensor]:
    return towers.fuse(towers.begin_image(IMAGES), towers.begin_text(ids, mask), mask)


@pytest.mark.shows("F", "fiber")
@pytest.mark.shows("P", "fiber")
def test_with_shut_gates_the_towers_are_swin_and_roberta_up_to_their_last_norms(hf_folders) -> None:
    towers = paired(hf_folders)
    image, text = fuse(towers)
    theirs = towers.image.encoder.model.forward_features(towers.image.encoder.pixels(IMAGES)).flatten(1, 2)
    assert torch.equal(towers.image.norm(image), theirs)
    model = towers.text.encoder.model
    said = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert torch.equal(model.encoder.layer[-1].output.LayerNorm(text)[MASK], said[MASK])
    assert (text - said).abs().max() > 1e-3
    assert torch.equal(towers.image_alone(towers.begin_image(IMAGES)), theirs)
    assert torch.equal(towers.text_alone(towers.begin_text(IDS, MASK), MASK)[MASK], said[MASK])


@pytest.mark.shows("F", "fiber")
def test_at_a_shut_gate_only_the_gates_of_the_new_parts_learn(hf_folders) -> None:
    towers = paired(hf_folders)
    image, text = fuse(towers)
    (image.sum(-1).square().sum() + text.sum(-1).square().sum()).backward()
    for cross in (*towers.to_image, *towers.to_text):
        assert cross.gate.grad.abs() > 0
        assert all(p.grad.abs().max() == 0 for p in cross.attention.parameters())


@pytest.mark.shows("F", "fiber")
def test_alone_no_tower_touches_what_joins_them(hf_folders) -> None:
    towers = paired(hf_folders, gate=1.0)
    x, text = towers.begin_image(IMAGES), towers.begin_text(IDS, MASK)
    before = towers.image_alone(x), towers.text_alone(text, MASK)
    for parameter in (*towers.to_image.parameters(), *towers.to_text.parameters()):
        parameter.data.fill_(torch.nan)
    assert torch.equal(towers.image_alone(x), before[0])
    assert torch.equal(towers.text_alone(text, MASK), before[1])
    assert fuse(towers)[0].isnan().all()


@pytest.mark.shows("F", "fiber")
def test_padding_of_the_text_does_not_matter_to_either_side(hf_folders) -> None:
    towers = paired(hf_folders, gate=5.0)
    image, text = fuse(towers)
    longer = torch.cat([IDS.masked_fill(~MASK, 77), torch.full((2, 2), 9)], 1)
    other_image, other_text = fuse(towers, longer, torch.cat([MASK, torch.zeros(2, 2, dtype=torch.bool)], 1))
    assert_close(other_image, image)
    assert_close(other_text[:, :5][MASK], text[MASK])
    assert (fuse(towers, IDS.flip(0), MASK.flip(0))[0] - image).abs().max() > 1e-2


@pytest.mark.shows("F", "fiber")
def test_block_and_layer_of_a_pair_read_each_others_inputs_in_whichever_order_they_run(hf_folders) -> None:
    towers = paired(hf_folders, pairs=((2, 1),), gate=3.0)
    x, text = towers.begin_image(IMAGES), towers.begin_text(IDS, MASK)
    found = towers.fuse(x, text, MASK)
    layer = towers.text.encoder.layers[1]
    x = towers.image.enter(x, 2)  # patches are merged ahead of the pair: 64 tokens of width 16 became 16 of 32
    assert towers.image.tokens(x).shape == (2, 16, 32)
    with inside(attended(layer), towers.to_text[0], towers.image.tokens(x)), without(layer.output.LayerNorm):
        said = towers.text.run(text, MASK, 1, 2)
    with towers.image.joined(2, towers.to_image[0], text, MASK):
        seen = towers.image.body(x, 2)
    assert torch.equal(towers.image.tokens(towers.image.run(seen, 3, 4)), found[0])
    assert torch.equal(said, found[1])


@pytest.mark.shows("F", "fiber")
def test_written_text_knows_the_picture_and_what_came_before_but_nothing_of_what_follows(hf_folders) -> None:
    towers = paired(hf_folders, gate=20.0, writes=True)
    seen = towers.image_alone(towers.begin_image(IMAGES), normed=False)
    written = towers.write(seen[:1], IDS[:1], MASK[:1])
    other = IDS[:1].clone()
    other[0, 3:] = torch.tensor([20, 21])
    changed = towers.write(seen[:1], other, MASK[:1])
    assert_close(changed[0, :3], written[0, :3])
    assert (changed[0, 3] - written[0, 3]).abs().max() > 1e-2
    assert (towers.write(seen[1:], IDS[:1], MASK[:1]) - written[:1]).abs().max() > 1e-2
    assert [type(part).__name__ for part in towers.narrow] == ["Linear", "Identity"]  # 32 -> 16 for the first pair
    with torch.no_grad():
        for cross in towers.to_text:
            cross.gate.zero_()
    theirs = towers.text.encoder.model  # with shut gates the last position is that of an encoder that sees all
    assert_close(towers.write(seen[:1], IDS[:1], MASK[:1])[0, 0], theirs(input_ids=IDS[:1, :1]).last_hidden_state[0, 0])


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("vit", [(8, 8)]),
        ("timm:vit_tiny_patch16_224", [(4, 4)]),
        ("packaged:efficientnet_lite0", [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]),
    ],
)
def test_blocks_one_by_one_are_the_tower(name: str, levels: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    blocks = ImageBlocks(image_encoder(name, size=64, width=32, layers=2, heads=2, pretrained=False)).eval()
    image = torch.rand(1, 3, 64, 64)
    x = blocks.start(image)
    for index in range(len(blocks.blocks)):
        assert torch.equal(blocks.state(blocks.tokens(x), index - 1), x)
        x = blocks.run(x, index, index + 1)
        assert blocks.tokens(x).shape[-1] == blocks.blocks[index].width
    assert torch.equal(blocks.patches(blocks.norm(blocks.finish(x))), blocks.encoder(image).tokens)
    assert [blocks.blocks[index].grid for index in blocks.levels] == levels


def test_every_position_of_a_convolutional_stage_attends_to_the_text(hf_folders) -> None:
    torch.manual_seed(0)
    blocks = ImageBlocks(image_encoder("packaged:efficientnet_lite0", size=32, pretrained=False))
    text = TextHalves(text_encoder(f"hf:{hf_folders['bert']}", context=16), 1)
    towers = PairedTowers(blocks, text, [(6, 1)], gate=2.0).eval()
    x, said = towers.begin_image(IMAGES), towers.begin_text(IDS, MASK)
    plain = blocks.run(x, 6, 7)  # (2, 320, 1, 1)
    with blocks.joined(6, towers.to_image[0], said, MASK):
        joined = blocks.run(x, 6, 7)
    expected = towers.to_image[0](plain.flatten(2).transpose(1, 2), said, MASK)
    assert_close(joined.flatten(2).transpose(1, 2), expected)


def test_pairs_that_do_not_fit_are_told(hf_folders) -> None:
    with pytest.raises(EncoderError, match="image block 4 and text layer 1 does not fit: there are 4 blocks"):
        paired(hf_folders, pairs=((1, 0), (4, 1)))
    with pytest.raises(EncoderError, match="behind the one before"):
        paired(hf_folders, pairs=((2, 0), (1, 1)))
    with pytest.raises(EncoderError, match="are not known"):
        ImageBlocks(image_encoder("timm:resnet18", size=32, pretrained=False))
