"""What every method gets for nothing: one file of tests over all of them.

A method that is new in `methods.IDS` is tested here from then on, on a small configuration of itself.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_helpers import (
    DRAWS,
    batch_of,
    first_stage,
    learn,
    loss_of,
    mean_loss,
    public_folders,
    samples_of,
    small,
    trains,
    world_of,
)
from PIL import Image

from diptych import methods
from diptych.batch import Batch, Embed, Sample
from diptych.card import EmbedsImages, EmbedsTexts, EncodesPairs, MatchesPairs, Method, ScoresPairs
from diptych.data.dataset import Subset
from diptych.data.loader import Loader, collate
from diptych.recipe import Recipe
from diptych.training import train
from diptych.training.grad_cache import InParts
from diptych.training.loop import fields_of

IN_PARTS = [id for id in methods.IDS if methods.card(id).family == "contrastive"]


@pytest.fixture(params=methods.IDS)
def id(request) -> str:
    return request.param


def outputs(method, batch: Batch) -> list[torch.Tensor]:
    """What a method computes, by the protocols that it has."""
    method.eval()
    found = []
    with torch.no_grad():
        if isinstance(method, EmbedsImages) and isinstance(method, EmbedsTexts):
            image, text = method.embed_image(batch), method.embed_text(batch)
            found += [value for value in (*image, *text) if value is not None]
            if isinstance(method, ScoresPairs):
                found += method.similarity(image, text)
        if isinstance(method, EncodesPairs):
            image, text = method.encode_image(batch), method.encode_text(batch)
            found += [*image, *text]
            if isinstance(method, MatchesPairs) and "MatchesPairs" not in getattr(method, "lacks", {}):
                found.append(method.match(image, text))
        found += [value for index in range(DRAWS) for value in loss_of(method, batch, index).values()]
    return [value for value in found if value is not None]


def test_is_a_method(id: str) -> None:
    method = small(id)
    assert isinstance(method, Method)
    assert sum(stage.share for stage in method.stages(Recipe())) == pytest.approx(1)


def test_views_repeat_with_their_seed(id: str) -> None:
    method = small(id, crop=(0.3, 1.0))
    (sample,) = samples_of(method, world_of(id), 1)
    views = (method.views(sample, np.random.default_rng(seed)) for seed in (5, 5, 6, 7, 8, 9))
    one, same, *others = ({name: torch.as_tensor(value) for name, value in view.items()} for view in views)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(
        one[name].shape != other[name].shape or (one[name] != other[name]).any() for other in others for name in one
    )
    still, again = (method.views(sample, None) for _ in range(2))
    assert all(torch.equal(torch.as_tensor(still[name]), torch.as_tensor(again[name])) for name in still)


@pytest.mark.shows("T")
def test_overfits_eight_samples(id: str) -> None:
    method = small(id)
    batch = batch_of(method, world_of(id, 8))
    goal = 0.1 * mean_loss(method, batch)
    learn(method, batch, goal=goal)
    assert mean_loss(method, batch) < goal


@pytest.mark.shows("T")
def test_gradient_reaches_exactly_what_its_stage_trains(id: str) -> None:
    """With one of its parts frozen; over some steps, as not every step may use every part.

    After some learning, as what begins at zero (a gate, a map) has nothing to hand on yet.
    """
    part = next(name for name, child in small(id).named_children() if any(True for _ in child.parameters()))
    method = small(id, freeze=(rf"^{part}\.",))
    stage = first_stage(method)
    expected = {name: trains(stage, name) for name, _ in method.named_parameters()}
    assert len(set(expected.values())) == 2
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(expected[name])
    batch = batch_of(method, world_of(id, 8))
    learn(method, batch, 2)
    method.zero_grad()
    for index in range(4 * DRAWS):
        loss_of(method, batch, index).total.backward()
    for name, parameter in method.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == expected[name], name


@pytest.mark.parametrize("options", [{}, {"tile": 3}, {"keep": 0.5}])
@pytest.mark.parametrize("id", IN_PARTS)
def test_features_in_parts_give_the_gradient_of_the_whole_batch(id: str, options) -> None:
    method = small(id, **options).double()  # in single precision large gradients that cancel round differently
    batch = batch_of(method, world_of(id, 8))
    found = []
    for embed in (Embed(), InParts(3)):
        method.zero_grad()
        total = loss_of(method, batch, embed=embed).total
        total.backward()
        found.append({"loss": total.detach(), **{name: value.grad for name, value in method.named_parameters()}})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, msg=name)


def test_save_and_load_give_the_same_outputs(id: str, tmp_path) -> None:
    method = small(id)
    batch = batch_of(method, world_of(id, 8))
    method.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}
    loaded = methods.method_class(id).from_pretrained(tmp_path)
    assert loaded.config == method.config
    for mine, theirs in zip(outputs(method, batch), outputs(loaded, batch), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.shows("T")
def test_stop_and_resume_give_the_same_losses(id: str, tmp_path) -> None:
    recipe = Recipe(samples=96, batch=16, lr=1e-3, workers=0, evaluations=0, checkpoints=3, ema=0.9, precision="fp32")
    data = Subset(world_of(id, 40), range(40))
    unbroken = small(id)
    train(unbroken, data, tmp_path / "unbroken", recipe, logs=())
    with pytest.raises(KeyboardInterrupt):
        train(_stops_after(small(id), calls=4), data, tmp_path / "broken", recipe, logs=())
    resumed = small(id)
    train(resumed, data, tmp_path / "broken", recipe, logs=())
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def _stops_after(method, calls: int):
    """The same method, whose loss is interrupted at the given call."""
    loss, seen = method.loss, []

    def interrupted(batch, step):
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return loss(batch, step)

    method.loss = interrupted
    return method


def test_reads_only_what_it_needs_through_the_loader(id: str) -> None:
    method, data = small(id), world_of(id, 20)
    loader = Loader(data, method.views, fields_of(method, first_stage(method), data), batch=8, seed=0, workers=0)
    batch = next(iter(loader.batches()))
    assert batch.size == 8
    assert np.isfinite(loss_of(method, batch).total.item())


def odd(sample: Sample) -> list[Sample]:
    """The same sample with fields that are allowed and that nobody expects."""
    picture = Image.new("RGB", (1, 500))
    regions = {name: value for name, value in sample.items() if name.startswith("region")}
    changes = [
        *({"text": text, "texts": [text]} for text in ("", "x" * 100_000, "<end> [MASK] </s> \0 \u202e")),
        {"image": picture, "video": [picture]},
        {name: value[:0] for name, value in regions.items()},
        {name: np.concatenate([value] * 100) for name, value in regions.items()},
    ]
    return [Sample(sample.key, {**sample, **{k: v for k, v in change.items() if k in sample}}) for change in changes]


def test_odd_samples_have_a_finite_loss_and_gradient(id: str) -> None:
    method = small(id)
    (sample,) = samples_of(method, world_of(id), 1)
    batch = collate([method.views(each, None) for each in odd(sample)])
    for index in range(DRAWS):
        terms = loss_of(method, batch, index)
        assert all(value.isfinite() for value in terms.values()), terms
        terms.total.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in method.parameters())


PAPER_PARAMETERS = {
    # CLIP ViT-L/14-336, Vicuna 7B, LLaVA's projector, updates of rank 128 of q and v
    "pllava": 303_507_456 + 6_738_415_616 + 20_979_712 + 67_108_864,
    # CLIP ViT-B/32, its image tower once more, and s
    "clip2point": 151_277_313 + 87_849_216 + 1,
    "clip": 151_277_313,  # ViT-B/32 of openai/CLIP and open_clip
    "siglip": 203_155_970,  # ViT-B-16-SigLIP of open_clip
    # CLIP's, with maps of 768 x 256 and 512 x 256 in place of 768 x 512 and 512 x 512
    "filip": 151_277_313 - (768 + 512) * 512 + (768 + 512) * 256,
    # DeiT-B/16, Chinese BERT-base without its pooler, cross-attention in six layers, two maps, the head of words; and
    # two copies of them all
    "ctp": 3 * (85_798_656 + 101_677_056 + 14_183_424 + 393_728 + 613_256),
    "uniter": 112_938_887 - 2048,  # UniterForPretraining, without the row of the mask's table that is kept at zero
    "lxmert": 228_051_752 - (768 * 1536 + 3 * 1536) - (1536 * 9500 + 9500),  # LXRTPretraining, without data to answer
    # AlproForPretrain, whose prompter has six layers and two heads that it never uses
    "alpro": 233_883_429 + 231_165_245 - 42_527_232 - 622_650 - 1_538,
    # Swin-B, RoBERTa-base without its pooler, cross-attention in six pairs, maps and poolers, tau, two heads
    "limber": 136_202_640 + 6_050_882_784 + 12_587_008,  # CLIP's RN50x16 without its attention pool, GPT-J, the map
    "fiber": 86_878_584 + 124_055_040 + 12_607_494 + 13_387_782 + 5_117_952 + 1 + 39_245_913 + 3_074,
    # ViT-g without its last norm, what is trained with Vicuna-7B (as the sheet counts it), Vicuna-7B
    "instructblip": 985_952_256 - 2_816 + 188_837_376 + 6_738_415_616,
    "coop": 102_007_137 + 1024 * 1024 + 16 * 512,  # CLIP's RN50, the map of pictures that changes nothing, the context
    "maple": 149_620_737 + 3_555_072,  # CLIP's ViT-B/16, and as many as the paper says
    # CLIP's ViT-L/14 at 336 pixels without its map, LLaVA 1.5's projector, Vicuna-7B twice: the model, its reference
    "prior": 303_507_456 + 20_979_712 + 2 * 6_738_415_616,
}


@pytest.mark.shows("R")
def test_paper_preset_builds_on_the_meta_device(id: str, tmp_path, monkeypatch) -> None:
    public_folders(tmp_path)
    monkeypatch.chdir(tmp_path)  # a folder that is there is taken ahead of the hub
    preset = methods.presets(id)["paper"]
    with torch.device("meta"):
        method = methods.build(id, preset.config, weights=False)
    count = sum(parameter.numel() for parameter in method.parameters())
    assert count == PAPER_PARAMETERS[id]
    assert replace(preset.recipe, seed=1).seed == 1
