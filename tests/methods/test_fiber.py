"""FIBER against its sheet, as a method; the three ways of running two towers are tested with `PairedTowers`."""

from dataclasses import replace

import pytest
import torch
from method_helpers import batch_of, figures, learn, public_folders, small
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from diptych import methods
from diptych.batch import Batch, Step
from diptych.methods.fusion.fiber import PRESETS
from diptych.objectives.contrastive import info_nce
from diptych.objectives.grounding import overlaps
from diptych.objectives.matching import Pairs, matching_loss
from diptych.objectives.queue import PairQueue
from diptych.recipe import Recipe
from diptych.world.data import World
from diptych.world.knobs import Knobs


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def paper(tmp_path, monkeypatch):
    public_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    with torch.device("meta"):
        return methods.build("fiber", replace(PRESETS["paper"].config, queue=0), weights=False)


@pytest.mark.shows("F", "fiber")
@pytest.mark.shows("R", "fiber")
def test_new_parameters_and_tokens_are_those_of_the_paper(paper) -> None:
    towers = paper.towers
    assert [count(cross) for cross in towers.to_image] == [1_313_793] * 4 + [3_676_161] * 2
    assert [count(cross) - 1 for cross in towers.to_text] == [1_969_152] * 4 + [2_755_584] * 2
    blocks = towers.image.blocks
    assert [(block.grid, block.width) for block, _ in zip(blocks[18:], range(6), strict=True)] == [
        *[((24, 24), 512)] * 4,
        *[((12, 12), 1024)] * 2,
    ]
    assert [layer for _, layer in towers.pairs] == [6, 7, 8, 9, 10, 11]
    assert paper.match_head.in_features == 1536


@pytest.mark.shows("F", "fiber")
def test_without_a_queue_the_contrast_is_info_nce_in_value_and_its_keys_have_no_gradient() -> None:
    method = small("fiber").eval()
    batch = batch_of(method, World(size=8))
    image, text = method.embed_image(batch).pooled, method.embed_text(batch).pooled
    found = method.loss(batch, Step())["itc"]
    assert_close(found, info_nce(image, text, 1 / method.joint.tau))
    method.joint.text_map.requires_grad_(False)
    found.backward()
    # only rows have a gradient: that of the image's side is the image -> text half of InfoNCE against fixed texts
    grads = method.joint.image_map.weight.grad.clone()
    method.zero_grad()
    image = method.embed_image(batch).pooled
    logits = image @ text.detach().T / method.joint.tau.detach()
    (torch.nn.functional.cross_entropy(logits, torch.arange(8)) / 2).backward()
    assert_close(grads, method.joint.image_map.weight.grad)


@pytest.mark.shows("F", "fiber")
def test_the_queue_counts_as_far_as_it_is_filled_unless_official() -> None:
    method, official = small("fiber", queue=16), small("fiber", queue=16, official=True)
    batch = batch_of(method, World(size=4), 4)
    official.load_state_dict({**method.state_dict(), **official.queues.state_dict(prefix="queues.")})
    first = method.eval().loss(batch, Step())["itc"]
    image, text = method.embed_image(batch).pooled, method.embed_text(batch).pooled
    assert_close(first, info_nce(image, text, 1 / method.joint.tau))
    keys = torch.cat([text, official.queues.text.rows]), torch.cat([image, official.queues.image.rows])
    logits = [rows @ columns.T / method.joint.tau for rows, columns in zip((image, text), keys, strict=True)]
    expected = sum(torch.nn.functional.cross_entropy(each, torch.arange(4)) for each in logits) / 2
    assert_close(official.eval().loss(batch, Step())["itc"], expected)
    assert expected > 2 * first
    assert official.queues.columns().tolist() == []  # noise is no negative to be matched
    method.train().loss(batch, Step())
    assert len(method.queues.image.filled) == 4
    method.eval().loss(batch, Step())
    assert len(method.queues.image.filled) == 4  # an evaluation leaves it as it is


def test_what_is_kept_of_the_queue_is_found_again_after_it_has_gone_round() -> None:
    queues = PairQueue(7, 1, kept=3, side=2, context=4)
    for start in range(0, 22, 2):
        numbers = torch.arange(start, start + 2)
        pictures = numbers[:, None, None, None].expand(2, 3, 2, 2).to(torch.uint8)
        batch = Batch({"image": pictures, "text": numbers[:, None], "text_mask": torch.ones(2, 1, dtype=torch.bool)})
        queues.push(numbers[:, None].float(), -numbers[:, None].float(), batch)
        kept = queues.pictures.filled[:, 0, 0, 0].tolist()
        assert sorted(kept) == list(range(start + 2))[-3:]
        assert queues.image.rows[queues.columns(), 0].tolist() == kept
        assert queues.text.rows[queues.columns(), 0].tolist() == [-number for number in kept]
        assert queues.ids.filled[:, 0].tolist() == kept


@pytest.mark.shows("F", "fiber")
def test_negatives_may_be_pairs_of_earlier_batches() -> None:
    method = small("fiber", queue=8, negatives=4, gate=1.0).eval()
    scenes = World(size=12)
    old, batch = (batch_of(method, scenes, 12) for _ in range(2))
    old, batch = (Batch({name: value[rows] for name, value in old.items()}) for rows in (slice(4), slice(8, 12)))
    method.queues.push(torch.rand(4, 32), torch.rand(4, 32), old)
    image, text = method.encode_image(batch), method.encode_text(batch)
    pairs = Pairs(torch.tensor([0, 1, 6]), torch.tensor([0, 5, 1]), torch.tensor([True, False, False]))
    logits = []
    first, earlier = ((batch, 0), (batch, 0)), ((batch, 1), (old, 1))
    for (picture, image_row), (words, text_row) in (first, earlier, ((old, 2), (batch, 1))):
        seen = method.encode_image(picture).take(slice(image_row, image_row + 1))
        said = method.encode_text(words).take(slice(text_row, text_row + 1))
        logits.append(method.match_head(method.fuse(seen, said).pooled))
    assert_close(method.matching(image, text, pairs), matching_loss(torch.cat(logits), pairs.matched))


# Four blocks and layers of width 64: cross-attention in all of them has 2 x 4 x 4 D^2 weights, and one layer of
# co-attention on top has 2 x (4 + 4 + 8) D^2
EQUAL = {
    "image_width": 64,
    "text_width": 64,
    "hidden": 64,
    "image_layers": 4,
    "text_layers": 4,
    "fused": 4,
    "top_layers": 1,
}


def test_inside_and_on_top_cost_the_same_to_train_and_inside_more_to_try_another_text() -> None:
    inside, top = small("fiber", **EQUAL), small("fiber", **EQUAL, fusion="top")
    assert abs(count(inside) / count(top) - 1) < 0.001
    batch = batch_of(inside, World(size=2), 2)
    whole, pair = [], []
    for method in (inside.eval(), top.eval()):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            image, text = method.encode_image(batch), method.encode_text(batch)
            ahead = counter.get_total_flops()
            method.fuse(image, text)
        whole.append(counter.get_total_flops())
        pair.append(counter.get_total_flops() - ahead)
    assert abs(whole[0] / whole[1] - 1) < 0.1
    assert pair[0] > 2 * pair[1]


@pytest.mark.shows("F", "fiber")
def test_with_gates_shut_fusion_begins_from_what_the_towers_know_and_with_gates_open_it_does_not() -> None:
    shut, open_ = small("fiber"), small("fiber", gate=1.0)
    open_.load_state_dict({**shut.state_dict(), **{k: v for k, v in open_.state_dict().items() if "gate" in k}})
    batch = batch_of(shut, World(size=4), 4)
    changed = []
    for method in (shut.eval(), open_.eval()):
        x, text = method.towers.begin_image(batch.image), method.towers.begin_text(batch.text, batch.text_mask)
        alone = method.towers.image_alone(x, normed=False)
        fused, _ = method.towers.fuse(x, text, batch.text_mask)
        changed.append(((fused - alone).norm() / alone.norm()).item())
    assert changed[0] == 0
    assert changed[1] > 0.1


def test_new_parts_and_heads_learn_faster_by_name() -> None:
    method = small("fiber", tasks=("coarse", "vqa"), answers=("red",), new_lr=5.0, head_lr=50.0)
    coarse, vqa = method.stages(Recipe())
    assert coarse.lr == ((r"^towers\.(image|text)\.", 1.0), (r".", 5.0))
    assert vqa.lr[0] == (r"^(answer|pair)_head\.", 50.0)
    assert vqa.needs == ("image", "questions")


@pytest.mark.shows("E", "fiber")
def test_is_judged_as_a_dual_encoder_and_by_fusing_pairs() -> None:
    found = figures("fiber", ["retrieval", "pair_retrieval"], gate=0.5)
    for task in ("retrieval", "pair_retrieval"):
        assert found[f"{task} image_to_text_r1"].value > 2 * found[f"{task} image_to_text_r1"].chance


# -- the checkpoints of the paper ------------------------------------------------------------------------------------


def theirs(name: str) -> list[str]:
    """The name in the paper's code of a weight of ours, of Swin-B and six pairs; keys and values are one there."""
    simple = {
        "towers.image.encoder.model.": "vit_model.",
        "towers.text.encoder.model.": "text_transformer.",
        "joint.image_pooler.0.": "cross_modal_image_pooler_itc.dense.",
        "joint.text_pooler.0.": "cross_modal_text_pooler_itc.dense.",
        "image_pooler.0.": "cross_modal_image_pooler.dense.",
        "text_pooler.0.": "cross_modal_text_pooler.dense.",
        "image_map.": "cross_modal_image_transform.",
        "text_map.": "cross_modal_text_transform.",
        "joint.image_map.": "cross_modal_image_transform_itc.",
        "joint.text_map.": "cross_modal_text_transform_itc.",
        "word_head.0.0.": "mlm_score.transform.dense.",
        "word_head.0.2.": "mlm_score.transform.LayerNorm.",
        "word_head.1.weight": "mlm_score.decoder.weight",
        "word_head.1.bias": "mlm_score.bias",
        "match_head.": "itm_score.fc.",
        "joint.tau": "temp",
    }
    for stage in (1, 2, 3):
        name = name.replace(f"model.layers.{stage}.downsample", f"model.layers.{stage - 1}.downsample")
    for ours, other in simple.items():
        if name.startswith(ours):
            return other + name.removeprefix(ours)
    _, side, index, rest = name.split(".", 3)
    block, layer = (2, 14 + int(index)) if int(index) < 4 else (3, int(index) - 4), 6 + int(index)
    if side == "to_image":
        parts = {"attention.query": "qkv_i2t", "attention.out": "proj_i2t", "norm": "norm_i2t_i", "gate": "alpha_i2t"}
        start = f"vit_model.layers.{block[0]}.blocks.{block[1]}.attn."
    else:
        words = {part: f"crossattention_t2i.self.{part}" for part in ("query", "key", "value")}
        parts = {f"attention.{part}": other for part, other in words.items()}
        parts |= {"attention.out": "crossattention_t2i.output.dense", "gate": "alpha_t2i"}
        start = f"text_transformer.encoder.layer.{layer}."
    for ours, other in parts.items():
        if rest.startswith(ours):
            return start + other + rest.removeprefix(ours)
    raise AssertionError(name)


@pytest.mark.shows("L", "fiber")
def test_the_papers_checkpoints_fill_every_weight_of_the_preset(paper) -> None:
    own = {
        name: tuple(value.shape)
        for name, value in paper.state_dict().items()
        if name.split(".")[-1] not in ("mean", "std")
    }
    state = {}
    for name, shape in own.items():
        if "to_image" in name and (".key." in name or ".value." in name):
            continue
        state[theirs(name)] = torch.empty(shape or ((1,) if "gate" in name else ()), device="meta")
    places = ("2.blocks.14", "2.blocks.15", "2.blocks.16", "2.blocks.17", "3.blocks.0", "3.blocks.1")
    for index, place in enumerate(places):
        width = 512 if index < 4 else 1024
        state[f"vit_model.layers.{place}.attn.qkv_text_i2t.weight"] = torch.empty(2 * width, 768, device="meta")
        state[f"vit_model.layers.{place}.attn.qkv_text_i2t.bias"] = torch.empty(2 * width, device="meta")
    roberta = "text_transformer.encoder.layer"
    unused = {
        "rank_output.weight",
        "image_queue",
        "text_transformer.pooler.dense.weight",
        f"{roberta}.0.alpha_t2i",
        f"{roberta}.6.crossattention_t2i.output.LayerNorm.weight",
        "vit_model.layers.0.blocks.1.attn_mask",
        "vit_model.layers.0.blocks.1.attn.relative_position_index",
    }
    found = paper.from_official({**state, **dict.fromkeys(unused, torch.empty(1, device="meta"))})
    assert {name: tuple(value.shape) for name, value in found.items()} == own


@pytest.mark.shows("L", "fiber")
def test_keys_and_values_of_a_block_are_halves_of_one_map() -> None:
    name = "vit_model.layers.2.blocks.14.attn.qkv_text_i2t.weight"
    found = methods.method_class("fiber").from_official({name: torch.arange(6.0)[:, None]})
    assert found["towers.to_image.0.attention.key.weight"].flatten().tolist() == [0, 1, 2]
    assert found["towers.to_image.0.attention.value.weight"].flatten().tolist() == [3, 4, 5]
    assert found.keys() == {f"towers.to_image.0.attention.{part}.weight" for part in ("key", "value")}


# -- boxes -------------------------------------------------------------------------------------------------------------


def test_maps_ahead_of_the_fusion_are_handed_on_and_the_rest_are_fused() -> None:
    method = small(
        "fiber", tasks=("fine",), image="packaged:efficientnet_lite0", image_size=64, fused=1, gate=0.5
    ).eval()
    batch = batch_of(method, World(size=2), 2)
    blocks = method.towers.image
    assert (method.levels, method.ahead) == ([2, 4, 6], [2, 4])
    image, text = method.encode_image(batch), method.encode_text(batch)
    maps, said = method.pyramid(image, text)
    assert [tuple(x.shape[1:]) for x in maps] == [(40, 8, 8), (112, 4, 4), (320, 2, 2)]
    plain: dict = {}
    x = blocks.run(blocks.start(batch.image), 0, 7, plain)
    assert torch.equal(maps[0], plain[2])
    assert torch.equal(maps[1], plain[4])
    assert (maps[2] - x).abs().max() > 1e-3
    assert torch.equal(said, method.towers.fuse(method.state(image), text.tokens, text.mask)[1])


@pytest.mark.slow
@pytest.mark.shows("E", "fiber")
def test_words_are_guessed_at_the_chosen_places_as_they_are_at_all_places() -> None:
    method = small("fiber").eval()
    seen = batch_of(method, World(size=3), 3)
    chosen = torch.zeros_like(seen.text_mask)
    chosen[0, 1] = chosen[2, 2] = True
    image, text = method.encode_image(seen), method.encode_text(seen)
    assert_close(method.fill(image, text, chosen), method.fill(image, text)[chosen])


def test_learns_to_find_the_boxes_of_phrases() -> None:
    method = small("fiber", tasks=("fine",), image_size=64, image_width=64)
    batch = batch_of(method, World(size=4, knobs=Knobs(objects=(2, 2))), 4)
    learn(method, batch, 250)
    method.eval()
    with torch.no_grad():
        boxes, scores = method.locate(method.encode_image(batch), method.encode_text(batch), batch.phrase_tokens[:, 0])
    assert boxes.shape == (4, 10, 4)
    assert (scores[:, :1] >= scores).all()
    assert overlaps(boxes[:, 0], batch.boxes[:, 0])[0].mean() > 0.5


def test_an_expression_means_its_box_with_all_of_its_words() -> None:
    method = small("fiber", tasks=("referring",), image_size=64)
    assert method.stages(Recipe())[0].needs == ("image", "boxes", "expressions")
    batch = batch_of(method, World(size=2), 2)
    words = {"text": batch.expression, "text_mask": batch.expression_mask}
    tokens = batch.expression_mask.clone()
    tokens[:, 0] = False
    tokens &= batch.expression != batch.expression.amax(1, keepdim=True)  # neither <start> nor <end>
    one = torch.ones(2, 1, dtype=torch.bool)
    named = {"boxes": batch.target_box[:, None], "box_mask": one, "phrase_tokens": tokens[:, None]}
    method.eval()
    assert method.refer(batch, Step()) == method.fine(Batch({"image": batch.image, **words, **named}), Step())


def test_says_what_it_cannot_find_boxes_with() -> None:
    assert "fine" in small("fiber").lacks["Locates"]
    assert "Locates" not in small("fiber", tasks=("fine",)).lacks
    assert "caption" in small("fiber").lacks["Captions"]
    assert "Captions" not in small("fiber", tasks=("caption",)).lacks
    with pytest.raises(ValueError, match="fusion=top there are none"):
        small("fiber", tasks=("fine",), fusion="top")


# -- captions ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.shows("E", "fiber")
def test_writes_captions_that_it_has_learned_and_of_the_picture_that_it_sees() -> None:
    method = small("fiber", tasks=("caption",), image_width=64, text_width=64, gate=1.0)
    scenes = World(size=4, knobs=Knobs(objects=(1, 1)))
    batch = batch_of(method, scenes, 4)
    learn(method.eval(), batch, 250)  # no dropout: its masks come round again and would tell the texts apart
    with torch.no_grad():
        written = method.caption(method.encode_image(batch))
    assert written == [scenes.read(index, ("text",)).text for index in range(4)]
    assert len(set(written)) == 4  # one that does not see says the same of all


def test_the_teacher_of_gold_is_an_earlier_copy_that_is_renewed_and_never_learns() -> None:
    method = small("fiber", tasks=("gold",))
    batch = batch_of(method, World(size=4), 4)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    first = method.word_head[1].weight.clone()
    for index in (5, 6, 1004):
        optimiser.zero_grad()
        method.loss(batch, Step(stage="gold", index=index)).total.backward()
        optimiser.step()
        assert torch.equal(method.teacher.word_head[1].weight, first)
    assert not torch.equal(method.word_head[1].weight, first)
    latest = method.word_head[1].weight.clone()
    method.loss(batch, Step(stage="gold", index=1005))
    assert torch.equal(method.teacher.word_head[1].weight, latest)
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())
    assert method.copied == 1005


@pytest.mark.shows("F", "fiber")
def test_the_cider_stage_draws_captions_that_all_captions_of_their_picture_judge() -> None:
    method = small("fiber", tasks=("caption", "cider"), gate=1.0, longest=6)
    stage = method.stages(Recipe())[1]
    assert stage.needs == ("image", "texts")
    scenes = World(size=4)
    batch = batch_of(method, scenes, 4, stage)
    assert batch.references == [scenes.read(index, ("texts",)).texts for index in range(4)]
    terms = method.eval().loss(batch, Step(stage="cider"))
    assert_close(terms["caption"], 0.3 * method.loss(batch, Step(stage="caption"))["caption"])
    terms["cider"].backward()
    assert method.towers.image.encoder.patches.weight.grad.abs().max() > 0
