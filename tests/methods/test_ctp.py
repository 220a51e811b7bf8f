"""CTP against its sheet, against the paper's own code, and against transformers and timm."""

import zlib
from ast import literal_eval
from dataclasses import replace
from pathlib import Path

import method_helpers
import numpy as np
import pytest
import timm
import torch
from method_helpers import figures, world_of
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from diptych.batch import Batch, Step
from diptych.data.dataset import Subset
from diptych.data.mixture import Mixture
from diptych.encoders.from_hf import HfText
from diptych.encoders.from_timm import TimmImage
from diptych.encoders.tokenizer import own_tokenizer
from diptych.methods.continual.ctp import CTP, Config
from diptych.models import crossed
from diptych.objectives.continual import divergence
from diptych.objectives.contrastive import info_nce
from diptych.objectives.masked import Masked
from diptych.recipe import Recipe
from diptych.training import train

SMALL = Config(
    image_size=16,
    image_width=16,
    image_layers=1,
    image_heads=2,
    patch=8,
    text_width=16,
    text_layers=4,
    text_heads=2,
    lower=2,
    dropout=0.0,
    embed=8,
    context=12,
    queue=8,
)
LATER = Step(task=1)


def small(**options) -> CTP:
    torch.manual_seed(0)
    return CTP(replace(SMALL, **options))


def batch(method: CTP, size: int = 4) -> Batch:
    rng = np.random.default_rng(0)
    texts = method.tokenize(["a red cat", "two green birds sing loudly", "rain", "a small boat and a star"][:size])
    return Batch({"image": torch.from_numpy(rng.integers(0, 256, (size, 3, 16, 16), dtype=np.uint8)), **texts})


def shaken(module: nn.Module) -> nn.Module:
    """Away from zeros, ones and what is all alike."""
    generator = torch.Generator().manual_seed(1)
    for value in module.parameters():
        value.data += 0.3 * torch.randn(value.shape, generator=generator)
    return module


def close(mine: torch.Tensor, reference) -> None:
    torch.testing.assert_close(mine, torch.as_tensor(np.asarray(reference)), rtol=2e-5, atol=5e-6)


# -- the paper's code --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parents[1] / "reference" / "ctp.npz"))


def weights(theirs, prefix: str) -> dict[str, torch.Tensor]:
    """A checkpoint of theirs, whose weights are drawn by their names."""
    found = {}
    for name, shape in zip(theirs["names"], theirs["shapes"], strict=True):
        alias = str(name).replace("text_encoder.", "text_mlm_encoder.bert.", 1)
        alias = alias.replace("predictions.decoder.bias", "predictions.bias")
        alias = alias.replace("cls.predictions.decoder", "bert.embeddings.word_embeddings")
        rng = np.random.RandomState(zlib.crc32((prefix + alias).encode()))
        value = rng.standard_normal(literal_eval(str(shape))).astype(np.float32) * np.float32(0.3)
        norm = alias.endswith(("LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight"))
        found[str(name)] = torch.from_numpy(np.asarray(1 + np.float32(0.3) * value if norm else value))
    return found


@pytest.fixture
def ours(theirs, monkeypatch):
    """Makes our model with their weights: a ViT of timm, and a BERT of 37 words."""

    def bert(*_, **__) -> HfText:
        sizes = {"num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=37, hidden_size=16, max_position_embeddings=12, **sizes)
        return HfText(BertModel(config, add_pooling_layer=False), "bert", own_tokenizer(12), "cls")

    def vit(*_, **__) -> TimmImage:
        sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 0}
        return TimmImage(timm.models.VisionTransformer(**sizes), "timm:small", 16, (0, 0, 0), (1, 1, 1))

    monkeypatch.setattr(crossed, "text_encoder", bert)
    monkeypatch.setattr(crossed, "image_encoder", vit)

    def make(**options) -> CTP:
        method = CTP(replace(SMALL, official=True, **options))
        copies = {"live.": method, "past.": method.past, "momentum.": method.momentum}
        for prefix, copy in copies.items():
            if copy is not None:
                found = method.from_official(weights(theirs, prefix))
                fresh, unknown = copy.load_state_dict(found, strict=False)
                assert not unknown
                assert all(name.endswith(("mean", "std")) or name.startswith(CTP.passing) for name in fresh)
        for queue, name in ((method.images, "image_queue"), (method.texts, "text_queue")):
            if queue:
                drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal((8, 8)).astype(np.float32)
                queue.rows = nn.functional.normalize(torch.from_numpy(drawn), dim=0).T.contiguous()
        return method.eval()

    return make


def their_batch(theirs) -> Batch:
    ids = torch.from_numpy(theirs["ids"])
    return Batch({"image": torch.from_numpy(theirs["pixels"]), "text": ids, "text_mask": ids != 0})


def with_their_mask(method: CTP, theirs, kind: str) -> CTP:
    labels = torch.from_numpy(theirs[f"{kind}.labels"])
    masked = Masked(torch.from_numpy(theirs[f"{kind}.ids"]), labels != -100, labels)
    method.mask = lambda batch: masked
    return method


GRADIENTS = {
    "vision_proj.weight": "towers.image_head.weight",
    "text_proj.weight": "towers.text_head.weight",
    "visual_encoder.blocks.0.attn.qkv.weight": "towers.image.model.blocks.0.attn.qkv.weight",
    "text_mlm_encoder.bert.encoder.layer.3.crossattention.self.key.weight": "towers.crosses.1.part.key.weight",
}


@pytest.mark.shows("P", "ctp")
@torch.no_grad()
def test_both_towers_and_their_fusion_are_those_of_the_papers_code(theirs, ours) -> None:
    method, some = ours(keep="none"), their_batch(theirs)
    image, text = method.encode_image(some), method.encode_text(some)
    close(method.embed_image(some).pooled, theirs["v"])
    close(method.embed_text(some).pooled, theirs["w"])
    close(method.embed_pair(image, text), theirs["fused"])
    chosen = torch.from_numpy(theirs["first.labels"]) != -100
    words = method.encode_text(Batch({**some, "text": torch.from_numpy(theirs["first.ids"])}))
    close(method.fill(image, words, chosen), theirs["first.logits"][chosen.numpy()])


@pytest.mark.shows("P", "ctp")
@pytest.mark.parametrize(("kind", "task"), [("first", 0), ("later", 1)])
def test_losses_gradients_momentum_model_and_queues_are_those_of_the_papers_code(theirs, ours, kind, task) -> None:
    method, step = with_their_mask(ours(), theirs, kind), Step(task=task)
    with torch.no_grad():
        method.after_step(step)  # they move it at the head of the next step
    close(method.momentum.towers.image_head.weight, theirs[f"{kind}.momentum"])
    method.training = True  # queues are pushed, and dropout stays off
    terms = method.loss(their_batch(theirs), step)
    close(terms["mlm"].detach(), theirs[f"{kind}.mlm"])
    if task:
        mine = torch.stack([terms["ita"], terms["mlm"], terms["mc"] + terms["tp"], terms["mlmd"]])
    else:
        mine = torch.stack([terms["ita"] + terms["mc"], terms["mlm"] + terms["mlmd"]])
    close(mine.detach(), theirs[f"{kind}.losses"])
    terms.total.backward()
    for name, own in GRADIENTS.items():
        torch.testing.assert_close(
            method.get_parameter(own).grad, torch.from_numpy(theirs[f"{kind}.grad.{name}"]), rtol=1e-3, atol=2e-5
        )
    close(method.images.rows.T, theirs[f"{kind}.image_queue"])
    close(method.texts.rows.T, theirs[f"{kind}.text_queue"])
    assert int(method.images.pushed) % 8 == int(theirs[f"{kind}.pointer"][0]) == 4


@pytest.mark.shows("P", "ctp")
def test_learning_without_forgetting_is_that_of_the_papers_code(theirs, ours) -> None:
    method = with_their_mask(ours(keep="lwf"), theirs, "lwf")
    terms = method.loss(their_batch(theirs), LATER)
    mine = torch.stack([terms[name] for name in ("ita", "mlm", "lwf", "mlmd")])
    close(mine.detach(), theirs["lwf.losses"])


@pytest.mark.shows("L", "ctp")
def test_starts_from_an_official_checkpoint(theirs, ours, tmp_path) -> None:
    state = weights(theirs, "live.")
    torch.save({"model": state}, tmp_path / "task_08.pth")
    fresh = CTP(replace(SMALL, start=str(tmp_path / "task_08.pth")))
    expected = ours().state_dict()
    own = {name for name in expected if not name.startswith(CTP.passing) and not name.endswith(("mean", "std"))}
    for name in own:
        assert torch.equal(fresh.state_dict()[name], expected[name]), name
        assert torch.equal(fresh.state_dict()[f"momentum.{name}"], expected[name]), name
        assert torch.equal(fresh.state_dict()[f"past.{name}"], expected[name]), name
    twice = ("text_encoder.", "temp", "distill_temp", "image_queue", "text_queue", "queue_ptr")
    left = [name for name in state if not name.startswith(twice) and "decoder" not in name and "_ids" not in name]
    assert len(own) == len(left)  # each of theirs has one of ours


# -- transformers and timm ---------------------------------------------------------------------------------------------


@pytest.mark.shows("P", "ctp")
@torch.no_grad()
def test_text_and_fusion_are_transformers_bert_with_cross_attention() -> None:
    method = shaken(small(keep="none")).eval()
    bert = method.towers.text.encoder.model
    config = BertConfig(**{**bert.config.to_dict(), "is_decoder": True, "add_cross_attention": True})
    whole = BertForMaskedLM(config).eval()
    whole.bert.load_state_dict(bert.state_dict(), strict=False)
    for index, layer in enumerate(whole.bert.encoder.layer):
        if index < 2:
            layer.is_decoder = False  # reads texts alone
            continue
        cross = method.towers.crosses[index - 2]
        for name in ("query", "key", "value"):
            getattr(layer.crossattention.self, name).load_state_dict(getattr(cross.part, name).state_dict())
        layer.crossattention.output.dense.load_state_dict(cross.part.out.state_dict())
        layer.crossattention.output.LayerNorm.load_state_dict(cross.norm.state_dict())
    head = whole.cls.predictions
    head.transform.dense.load_state_dict(method.word_head.transform[0].state_dict())
    head.transform.LayerNorm.load_state_dict(method.word_head.transform[2].state_dict())
    head.bias.copy_(method.word_head.bias)
    head.decoder.bias.copy_(method.word_head.bias)
    some = batch(method)
    image, text = method.encode_image(some), method.encode_text(some)
    allowed = some.text_mask[:, None, None, :].expand(-1, 1, some.text.shape[1], -1)
    added = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)  # no causal mask
    expected = whole(some.text, attention_mask=added, encoder_hidden_states=image.tokens, use_cache=False)
    real = some.text_mask
    torch.testing.assert_close(method.fill(image, text)[real], expected.logits[real], rtol=1e-4, atol=1e-4)
    lower = whole.bert(some.text, attention_mask=added, use_cache=False, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(text.tokens[real], lower[real], rtol=1e-4, atol=1e-5)


@pytest.mark.shows("P", "ctp")
@torch.no_grad()
def test_pictures_are_seen_by_timms_deit_with_clips_mean_and_deviation() -> None:
    method = small(keep="none", image="timm:deit_tiny_patch16_224", image_size=32).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = torch.tensor(crossed.CLIP_MEAN).view(3, 1, 1), torch.tensor(crossed.CLIP_STD).view(3, 1, 1)
    expected = method.towers.image.model.forward_features((pixels / 255 - mean) / std)
    torch.testing.assert_close(method.towers.see(pixels).tokens, expected, rtol=1e-4, atol=1e-5)


# -- the sheet's checks ------------------------------------------------------------------------------------------------


@pytest.mark.shows("F", "ctp")
def test_at_the_start_of_a_task_topology_costs_nothing_and_words_their_entropy() -> None:
    method = shaken(small())
    some = batch(method)
    with torch.no_grad():
        method.before_stage(LATER)
    torch.manual_seed(3)
    terms = method.loss(some, LATER)
    assert terms["tp"].item() == 0
    torch.manual_seed(3)
    masked = method.mask(some)
    said = method.outputs(some, masked).words.log_softmax(1)
    torch.testing.assert_close(terms["mlmd"], -(said.exp() * said).sum(1).mean())
    with torch.no_grad():
        method.towers.image_head.weight.mul_(torch.linspace(-1, 1, 16))
    assert method.loss(some, LATER)["tp"] > 0.01


@pytest.mark.shows("F", "ctp")
def test_with_an_empty_queue_and_fresh_copies_both_contrasts_are_one() -> None:
    method = shaken(small(mlm=0.0))
    some = batch(method)
    method.begin_anew()
    terms = method.loss(some, Step())
    torch.testing.assert_close(terms["mc"], terms["ita"])
    assert method.loss(some, Step())["mc"] > terms["mc"]  # by now the queue holds the batch
    assert int(method.images.pushed) == 8
    method.eval()
    method.loss(some, Step())
    assert int(method.images.pushed) == 8


@pytest.mark.shows("F", "ctp")
def test_a_queue_of_the_released_code_begins_full_and_wants_whole_batches() -> None:
    method = small(official=True)
    torch.testing.assert_close(method.images.filled.norm(dim=1), torch.ones(8))
    method.loss(batch(method), Step())
    with pytest.raises(ValueError, match="queue=8 is no multiple of the batch of 3"):
        method.loss(batch(method, 3), Step())
    method = small(queue=0)
    assert method.images is None
    method.loss(batch(method, 3), Step())


@pytest.mark.shows("F", "ctp")
@torch.no_grad()
def test_texts_are_read_by_the_lower_half_and_fused_by_the_upper() -> None:
    method = small(keep="none").eval()
    some = batch(method)
    image, text = method.encode_image(some), method.encode_text(some)
    before = method.embed_text(some).pooled, method.fill(image, text)
    for layer in method.towers.text.fusion_layers:
        shaken(layer)
    assert torch.equal(method.embed_text(some).pooled, before[0])
    assert not torch.allclose(method.fill(image, text), before[1], atol=1e-2)


@pytest.mark.shows("F", "ctp")
def test_neither_padding_nor_the_first_token_is_masked() -> None:
    method = small(keep="none", mask_words=1.0)
    some = batch(method)
    masked = method.mask(some)
    expected = some.text_mask.clone()
    expected[:, 0] = False
    assert torch.equal(masked.chosen, expected)  # the end of a text is
    assert torch.equal(masked.labels == -100, ~expected)
    many = Batch({name: value.repeat(500, 1) for name, value in some.items() if name != "image"})
    words = method.mask(many).inputs[expected.repeat(500, 1)]
    assert words.max() == method.mask_id
    assert words[words != method.mask_id].max() > 0.99 * method.tokenizer.vocab_size


@pytest.mark.shows("F", "ctp")
def test_copies_are_without_dropout_and_gradients_and_the_momentum_model_follows_both() -> None:
    method = small(dropout=0.5).train()
    assert not any(part.training for copy in (method.momentum, method.past) for part in copy.modules())
    assert small(official=True).train().momentum.towers.training
    assert not any(value.requires_grad for copy in (method.momentum, method.past) for value in copy.parameters())
    live, slow = method.towers.image_head.bias, method.momentum.towers.image_head.bias
    with torch.no_grad():
        live.fill_(10)
        slow.fill_(1)
        method.past.towers.image_head.bias.fill_(100)
        method.after_step(Step())
        torch.testing.assert_close(slow, torch.full_like(slow, 0.995 + 0.05))
        method.after_step(LATER)
        torch.testing.assert_close(slow, 0.9 * torch.full_like(slow, 1.045) + 0.5 + 5)
        method.before_stage(LATER)
    for name, value in method.past.state_dict().items():
        assert torch.equal(value, method.state_dict()[name])
        assert torch.equal(method.momentum.state_dict()[name], value)


@pytest.mark.shows("F", "ctp")
def test_what_is_left_out_leaves_its_term_out() -> None:
    words, ctp = {"ita", "mlm"}, {"ita", "mlm", "mc", "mlmd"}
    cases = [
        ({}, ctp, ctp | {"tp"}),
        ({"keep": "none"}, words, words),
        ({"keep": "lwf"}, words, words | {"lwf", "mlmd"}),
        ({"keep": "ewc"}, words, words | {"ewc"}),
        ({"mlm": 0.0}, {"ita", "mc"}, {"ita", "mc", "tp"}),
        ({"mlm": 0.0, "keep": "lwf"}, {"ita"}, {"ita", "lwf"}),
        ({"topology": 0.0}, ctp, ctp),
        ({"contrast": 0.0}, ctp - {"mc"}, ctp - {"mc"} | {"tp"}),
        ({"distill": 0.0}, ctp - {"mlmd"}, ctp - {"mlmd"} | {"tp"}),
    ]
    for options, first, later in cases:
        method = small(**options)
        some = batch(method)
        assert set(method.loss(some, Step())) == first, options
        assert set(method.loss(some, LATER)) == later, options


def test_same_modal_topology_may_be_left_out() -> None:
    found = []
    for same_modal in (True, False):
        method = shaken(small(mlm=0.0, same_modal=same_modal))
        with torch.no_grad():
            method.before_stage(LATER)
            method.towers.image_head.weight.mul_(torch.linspace(-1, 1, 16))
        some = batch(method)
        found.append(method.loss(some, LATER)["tp"])
    now, before = (model.outputs(some, None).joint for model in (method, method.past))
    cross = [divergence(*(v @ w.T / 0.07 for v, w in (now, before)))]
    cross += [divergence(*(w @ v.T / 0.07 for v, w in (now, before)))]
    torch.testing.assert_close(found[1], sum(cross) / 2)
    assert found[0] > found[1]


def test_without_masked_words_there_is_nothing_that_fuses() -> None:
    method = small(mlm=0.0)
    assert method.word_head is None
    assert len(method.towers.text.encoder.layers) == 2
    assert not len(method.towers.crosses)
    assert {"FillsWords", "EmbedsPairs", "MatchesPairs"} <= method.lacks.keys()
    assert "FillsWords" not in small().lacks


def test_a_model_that_keeps_nothing_is_the_contrast_of_two_towers() -> None:
    method = small(keep="none", mlm=0.0)
    some = batch(method)
    image, text = method.embed_image(some).pooled, method.embed_text(some).pooled
    torch.testing.assert_close(method.loss(some, Step())["ita"], info_nce(image, text, torch.tensor(1 / 0.07)))
    assert not [name for name in method.state_dict() if name.startswith(CTP.passing)]


def test_elastic_weights_are_held_where_the_first_task_needs_them() -> None:
    method = small(keep="ewc", mlm=0.0, ewc=2.0)
    some = batch(method)
    method.loss(some, Step()).total.backward()
    gradient = method.towers.image_head.bias.grad.clone()
    with torch.no_grad():
        method.after_step(Step(progress=0.5))
        method.before_stage(LATER)
        assert method.loss(some, LATER)["ewc"].item() == 0
        method.towers.image_head.bias += 3
    expected = 2.0 * (gradient.square() * 9).sum() / 2
    torch.testing.assert_close(method.loss(some, LATER)["ewc"].detach(), expected)


def test_what_is_saved_is_the_model_alone(tmp_path) -> None:
    method = small()
    method.loss(batch(method), Step())
    method.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert not [name for name in saved if name.startswith(CTP.passing)]
    loaded = CTP.from_pretrained(tmp_path)
    assert torch.equal(loaded.momentum.towers.image_head.weight, method.towers.image_head.weight)
    assert len(loaded.images.filled) == 0


# -- training and evaluation -------------------------------------------------------------------------------------------


def stream() -> Mixture:
    parts = [Subset(world_of("ctp", 40, pixels=32, backgrounds=backgrounds), range(40)) for backgrounds in (1, 2)]
    for part, name in zip(parts, ("day", "night"), strict=True):
        part.name = name
    return Mixture([(part, 1.0) for part in parts])


def stops_after(method: CTP, calls: int) -> CTP:
    loss, seen = method.loss, []

    def interrupted(some, step):
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return loss(some, step)

    method.loss = interrupted
    return method


@pytest.mark.shows("T", "ctp")
@pytest.mark.parametrize("keep", ["ctp", pytest.param("ewc", marks=pytest.mark.slow)])
def test_a_stream_of_two_tasks_that_breaks_off_ends_as_an_unbroken_one(tmp_path, keep) -> None:
    recipe = Recipe(
        samples=64, batch=8, lr=1e-3, workers=0, evaluations=0, checkpoints=4, precision="fp32", stream=True
    )  # fmt: skip
    unbroken = method_helpers.small("ctp", keep=keep)
    train(unbroken, stream(), tmp_path / "unbroken", recipe, logs=())
    assert not torch.equal(
        (unbroken.elastic or unbroken).past.towers.image_head.weight, unbroken.towers.image_head.weight
    )
    with pytest.raises(KeyboardInterrupt):
        train(stops_after(method_helpers.small("ctp", keep=keep), 6), stream(), tmp_path / "broken", recipe, logs=())
    resumed = method_helpers.small("ctp", keep=keep)
    train(resumed, stream(), tmp_path / "broken", recipe, logs=())
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.shows("E", "ctp")
def test_captions_are_found_and_words_guessed_after_learning() -> None:
    options = {"keep": "none", "text_layers": 2, "dropout": 0.0}
    found = figures("ctp", ["retrieval", "masked_words"], **options)
    assert found["retrieval text_to_image_r1"].value > 2 * found["retrieval text_to_image_r1"].chance
    assert found["masked_words colour"].value > found["masked_words colour"].chance
