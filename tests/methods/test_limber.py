"""LiMBeR: the checks of its sheet, the ladder of encoders, and what it writes."""

import pytest
import torch
from method_helpers import (
    batch_of,
    first_stage,
    language_folder,
    learn,
    loss_of,
    public_folders,
    samples_of,
    small,
    trains,
)

from diptych import methods
from diptych.batch import Features, Step
from diptych.data.loader import collate
from diptych.methods.generative.limber import PRESETS, Config, LiMBeR
from diptych.recipe import Recipe
from diptych.views.conversations import IGNORE, Turn
from diptych.world.data import World
from diptych.world.knobs import Knobs

pytestmark = pytest.mark.shows("F", "limber")
PROJ = {"paper": (12_587_008, 144), "paper_beit": (4_198_400, 196), "paper_nfrn50": (8_392_704, 1)}


@pytest.mark.shows("R", "limber")
@pytest.mark.parametrize("name", PROJ)
def test_trains_the_map_alone_with_as_many_parameters_and_tokens_as_in_the_paper(name, tmp_path, monkeypatch) -> None:
    public_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    preset = PRESETS[name]
    with torch.device("meta"):
        method = methods.build("limber", preset.config, weights=False)
    (stage,) = method.stages(preset.recipe)
    trained = {name: value for name, value in method.named_parameters() if trains(stage, name)}
    assert set(trained) == {"connector.proj.weight", "connector.proj.bias"}
    assert (sum(value.numel() for value in trained.values()), method.connector.tokens) == PROJ[name]
    assert sum(value.numel() for value in method.language.parameters()) == 6_050_882_784


@pytest.mark.parametrize("prefix", [0, 3])
def test_what_is_seen_becomes_words_linearly(prefix: int) -> None:
    method = small("limber", prefix=prefix, dropout=0.1).eval()
    x, y = torch.randn(2, 2, method.connector.of, method.encoder.width)

    def mapped(tokens):
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        return method.connect(Features(tokens, tokens.mean(1), mask))

    nothing = mapped(torch.zeros_like(x))
    bias = method.connector.proj.bias.view(max(1, prefix), -1)
    torch.testing.assert_close(nothing, bias.repeat(1, nothing.shape[1] // len(bias), 1).expand_as(nothing))
    found = mapped(2 * x - 3 * y) - nothing
    torch.testing.assert_close(found, 2 * (mapped(x) - nothing) - 3 * (mapped(y) - nothing), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def gptj(tmp_path_factory):
    """A folder with a small GPT-J, and the model."""
    from transformers import GPTJConfig, GPTJForCausalLM

    place = tmp_path_factory.mktemp("gptj")
    sizes = {"vocab_size": 20, "n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4, "n_positions": 64}
    config = GPTJConfig(**sizes, bos_token_id=18, eos_token_id=18)
    language_folder(place, config, [f"w{number}" for number in range(1, 18)])
    torch.manual_seed(0)
    model = GPTJForCausalLM(config).eval()
    model.save_pretrained(place)
    return place, model


def with_gptj(place) -> LiMBeR:
    torch.manual_seed(1)
    options = {"image_size": 16, "image_width": 16, "image_layers": 1, "image_heads": 2}
    return LiMBeR(Config(language=f"hf:{place}", tasks=("pretrain",), **options)).eval()


@pytest.mark.shows("P", "limber")
def test_loss_and_words_are_those_of_gpt_j_of_transformers(gptj) -> None:
    place, theirs = gptj
    method = with_gptj(place)
    captions = ["w5 w9", "w1 w2 w3 w4"]
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    read = [method.read([Turn("assistant", caption)], [4]) for caption in captions]
    batch = collate([{**one, "image": picture} for one, picture in zip(read, pictures, strict=True)])
    with torch.no_grad():
        seen = method.encode_image(batch)
        prefix = method.connect(seen)
        ids = torch.tensor([[5, 9, 18, 0, 0], [1, 2, 3, 4, 18]])
        labels = torch.tensor([[5, 9, 18, IGNORE, IGNORE], [1, 2, 3, 4, 18]])
        embeds = torch.cat([prefix, theirs.transformer.wte(ids)], dim=1)
        mask = torch.ones(2, 9)
        mask[0, 7:] = 0
        labels = torch.cat([torch.full((2, 4), IGNORE), labels], dim=1)
        expected = theirs(inputs_embeds=embeds, attention_mask=mask, labels=labels)
        torch.testing.assert_close(method.loss(batch, Step()).total, expected.loss)
        spliced = method.splice(batch.ids, batch.visual, prefix)
        logits = method.language.logits(method.language.hidden(spliced, mask.bool()))
        torch.testing.assert_close(logits[mask.bool()], expected.logits[mask.bool()])
        alone = theirs.generate(
            inputs_embeds=prefix[:1], attention_mask=mask[:1, :4], max_new_tokens=6, do_sample=False
        )
        said = method.respond(seen, ["", ""], longest=6)[0]
    words = alone[0].tolist()
    words = words[: words.index(18)] if 18 in words else words
    assert said == " ".join(f"w{word}" if word else "" for word in words).strip()


def test_words_in_place_of_the_picture_are_read_as_text(gptj) -> None:
    place, theirs = gptj
    method = with_gptj(place)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    visual = torch.tensor([[True] * 4 + [False] * 2])
    with torch.no_grad():
        embeds = method.splice(ids.masked_fill(visual, 0), visual, method.language.embed(ids[:, :4]))
        torch.testing.assert_close(method.language.logits(method.language.hidden(embeds)), theirs(input_ids=ids).logits)


def test_labels_are_the_caption_and_one_end(gptj) -> None:
    method = with_gptj(gptj[0])
    read = method.read([Turn("assistant", "w5 w9")], [3])
    assert read["labels"].tolist() == [IGNORE, IGNORE, IGNORE, 5, 9, 18]
    assert read["visual"].tolist() == [True, True, True, False, False, False]
    longer = method.read([Turn("assistant", "w5 w9 w1 w1")], [3])
    assert collate([read, longer]).labels[0].tolist()[:6] == read["labels"].tolist()


def test_gradient_reaches_the_map_and_nothing_else() -> None:
    method = small("limber")
    stage = first_stage(method)
    for name, value in method.named_parameters():
        value.requires_grad_(trains(stage, name))
    method.train()
    assert method.connector.training
    assert not any(module.training for part in (method.encoder, method.language) for module in part.modules())
    loss_of(method, batch_of(method, World(size=4), 4)).total.backward()
    reached = {name for name, value in method.named_parameters() if value.grad is not None and value.grad.abs().sum()}
    assert reached == {"connector.proj.weight", "connector.proj.bias"}


def test_the_order_of_what_is_seen_matters() -> None:
    """Row by row, as the encoder has it: positions are rotary."""
    method = small("limber").eval()
    batch = batch_of(method, World(size=2), 2)
    with torch.no_grad():
        seen = method.encode_image(batch)
        torch.testing.assert_close(method.connect(seen)[0, 1], method.connector.proj(seen.tokens[0, 1]))
        turned = seen._replace(tokens=seen.tokens.flip(1))
        (one, _), (other, _) = (method.likelihood(image, ["", ""], ["a red star", "two"]) for image in (seen, turned))
    assert (one - other).abs().min() > 1e-4


@pytest.mark.shows("L", "limber")
@pytest.mark.parametrize("names", [("weight", "bias"), ("image_prefix.proj.weight", "image_prefix.proj.bias")])
def test_begins_with_an_official_map(names, tmp_path) -> None:
    method = small("limber")
    shape = method.connector.proj.weight.shape
    theirs = dict(zip(names, (torch.randn(shape), torch.randn(shape[0])), strict=True))
    torch.save(theirs, tmp_path / "proj.ckpt")
    begun = small("limber", start=str(tmp_path / "proj.ckpt"))
    assert torch.equal(begun.connector.proj.weight, theirs[names[0]])
    assert torch.equal(begun.connector.proj.bias, theirs[names[1]])
    assert torch.equal(begun.encoder.patches.weight, method.encoder.patches.weight)


def test_begins_with_the_encoder_of_another_method(tmp_path) -> None:
    options = {"image_size": 32, "image_width": 32, "image_layers": 1, "image_heads": 2}
    clip = methods.build("clip", options)
    clip.save_pretrained(tmp_path)
    begun = small("limber", start=str(tmp_path))
    assert torch.equal(begun.encoder.patches.weight, clip.image.patches.weight)


@pytest.mark.parametrize(("rank", "encoder_lr"), [(0, 0.0), (2, 0.0), (0, 0.5), (2, 0.5)])
def test_magma_tunes_the_encoder_and_has_adapters(rank: int, encoder_lr: float) -> None:
    method = small("limber", lora_rank=rank, encoder_lr=encoder_lr)
    stage = first_stage(method)
    parts = {name.split(".")[0] for name, _ in method.named_parameters() if trains(stage, name)}
    wanted = {"connector"} | ({"language"} if rank else set()) | ({"encoder"} if encoder_lr else set())
    assert parts == wanted
    assert all("lora_" in name for name, _ in method.named_parameters() if trains(stage, name) and "language" in name)
    assert dict(stage.lr).get(r"^encoder\.", 0) == encoder_lr


@pytest.mark.parametrize("task", ["self", "supervised", "contrastive"])
def test_an_encoder_learns_its_lesson_and_the_language_model_stays(task: str) -> None:
    method = small("limber", tasks=(task, "pretrain"), classes=40)
    first = first_stage(method)
    for name, value in method.named_parameters():
        value.requires_grad_(trains(first, name))
    data = World(size=8, knobs=Knobs(objects=(1, 1)))
    batch = batch_of(method, data, 8)
    before = loss_of(method, batch, 1).total.item()
    learn(method, batch, 60)
    assert loss_of(method, batch, 1).total.item() < {"self": 0.95, "supervised": 0.1, "contrastive": 0.5}[task] * before
    assert {name.split(".")[0] for name, value in method.named_parameters() if value.grad is not None} == {
        "encoder",
        "lessons",
    }


def test_models_of_our_own_learn_first() -> None:
    stages = small("limber", tasks=()).stages(Recipe())
    assert [stage.name for stage in stages] == ["text", "contrastive", "pretrain"]
    assert stages[0].train == (r"^language\.",)


@pytest.mark.shows("E", "limber")
def test_says_what_it_has_learned_of_pictures_and_not_without_them() -> None:
    method, data = small("limber", layers=2), World(size=8, knobs=Knobs(objects=(1, 1)))
    batch = batch_of(method, data)
    for _ in range(2):  # it first learns what all captions have in common
        learn(method, batch)
    method.eval()
    captions = [sample.texts[0] for sample in samples_of(method, data)]
    with torch.no_grad():
        seen = method.encode_image(batch)
        said = method.caption(seen)
        right, _ = method.likelihood(seen, [""] * 8, captions)
        wrong, _ = method.likelihood(seen.take(torch.arange(8).roll(1)), [""] * 8, captions)
        blind, _ = method.likelihood(None, [""] * 8, captions)
    tokenizer = method.language.tokenizer
    assert [tokenizer.ids(one) for one in said] == [tokenizer.ids(one) for one in captions]
    assert right.mean() > -1
    assert wrong.mean() < -3
    assert blind.mean() < -3


def test_the_control_learns_captions_with_pictures_of_others() -> None:
    batch = batch_of(small("limber"), World(size=4), 4)
    rolled = type(batch)({**batch, "image": batch.image.roll(1, 0)})
    assert loss_of(small("limber", shuffled=True), batch).total == loss_of(small("limber"), rolled).total


def test_writes_also_where_nothing_is_seen_and_nothing_asked() -> None:
    method = small("limber").eval()
    said = method.respond(None, ["", ""], longest=3)
    assert said[0] == said[1] == method.respond(None, [""], longest=3)[0]
