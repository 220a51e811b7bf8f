import math

import numpy as np
import pytest
import torch
from PIL import Image

from diptych import methods
from diptych.batch import Batch, Sample
from diptych.models.pretrained import read_description
from diptych.recipe import Recipe

SIZES = {
    "image_size": 32,
    "image_width": 32,
    "image_layers": 1,
    "image_heads": 2,
    "text_width": 32,
    "text_layers": 1,
    "text_heads": 2,
}


def clip(**options):
    torch.manual_seed(0)
    return methods.build("clip", {**SIZES, "embed": 16, **options})


def sample() -> Sample:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    return Sample("k", {"image": Image.fromarray(pixels), "texts": ["one star", "two rings"]})


def test_evaluation_sees_the_whole_picture_and_the_first_caption() -> None:
    method = clip()
    views = method.views(sample(), None)
    assert views["image"].dtype == torch.uint8
    assert views["image"].shape == (3, 32, 32)
    assert torch.equal(views["text"], method.tokenize(["one star"]).text[0])


def test_training_sees_crops_and_any_caption() -> None:
    method = clip()
    seen = [method.views(sample(), np.random.default_rng(seed)) for seed in range(12)]
    assert len({view["image"].numpy().tobytes() for view in seen}) > 6
    assert {tuple(view["text"].tolist()) for view in seen} == {
        tuple(method.tokenize([text]).text[0].tolist()) for text in sample().texts
    }


def test_a_full_crop_takes_the_picture_as_it_is() -> None:
    method = clip(crop=(1.0, 1.0))
    still = method.views(sample(), None)["image"]
    assert torch.equal(method.views(sample(), np.random.default_rng(3))["image"], still)


@pytest.mark.parametrize("options", [{}, {"pool": "mean"}, {"freeze": ("^(image|text)\\.",), "remember": 1}])
def test_pooled_vectors_alone_are_those_of_the_features(options: dict) -> None:
    """Trained towers compute less for them; means of tokens and remembered features take the whole."""
    method = clip(**options)
    pictures = torch.stack([method.views(sample(), np.random.default_rng(seed))["image"] for seed in range(8)])
    batch = Batch({"image": pictures, **method.tokenize(["one star", "two rings", "three big moons"] * 2 + ["a", "b"])})
    close = {"atol": 1e-6, "rtol": 1e-5}
    image, text = method.pooled(batch)
    torch.testing.assert_close(image, method.embed_image(batch).pooled, **close)
    torch.testing.assert_close(text, method.embed_text(batch).pooled, **close)
    remembered = method.text_memory.kept
    assert (remembered is not None and len(remembered) == 5) == ("remember" in options)


@pytest.mark.shows("F", "clip")
def test_temperature_starts_at_tau_and_stays_above_its_floor() -> None:
    method = clip(tau=0.2, min_tau=0.05)
    assert 1 / method.scale.item() == pytest.approx(0.2)
    method.log_scale.data.fill_(math.log(1000))
    assert 1 / method.scale.item() == pytest.approx(0.05)


def test_a_frozen_tower_stays_in_evaluation_mode() -> None:
    method = clip(freeze=(r"^image\.",))
    assert not any(value.requires_grad for value in method.image.parameters())
    assert method.image_head.weight.requires_grad
    method.train()
    assert method.training
    assert not method.image.training
    assert method.text.training
    assert not method.eval().text.training


def test_towers_have_their_own_learning_rate() -> None:
    assert clip().stages(Recipe())[0].lr == ()
    stage = clip(tower_lr=0.1, freeze=(r"^text\.",)).stages(Recipe())[0]
    assert stage.lr == ((r"^(image|text)\.", 0.1),)
    assert stage.freeze == (r"^text\.",)


def test_without_a_joint_width_the_towers_own_is_used() -> None:
    method = clip(embed=0)
    assert isinstance(method.image_head, torch.nn.Identity)
    assert method.embed_text(method.tokenize(["a"])).pooled.shape == (1, 32)


def test_saved_folder_says_what_it_is(tmp_path) -> None:
    clip().save_pretrained(tmp_path)
    description = read_description(tmp_path)
    assert description["method"] == "clip"
    assert description["config"]["image_size"] == 32
    with pytest.raises(ValueError, match="holds the method 'clip', not 'filip'"):
        methods.method_class("filip").from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no saved method"):
        read_description(tmp_path / "nothing")


def test_lora_trains_low_rank_updates_and_the_heads_only(tmp_path) -> None:
    method = clip(lora=(r"image.*attention\.qkv", r"text.*mlp\.expand"), lora_rank=2)
    trains = {name for name, value in method.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in trains if "lora" not in name} == {"log_scale", "image_head", "text_head"}
    assert sum("lora_A" in name for name in trains) == 2  # one layer a tower
    tokens = method.tokenize(["a star"])
    torch.testing.assert_close(
        method.embed_text(tokens).pooled, clip().embed_text(tokens).pooled
    )  # nothing learned yet
    for value in method.parameters():
        if value.requires_grad:
            value.data += 0.1
    method.save_pretrained(tmp_path)
    loaded = methods.method_class("clip").from_pretrained(tmp_path)
    assert torch.equal(loaded.embed_text(tokens).pooled, method.embed_text(tokens).pooled)


def test_learning_rates_fall_layer_by_layer() -> None:
    method = clip(image_layers=2, layer_decay=0.5, tower_lr=0.1)
    lr = dict(method.stages(Recipe())[0].lr)
    assert lr[r"^image\.blocks\.1\."] == pytest.approx(0.1)
    assert lr[r"^image\.blocks\.0\."] == pytest.approx(0.05)
    assert lr[r"^image\.class_token$"] == pytest.approx(0.025)
    assert list(lr)[-1] == r"^(image|text)\."
