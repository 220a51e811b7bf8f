"""InstructBLIP: the sheet's checks, and agreement with transformers and with LAVIS's layout of weights."""

import re

import numpy as np
import pytest
import torch
from method_helpers import batch_of, loss_of, samples_of, small, trains, world_of, write_tokenizer
from PIL import Image

from diptych import methods
from diptych.app.sources import open_sources
from diptych.batch import Batch, Sample
from diptych.data.loader import collate
from diptych.models.official.instructblip import from_official
from diptych.recipe import Recipe
from diptych.views.conversations import IGNORE, Turn

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = 40


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Their model with random weights, and folders of it, of a language model and of a BERT by which ours is made."""
    from transformers import BertConfig, BertModel, InstructBlipConfig, InstructBlipForConditionalGeneration

    config = InstructBlipConfig(
        vision_config={**SIZES, "image_size": 28, "patch_size": 14, "initializer_range": 0.2},
        qformer_config={**SIZES, "vocab_size": WORDS + 1, "initializer_range": 0.2},
        text_config={"model_type": "llama", **SIZES, "vocab_size": WORDS, "initializer_range": 0.2, "bos_token_id": 5},
        num_query_tokens=3,
        image_token_index=WORDS - 1,
    )
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.query_tokens)
    folder = tmp_path_factory.mktemp("published")
    model.save_pretrained(folder / "whole")
    model.language_model.save_pretrained(folder / "language")
    BertModel(BertConfig(**SIZES, vocab_size=WORDS), add_pooling_layer=False).save_pretrained(folder / "bert")
    for name in ("language", "bert"):
        write_tokenizer(folder / name, WORDS)
        told = '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}'
        (folder / name / "tokenizer_config.json").write_text(told)
    return model, folder


def ours(folder, **options):
    config = {
        "image": f"hf:{folder}/whole#random",
        "image_size": 28,
        "language": f"hf:{folder}/language#random",
        "qformer": f"hf:{folder}/bert#random",
        "queries": 3,
        "tasks": ["instruct"],
        "thaw": [],
        "norm_eps": 1e-6,
        "start": f"hf:{folder}/whole",
    }
    return methods.build("instructblip", {**config, **options}).eval()


@pytest.mark.shows("P", "instructblip")
@pytest.mark.shows("F", "instructblip")
@pytest.mark.shows("L", "instructblip")
def test_equals_transformers_on_its_own_weights(published) -> None:
    theirs, folder = published
    method = ours(folder)
    image = torch.rand(2, 3, 28, 28)
    asked = [
        [Turn("user", "w20 w21 w22"), Turn("assistant", "w30 w31")],
        [Turn("user", "w23"), Turn("assistant", "w32")],
    ]
    read = [method.read(turns, [3]) for turns in asked]
    batch = collate([{**one, "image": picture} for one, picture in zip(read, image, strict=True)])
    seen = method.see(batch)
    embeds = method.splice(batch.ids, batch.visual, method.connect(seen, method.told(batch)))
    real = torch.arange(batch.ids.shape[1]) < batch.length[:, None]
    logits = method.language.logits(method.language.hidden(embeds, real))
    expected = theirs(
        pixel_values=method.encoder.pixels(image),
        qformer_input_ids=batch.instruction,
        qformer_attention_mask=batch.instruction_mask.long(),
        input_ids=batch.ids.masked_fill(batch.visual, WORDS - 1),
        attention_mask=real.long(),
    ).logits
    torch.testing.assert_close(logits[real], expected[real], atol=1e-5, rtol=0)
    words, places = method.tell(batch, None)["text"], (batch.labels[:, 1:] != IGNORE) & real[:, 1:]
    chosen = expected[:, :-1][places], batch.labels[:, 1:][places]
    torch.testing.assert_close(words, torch.nn.functional.cross_entropy(*chosen), atol=1e-5, rtol=0)


def lavis(name: str) -> list[str]:
    """LAVIS's name of what is called so here; a bias of queries, keys and values is two there."""
    for ours, theirs in (
        (r"connector\.qformer\.queries", "query_tokens"),
        (r"connector\.qformer\.model\.embeddings\.layernorm", "Qformer.bert.embeddings.LayerNorm"),
        (r"connector\.qformer\.model\.(.*attention)\.attention\.", r"Qformer.bert.\1.self."),
        (r"connector\.qformer\.model\.", "Qformer.bert."),
        (r"connector\.norm\.", "ln_vision."),
        (r"connector\.project\.", "llm_proj."),
        (r"querying\.image_map", "vision_proj"),
        (r"querying\.text_map", "text_proj"),
        (r"querying\.match_head", "itm_head"),
        (r"querying\.tau", "temp"),
        (r"querying\.word_head\.transform\.0", "Qformer.cls.predictions.transform.dense"),
        (r"querying\.word_head\.transform\.2", "Qformer.cls.predictions.transform.LayerNorm"),
        (r"querying\.word_head", "Qformer.cls.predictions"),
        (r"encoder\.model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
        (r"encoder\.model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
        (r"encoder\.model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
        (r"encoder\.model\.encoder\.layers\.(\d+)\.layer_norm", r"visual_encoder.blocks.\1.norm"),
        (r"encoder\.model\.encoder\.layers\.(\d+)\.self_attn\.projection", r"visual_encoder.blocks.\1.attn.proj"),
        (r"encoder\.model\.encoder\.layers\.(\d+)\.self_attn\.qkv", r"visual_encoder.blocks.\1.attn.qkv"),
        (r"encoder\.model\.encoder\.layers\.(\d+)\.mlp", r"visual_encoder.blocks.\1.mlp"),
        (r"language\.model\.", "llm_model."),
    ):
        if re.match(ours, name):
            found = re.sub(f"^{ours}", theirs, name)
            return [found.replace("qkv.bias", f"{side}_bias") for side in "qv"] if "qkv.bias" in found else [found]
    raise AssertionError(name)


@pytest.mark.shows("L", "instructblip")
def test_reads_every_tensor_of_lavis_layout(published) -> None:
    method = ours(published[1], start="", tasks=["represent", "instruct"])
    state, official = {name: torch.randn_like(value) for name, value in method.named_parameters()}, {}
    for name, value in state.items():
        theirs = lavis(name)
        if len(theirs) == 2:
            value[16:32] = 0  # keys have no bias
        official |= dict(zip(theirs, (value[:16], value[32:]) if len(theirs) == 2 else (value,), strict=True))
    official["Qformer.bert.embeddings.position_ids"] = torch.arange(512)[None]
    official["Qformer.cls.predictions.decoder.weight"] = torch.zeros(WORDS + 1, 16)
    found = from_official(official)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.shows("L", "instructblip")
def test_begins_as_the_bert_that_is_named(published) -> None:
    from transformers import AutoModel

    bert = AutoModel.from_pretrained(published[1] / "bert", add_pooling_layer=False)
    model = ours(published[1], start="", qformer=f"hf:{published[1]}/bert").connector.qformer.model
    layer, own = bert.encoder.layer[1], model.encoder.layer[1]
    assert torch.equal(own.attention.attention.query.weight, layer.attention.self.query.weight)
    for copy in (own.intermediate, own.intermediate_query):
        assert torch.equal(copy.dense.weight, layer.intermediate.dense.weight)
    for copy in (own.output, own.output_query):
        assert torch.equal(copy.LayerNorm.bias, layer.output.LayerNorm.bias)
    words = model.embeddings.word_embeddings.weight
    assert words.shape[0] == WORDS + 1
    assert torch.equal(words[:-1], bert.embeddings.word_embeddings.weight)


@pytest.mark.shows("F", "instructblip")
def test_labels_are_on_the_answer_alone_and_padding_is_behind_it(published) -> None:
    """Of LAVIS: [queries; begin; instruction; answer; end], padding moved behind (`concat_text_input_output`)."""
    method = ours(published[1])
    tokenizer = method.language.tokenizer
    made = method.read([Turn("user", "w20 w21"), Turn("assistant", "w30")], [3])
    asked, said = tokenizer.ids("w20 w21"), tokenizer.ids(" w30")
    assert made["visual"].tolist() == [True] * 3 + [False] * (1 + len(asked) + len(said) + 1)
    assert made["ids"][3:].tolist() == [tokenizer.begin, *asked, *said, tokenizer.end]
    assert made["labels"].tolist() == [IGNORE] * (3 + 1 + len(asked)) + [*said, tokenizer.end]


@pytest.mark.shows("F", "instructblip")
def test_candidates_rank_alike_in_any_order_and_in_any_parts(published) -> None:
    method = ours(published[1])
    image = method.encode_image(batch_like(torch.rand(1, 3, 28, 28)))
    said = ["w30", "w31 w32 w33", "w34 w35", "w36"]

    def ranked(answers: list[str]) -> torch.Tensor:
        return method.likelihood(image.take([0] * len(answers)), ["w20 w21"] * len(answers), answers)[0]

    scores = ranked(said)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(ranked([said[index] for index in order]), scores[order])
    torch.testing.assert_close(torch.cat([ranked(said[:1]), ranked(said[1:])]), scores)
    assert scores.diff().abs().min() > 1e-3  # they differ, or this would show nothing


def batch_like(image: torch.Tensor):
    return Batch({"image": image})


@pytest.mark.shows("F", "instructblip")
def test_encoder_and_language_model_are_frozen_and_only_what_is_used_trains(published) -> None:
    method = ours(published[1], tasks=["represent", "pretrain", "instruct"])
    text = re.compile(r"\.(intermediate|output)\.|(word|position)_embeddings")
    for stage in method.stages(Recipe()):
        own = {name for name, _ in method.named_parameters() if trains(stage, name)}
        assert all(name.startswith(("connector.", "querying.")) for name in own)
        reads = {name for name in own if "qformer" in name and text.search(name) and "attention" not in name}
        assert bool(reads) == (stage.name != "pretrain")
        assert any(name.startswith("querying.") for name in own) == (stage.name == "represent")
    blind = ours(published[1], aware=False).stages(Recipe())[0]
    names = {name for name, _ in method.named_parameters() if trains(blind, name)}
    assert not any(text.search(name) and "attention" not in name for name in names)


@pytest.mark.shows("F", "instructblip")
@pytest.mark.parametrize("aware", [True, False])
def test_what_is_asked_changes_the_visual_tokens_only_if_aware(aware: bool) -> None:
    method = small("instructblip", aware=aware).eval()
    image = method.encode_image(batch_of(method, world_of("instructblip"), 1))
    told = [method.read([Turn("user", text)], [4]) for text in ("what colour is the star?", "how many are there?")]
    found = [method.connect(image, method.told(collate([one]))) for one in told]
    assert torch.equal(*found) == (not aware)
    assert ("instruction" in told[0]) == aware


@pytest.mark.shows("T", "instructblip")
@pytest.mark.parametrize("task", ["represent", "pretrain"])
def test_stages_of_blip2_reach_exactly_what_they_train(task: str) -> None:
    method = small("instructblip", tasks=(task,), aware=False, dropout=0.0)
    (stage,) = method.stages(Recipe())
    batch = batch_of(method, world_of("instructblip"), 8)
    expected = {name: trains(stage, name) for name, _ in method.named_parameters()}
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(expected[name])
    for index in range(4):
        loss_of(method, batch, index).total.backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == expected[name], name


@pytest.mark.shows("F", "instructblip")
def test_a_clip_is_its_frames_each_with_the_same_instruction() -> None:
    method = small("instructblip", frames=3, tasks=("instruct", "video")).eval()
    pictures = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)) for seed in (1, 2, 3)
    ]
    talk = [{"role": "user", "text": "what happens?"}, {"role": "assistant", "text": "a star moves."}]
    batch = collate([method.views(Sample("a", {"video": pictures, "conversation": talk}), None)])
    assert batch.visual.sum() == 3 * 4
    clip = method.see(batch)
    tokens = method.connect(clip, method.told(batch))
    for index in range(3):
        frame = method.see(batch_like(batch.video[:, index]))
        torch.testing.assert_close(tokens[:, 4 * index : 4 * (index + 1)], method.connect(frame, method.told(batch)))
    assert loss_of(method, batch).total.isfinite()


@pytest.mark.shows("F", "instructblip")
def test_of_a_long_instruction_the_question_survives() -> None:
    method = small("instructblip", longest=8)
    question = "what colour is the star"
    words = method.instruction_reader.encode([question])[0][0, 1:-1].tolist()
    made = method.read([Turn("user", "context " * 50 + question)], [4])
    assert len(made["instruction"]) == 8
    assert made["instruction"][-1 - len(words) : -1].tolist() == words[-7:]


def test_instructions_are_made_of_what_is_asked_for() -> None:
    method = small("instructblip", asks=("questions",))
    stage = method.stages(Recipe())[0]
    (sample,) = samples_of(method, world_of("instructblip"), 1, stage)
    assert set(sample) == {"image", "questions"}
    turns = method.turns(sample, None)
    assert [turn.role for turn in turns] == ["user", "assistant"]
    assert turns[1].text in sample.questions[0]["answers"]
    assert method.turns(Sample("a", {"image": None, "text": "a star"}), None) == [Turn("assistant", "a star")]


def test_protocols_of_stages_that_were_not_trained_are_lacking() -> None:
    assert not small("instructblip").lacks
    assert "EmbedsImages" in small("instructblip", tasks=("instruct",)).lacks
    assert "Generates" in small("instructblip", tasks=("represent",)).lacks


@pytest.mark.shows("F", "instructblip")
def test_data_sets_come_by_the_square_roots_of_their_sizes() -> None:
    mixed = open_sources([f"world:train={size}@sqrt" for size in (100, 400, 10_000)])
    assert mixed.weights == pytest.approx((1 / 13, 2 / 13, 10 / 13))
    two = open_sources([f"world:train={size}@sqrt" for size in (10_000, 400)])
    assert two.weights[1] == pytest.approx(1 / 6)  # by size it is 3.8 %
