"""PLLaVA against its sheet and against LLaVA in transformers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_helpers import language_folder, public_folders, trains, world_of
from PIL import Image
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from diptych import methods
from diptych.batch import Batch, Sample, Step
from diptych.data.loader import collate
from diptych.fusion.connectors import AdaptivePool, Chain, Projector
from diptych.methods.generative.pllava import Config, PLLaVA, TwoMeans, in_one
from diptych.recipe import Recipe
from diptych.views.video import segments

pytestmark = pytest.mark.shows("F", "pllava")
SMALL = Config(frames=4, pool=(4, 2, 2), image_width=16, image_layers=1, image_heads=2, width=32, layers=2, heads=2)


def small(**options) -> PLLaVA:
    torch.manual_seed(0)
    return PLLaVA(replace(SMALL, **options)).eval()


def clips(method, size: int = 2, names=("video", "texts")) -> Batch:
    data = world_of("pllava", size)
    return collate([method.views(data.read(index, names), None) for index in range(size)])


def updated(method: PLLaVA) -> PLLaVA:
    """The same method with low-rank updates that are not zero."""
    torch.manual_seed(1)
    for layer in method.updates:
        nn.init.normal_(layer.lora_B["default"].weight)
    return method


def judged(method: PLLaVA, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        image = method.encode_image(batch)
        return method.likelihood(image, ["what happens ?"] * len(image.tokens), ["a star enters"] * len(image.tokens))[
            0
        ]


# -- LLaVA ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A small LLaVA with random weights and an added word for pictures, its folder, and those of its two parts."""
    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    seen = CLIPVisionConfig(image_size=32, patch_size=8, **sizes)
    words = LlamaConfig(vocab_size=60, **{**sizes, "hidden_size": 32}, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = LlavaConfig(
        vision_config=seen,
        text_config=LlamaConfig(**{**words.to_dict(), "vocab_size": 64}),
        image_token_index=61,
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(folder / "llava")
    CLIPVisionModel(seen).save_pretrained(folder / "clip")
    language_folder(folder / "llama", words, [f"w{number}" for number in range(58)])
    return model, folder


def ours(folder, **options) -> PLLaVA:
    parts = {"image": f"hf:{folder}/clip", "language": f"hf:{folder}/llama#random", "start": f"hf:{folder}/llava"}
    frames = {"frames": 3, "pool": (3, 4, 4), "image_layer": -2}
    return PLLaVA(Config(**{**parts, **frames, **options})).eval()


@pytest.mark.shows("P", "pllava")
@pytest.mark.shows("L", "pllava")
@pytest.mark.parametrize("rank", [0, 4])
@torch.no_grad()
def test_pooling_that_changes_nothing_is_llava_on_all_frames(llava, rank) -> None:
    """Weights by `start`, from transformers' names; new low-rank updates are zero."""
    model, folder = llava
    method = ours(folder, lora_rank=rank)
    frames = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    words = torch.randint(3, 58, (2, 9))
    visual = torch.zeros(2, 4 + 48 + 5, dtype=torch.bool)
    visual[:, 4:52] = True
    ids = torch.cat([words[:, :4], torch.full((2, 48), 61), words[:, 4:]], 1)
    pixels = method.encoder.inner.pixels(frames.flatten(0, 1))
    expected = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
    tokens = method.connect(method.see(Batch({"video": frames})))
    logits = method.language.logits(method.language.hidden(method.splice(ids.masked_fill(visual, 0), visual, tokens)))
    torch.testing.assert_close(logits, expected[..., :60], rtol=1e-5, atol=1e-6)


def test_names_of_both_kinds_of_checkpoints(llava) -> None:
    model, folder = llava
    method = ours(folder, lora_rank=4, start="")
    own = method.state_dict()
    new = method.from_official(model.state_dict())
    old = {
        name.replace("model.language_model.", "language_model.model.")
        .replace("lm_head", "language_model.lm_head")
        .replace("model.vision_tower.", "vision_tower.vision_model.")
        .replace("model.multi_modal", "multi_modal"): value
        for name, value in model.state_dict().items()
    }
    assert "vision_tower.vision_model.post_layernorm.bias" in old
    assert "language_model.model.norm.weight" in old
    assert method.from_official({**old, "image_newline": torch.zeros(32)}).keys() == new.keys()
    plain = {name.replace(".base_layer", "") for name in own}
    assert set(new) == {name for name in plain if "lora_" not in name and not name.endswith((".mean", ".std"))}
    peft = {
        f"language_model.base_model.model.{name.removeprefix('language.model.')}": own[name]
        for name in own
        if "lora_" in name
    }
    assert set(method.from_official(peft)) == {name for name in own if "lora_" in name}


def test_parameters_are_those_of_llava_and_of_its_updates(tmp_path, monkeypatch) -> None:
    public_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = methods.presets("pllava")["paper"].config
    with torch.device("meta"):
        method = methods.build("pllava", config, weights=False)
    (stage,) = method.stages(Recipe())
    trained = {name: value.numel() for name, value in method.named_parameters() if trains(stage, name)}
    projector = sum(size for name, size in trained.items() if name.startswith("connector."))
    assert projector == 20_979_712
    assert sum(trained.values()) == projector + 67_108_864
    assert (method.connector.of, method.connector.tokens) == (16 * 576, 2304)
    assert method.updates[0].scaling["default"] == 0.25


# -- pooling ----------------------------------------------------------------------------------------------------------


def test_pooling_keeps_frames_apart_and_in_order() -> None:
    pool = AdaptivePool((16, 24, 24), (16, 12, 12))
    tokens = torch.randn(1, 16 * 576, 3)
    blocks = tokens.view(1, 16, 12, 2, 12, 2, 3).mean((3, 5)).reshape(1, 16 * 144, 3)
    torch.testing.assert_close(pool(tokens), blocks)
    order = torch.randperm(16)
    shuffled = pool(tokens.view(1, 16, 576, 3)[:, order].reshape(1, -1, 3))
    assert torch.equal(shuffled, pool(tokens).view(1, 16, 144, 3)[:, order].reshape(1, -1, 3))
    assert (pool(tokens).norm(dim=-1).max() <= tokens.norm(dim=-1).max()).all()
    cells = tokens.norm(dim=-1).view(1, 16, 12, 2, 12, 2).mean((3, 5)).reshape(1, -1)
    assert (pool(tokens).norm(dim=-1) <= cells + 1e-6).all()


def test_frames_of_one_tone_are_not_changed_by_pooling() -> None:
    pooled, whole = small(), small(pool=(4, 4, 4))
    image = whole.encode_image(clips(whole))
    flat = image._replace(tokens=image.tokens[:, :1].expand_as(image.tokens))
    torch.testing.assert_close(pooled.connect(flat), whole.connect(flat)[:, :16])
    assert not torch.allclose(pooled.connect(image), whole.connect(image)[:, :16])


def test_pooling_before_a_projector_differs_unless_it_is_linear() -> None:
    for depth, same in ((1, True), (2, False)):
        torch.manual_seed(0)
        behind = Chain(Projector(8, 6, 16, depth), AdaptivePool((1, 4, 4), (1, 2, 2)))
        ahead = Chain(AdaptivePool((1, 4, 4), (1, 2, 2)), Projector(8, 6, 4, depth))
        ahead.parts[1].load_state_dict(behind.parts[0].state_dict())
        tokens = 3 * torch.randn(2, 16, 8)
        assert torch.allclose(behind(tokens), ahead(tokens), atol=1e-5) == same


def test_one_token_a_frame_and_one_a_place() -> None:
    tokens = torch.arange(12.0).view(1, 12, 1)  # two frames of two rows and three columns
    found = TwoMeans((2, 2, 3))(tokens)
    assert found.flatten().tolist() == [2.5, 8.5, 3, 4, 5, 6, 7, 8]
    assert small(way="chatgpt").connector.tokens == 4 + 16


def test_all_frames_in_one_picture() -> None:
    frames = torch.arange(1, 4, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    found = in_one(frames, 5)
    assert found[0].tolist() == [[1, 1, 2, 2, 0], [1, 1, 2, 2, 0], [3, 3, 0, 0, 0], [3, 3, 0, 0, 0], [0] * 5]
    method = small(way="grid")
    batch = clips(method)
    assert batch.image.shape == (2, 3, 32, 32)
    assert batch.visual.sum(1).tolist() == [16, 16]
    assert judged(method, batch).isfinite().all()


def test_each_picture_is_a_clip_of_its_own_equal_frames() -> None:
    method = small()
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    one = method.encode_image(Batch({"image": pictures}))
    clip = method.encode_image(Batch({"video": pictures[:, None].expand(-1, 4, -1, -1, -1)}))
    torch.testing.assert_close(one.tokens, clip.tokens)
    assert torch.equal(one.mask, clip.mask)
    several = method.encode_image(Batch({"images": pictures.view(1, 3, 3, 32, 32)}))
    torch.testing.assert_close(several.tokens, clip.tokens.flatten(0, 1)[None])
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    among_clips = method.views(Sample("a", {"image": noise, "text": "a star"}, lacks=("video",)), None)
    assert torch.equal(among_clips["video"], among_clips["video"][:1].expand(4, -1, -1, -1))
    blind = method.views(Sample("a", {"text": "a star"}, lacks=("video",)), None)
    assert not blind["visual"].any()


def test_the_official_frames() -> None:
    assert segments(37, 16).tolist()[:5] == [1, 3, 5, 8, 10]
    assert segments(16, 16).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13, 14]
    data = world_of("pllava", 1, frames=16)
    sample = data.read(0, ("video", "texts"))
    method = small(sampler="segments", frames=16, pool=(16, 2, 2))
    usual = small(frames=16, pool=(16, 2, 2))
    official, plain = method.views(sample, None)["video"], usual.views(sample, None)["video"]
    assert torch.equal(official[8], official[9])
    assert torch.equal(official[9:], plain[8:15])


# -- low-rank updates -------------------------------------------------------------------------------------------------


def test_the_weight_of_updates_in_use() -> None:
    batch = clips(small())
    base, trained = judged(small(), batch), judged(updated(small(lora_rank=4)), batch)
    assert not torch.allclose(base, trained)
    torch.testing.assert_close(judged(updated(small(lora_rank=4, alpha_test=0.0)), batch), base)
    torch.testing.assert_close(judged(updated(small(lora_rank=4, alpha_test=32.0)), batch), trained)
    between = judged(updated(small(lora_rank=4, alpha_test=4.0)), batch)
    assert not torch.allclose(between, base)
    assert not torch.allclose(between, trained)


def test_one_layer_is_affine_in_the_weight_and_training_keeps_its_own() -> None:
    x = torch.randn(2, 32)
    found = []
    for alpha in (0.0, 8.0, 16.0):
        layer = updated(small(lora_rank=4, alpha_test=alpha, lora_dropout=0.0)).updates[0]
        found.append(layer(x))
        layer.train()
        trained = layer(x)
    torch.testing.assert_close(found[1], (found[0] + found[2]) / 2)
    torch.testing.assert_close(trained - found[0], 2 * (found[2] - found[0]))


def test_updates_drop_their_inputs_in_training_alone() -> None:
    layer = updated(small(lora_rank=4, lora_dropout=0.5)).updates[0]
    x = torch.randn(2, 32)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_the_largest_norm_of_visual_tokens_is_watched() -> None:
    method = small()
    batch = clips(method)
    watched = method.loss(batch, Step()).watch["largest_norm"]
    norms = method.connect(method.see(batch)).norm(dim=-1)
    assert watched == pytest.approx(float(norms.max() / norms.mean()))
    assert "largest_norm" not in method.loss(clips(method, names=("texts",)), Step()).watch
