"""CLIP2Point: the checks of its sheet, its three stages, and what its released code computes."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_helpers import batch_of, first_stage, learn, loss_of, samples_of, small, trains, world_of
from torch import Tensor, nn
from torch.nn import functional as F

from diptych import methods
from diptych.batch import Batch, Sample, Step
from diptych.card import Grounds
from diptych.data.loader import collate
from diptych.encoders.base import CLIP_MEAN, CLIP_STD, ImageEncoder
from diptych.encoders.rasterise import NOTHING, VIEWS, cameras, depth_maps, shades
from diptych.evaluation.tasks import evaluate
from diptych.models.depth_adapter import SimplifiedAdapter
from diptych.recipe import Recipe
from diptych.training import train
from diptych.views import points as cloud

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "clip2point.npz")
SIZE, RADIUS = 20, 0.12


def theirs(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name])


def pretraining(**options):
    """A method whose first stage is pre-training, with image features that tell pictures apart, and a batch."""
    method = small("clip2point", tasks=("clip", "pretrain"), **options)
    learn(method, batch_of(method, world_of("clip2point", 8)), 10)
    method.eval()
    stage = method.stages(Recipe())[1]
    return method, batch_of(method, world_of("clip2point", 8), stage=stage), stage


# -- the sheet's checks ------------------------------------------------------------------------------------------------


@pytest.mark.shows("F", "clip2point")
def test_without_wobble_both_depth_maps_are_the_same() -> None:
    method = small("clip2point", tasks=("pretrain",))
    (sample,) = samples_of(method, world_of("clip2point"), 1)
    still = method.views(sample, None)
    assert still["distance"].tolist() == [1.0, 1.0]
    near, far, _ = method.pairs(collate([still, still]))
    assert torch.equal(near, far)
    moved = [method.views(sample, np.random.default_rng(seed))["distance"] for seed in range(50)]
    assert all(((pair >= 0.9) & (pair <= 1.1)).all() for pair in moved)
    assert torch.stack(moved).std() == pytest.approx(0.2 / math.sqrt(12), rel=0.2)


@pytest.mark.shows("F", "clip2point")
def test_loss_at_the_beginning_and_the_gradient_of_s() -> None:
    method, batch, stage = pretraining()
    terms = loss_of(method, batch, stage=stage)
    intra = terms["intra"].item()
    assert terms.total.item() == pytest.approx(terms["cross"].item() + intra + math.log(2), rel=1e-6)
    terms.total.backward()
    assert method.balance.grad.item() == pytest.approx(-2 * intra + 0.5, rel=1e-5)
    assert set(loss_of(small("clip2point", intra=False), batch, stage=stage)) == {"cross"}


@pytest.mark.shows("F", "clip2point")
def test_before_it_learns_the_depth_encoder_is_clip() -> None:
    """Zero-shot is CLIP on depth maps, whether or not the copy has been made."""
    method, batch, _ = pretraining()
    pictures = method.draw(batch.points, cameras(*VIEWS[6]), torch.ones(8, 6))
    plain = F.normalize(method.image_head(method.image.pooled(pictures.flatten(0, 1))).unflatten(0, (8, 6)), dim=-1)
    asked = Batch({"points": batch.points})
    before = method.embed_image(asked)
    assert torch.equal(before.tokens, plain)
    method.begin()
    after = method.embed_image(asked)
    assert torch.equal(after.tokens, plain)
    text = method.embed_text(method.tokenize(["a red ball", "a blue cube"]))
    summed = (plain @ text.pooled.T).sum(1)
    assert torch.equal(method.similarity(after, text)[0].argmax(1), summed.argmax(1))


@pytest.mark.shows("F", "clip2point")
def test_gradient_reaches_the_depth_encoder_and_s_alone() -> None:
    method, batch, stage = pretraining()
    method.zero_grad()
    before = {name: value.clone() for name, value in method.image.state_dict().items()}
    loss_of(method, batch, stage=stage).total.backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {name for name, _ in method.named_parameters() if trains(stage, name)}
    assert {name.split(".")[0] for name in reached} == {"depth", "depth_head", "balance"}
    torch.optim.SGD(method.parameters(), lr=0.1).step()
    assert all(torch.equal(value, before[name]) for name, value in method.image.state_dict().items())


@pytest.mark.shows("R", "clip2point")
def test_the_adapter_of_the_paper_has_its_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in SimplifiedAdapter(10, 512).parameters()) == 2_886_666
        own = {"image": "vit", "image_size": 32, "text": "transformer", "context": 16}
        method = methods.build("clip2point", replace(methods.presets("clip2point")["few_shot"].config, **own))
    stage = first_stage(method)
    assert sum(p.numel() for n, p in method.named_parameters() if trains(stage, n)) == 2 * 2_886_666


@pytest.mark.shows("F", "clip2point")
def test_the_order_of_views_matters_to_the_adapter() -> None:
    torch.manual_seed(0)
    adapter, features = SimplifiedAdapter(3, 4).eval(), torch.randn(2, 3, 4)
    assert not torch.allclose(adapter(features), adapter(features.flip(1)))


# -- what it learns ----------------------------------------------------------------------------------------------------


@pytest.mark.shows("T", "clip2point")
def test_pretraining_learns_a_batch_by_heart() -> None:
    method, batch, stage = pretraining()
    first = loss_of(method, batch, stage=stage)
    optimiser = torch.optim.AdamW([p for n, p in method.named_parameters() if trains(stage, n)], lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss_of(method, batch, stage=stage).total.backward()
        optimiser.step()
    assert loss_of(method, batch, stage=stage)["cross"] < 0.5 * first["cross"]


@pytest.mark.shows("T", "clip2point")
def test_few_shots_are_learned_by_the_adapters_alone() -> None:
    data = world_of("clip2point", 8, shapes=4)
    method = small("clip2point", tasks=("few_shot",), classnames=data.classes, dropout=0.0, logit_scale=20.0)
    batch = batch_of(method, data)
    stage, before = first_stage(method), {n: v.clone() for n, v in method.named_parameters()}
    optimiser = torch.optim.AdamW([p for n, p in method.named_parameters() if trains(stage, n)], lr=3e-3)
    first = loss_of(method, batch).total.item()
    for _ in range(40):
        optimiser.zero_grad()
        loss_of(method, batch).total.backward()
        optimiser.step()
    assert loss_of(method, batch).total.item() < 0.3 * first
    changed = {n.split(".")[0] for n, v in method.named_parameters() if not torch.equal(v, before[n])}
    assert changed == {"adapters"}
    method.config = replace(method.config, classnames=())
    with pytest.raises(ValueError, match="needs the names of classes"):
        loss_of(method, batch)


@pytest.mark.shows("E", "clip2point")
def test_clouds_are_classified_by_names() -> None:
    """By a method that has learned eight clouds in all three ways: by its views, and by its adapters."""
    data = world_of("clip2point", 8, shapes=4)
    for tasks in (("clip", "pretrain"), ("few_shot",)):
        found = {row.metric: row for row in evaluate(small("clip2point", tasks=tasks), data, ["zero_shot"])}
        assert found["top1"].n == 8
        assert found["top1"].chance == 1 / 4
    with_pictures = small("clip2point")
    assert torch.equal(
        with_pictures.embed_image(batch_of(with_pictures, data)).pooled,
        small("clip").embed_image(batch_of(with_pictures, data)).pooled,
    )


def test_a_run_goes_through_its_stages_and_the_copy_is_made_between_them(tmp_path) -> None:
    method = small("clip2point")
    recipe = Recipe(samples=32, batch=8, workers=0, evaluations=0, checkpoints=1, precision="fp32")
    train(method, world_of("clip2point", 16), tmp_path, recipe, logs=())
    assert method.begun
    assert method.balance.item() != 1.0
    moved = [not torch.equal(a, b) for a, b in zip(method.depth.parameters(), method.image.parameters(), strict=True)]
    assert all(moved)
    again = small("clip2point", tasks=("few_shot",), start=str(tmp_path), classnames=("a", "b"))
    assert again.begun
    assert all(torch.equal(v, again.depth.state_dict()[n]) for n, v in method.depth.state_dict().items())


def test_it_begins_with_a_run_of_clip(tmp_path) -> None:
    clip = small("clip")
    clip.save_pretrained(tmp_path)
    method = small("clip2point", tasks=("pretrain",), start=str(tmp_path))
    assert not method.begun
    assert all(torch.equal(v, method.image.state_dict()[n]) for n, v in clip.image.state_dict().items())
    batch = batch_of(method, world_of("clip2point", 8))
    loss_of(method, batch)
    assert all(torch.equal(v, method.depth.state_dict()[n]) for n, v in clip.image.state_dict().items())


def test_the_view_of_the_data_is_taken_or_that_of_the_options() -> None:
    method = small("clip2point", view=(0.0, 90.0), upright=True)
    points = np.eye(3, dtype=np.float32)
    own = method.view_points(Sample("a", {"points": points, "view": np.array([30, 20, 2], np.float32)}), None)
    assert torch.equal(own["camera"], cameras([20.0], [30.0])[0])
    assert own["distance"].tolist() == [2.0, 2.0]
    given = method.view_points(Sample("a", {"points": points}), None)
    assert torch.equal(given["camera"], cameras([90.0], [0.0])[0])
    places = given["points"].numpy()
    np.testing.assert_allclose(places[0], cloud.upright(cloud.unit(points))[0], atol=1e-6)


def test_views_are_no_places() -> None:
    assert isinstance(small("clip"), Grounds)
    assert not isinstance(small("clip2point"), Grounds)


def test_unknown_tasks_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'pretrain'"):
        small("clip2point", tasks=("pretrian",))
    with pytest.raises(ValueError, match="1 values for 2 tasks"):
        small("clip2point", task_shares=(1.0,)).stages(Recipe())


# -- the released code -------------------------------------------------------------------------------------------------


@pytest.mark.shows("P", "clip2point")
@pytest.mark.parametrize("count", [6, 10])
def test_cameras_of_pytorch3d(count: int) -> None:
    """Its columns are the axes to the left, up and forwards."""
    left, up, forward = theirs(f"rotations_{count}").unbind(-1)
    torch.testing.assert_close(cameras(*VIEWS[count]), torch.stack([-left, up, forward], dim=1))


@pytest.mark.shows("P", "clip2point")
def test_depth_maps_of_the_released_code() -> None:
    depth = depth_maps(theirs("points"), cameras(*VIEWS[10]), theirs("distance"), SIZE, RADIUS)
    assert torch.equal(depth == NOTHING, theirs("depth") == NOTHING)
    torch.testing.assert_close(depth, theirs("depth"))
    grey = (shades(depth) - CLIP_MEAN[0]) / CLIP_STD[0]
    torch.testing.assert_close(grey, theirs("pictures"), atol=1e-5, rtol=1e-5)


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of that name in the run that made the figures: drawn by its name, and so no part of the file."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    noise = np.abs(noise) if "var" in name else noise
    scale = 0.1 if len(shape) < 2 else 1 / np.sqrt(shape[-1])
    mean = 1.0 if name.endswith(("bn.weight", "4.weight", "running_var")) else 0.5 if "ratio" in name else 0.0
    return torch.from_numpy(np.asarray(mean + scale * noise, dtype=np.float32))


class Stub(ImageEncoder):
    """One linear map of all pixels, as in the run that made the figures."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.width = 512
        self.set_pixels(SIZE, CLIP_MEAN, CLIP_STD)
        self.map = nn.Linear(3 * SIZE * SIZE, 512)
        with torch.no_grad():
            self.map.weight.copy_(weight(f"{name}.map.weight", (512, 3 * SIZE * SIZE)))
            self.map.bias.copy_(weight(f"{name}.map.bias", (512,)))

    def pooled(self, image: Tensor) -> Tensor:
        return self.map(self.pixels(image).flatten(1))


def stubbed(depth: str, image: str, **options):
    config = {"image_size": SIZE, "patch": 10, "image_width": 8, "image_layers": 1, "text_width": 8, "text_layers": 1}
    names = {"radius": RADIUS, "views": 10, "embed": 512, **options}
    method = methods.build("clip2point", {**config, **names})
    method.depth, method.image = Stub(depth), Stub(image)
    method.depth_head = method.image_head = nn.Identity()
    method.begun.fill_(True)
    return method.eval()


@pytest.mark.shows("P", "clip2point")
def test_losses_of_the_released_code() -> None:
    method = stubbed("point_model", "image_model")
    with torch.no_grad():
        method.balance.fill_(1.3)
    views = cameras(theirs("elevation"), theirs("azimuth"))
    batch = {"points": theirs("points"), "image": theirs("image"), "camera": views, "distance": theirs("distances")}
    terms = method.pretrain(Batch(batch), Step())
    found = torch.stack([terms.total, terms["cross"], terms["intra"] * 1.3**2]).double()
    torch.testing.assert_close(found, theirs("loss"), atol=1e-5, rtol=1e-5)
    terms.total.backward()
    torch.testing.assert_close(method.balance.grad, theirs("grad_s"), atol=1e-5, rtol=1e-5)
    gradient = method.depth.map.weight.grad
    torch.testing.assert_close(gradient.norm(), theirs("grad_norm"), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(gradient[:4, ::97], theirs("grad_some"), atol=1e-6, rtol=1e-3)


@pytest.mark.shows("P", "clip2point")
@pytest.mark.shows("L", "clip2point")
def test_adapters_of_the_released_code_and_the_names_of_its_weights() -> None:
    from diptych.models.official.clip2point import from_official

    shapes = [tuple(int(size) for size in shape.split(",") if size) for shape in REFERENCE["shapes"].tolist()]
    named = zip(REFERENCE["names"].tolist(), shapes, strict=True)
    state = {name: weight(name, shape) for name, shape in named if "num_batches" not in name}
    method = stubbed("pre_model", "ori_model", tasks=("few_shot",), classnames=("a", "b"))
    found = from_official(state)
    adapters = {name.removeprefix("adapters."): value for name, value in found.items() if name.startswith("adapters.")}
    missing, unexpected = method.adapters.load_state_dict(adapters, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    turned = torch.from_numpy(np.stack([cloud.upright(one) for one in REFERENCE["points"]]))
    with torch.no_grad():
        torch.testing.assert_close(
            method.embed_image(Batch({"points": turned})).pooled, theirs("adapted"), atol=1e-5, rtol=1e-4
        )


BLOCK = [
    *("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias"),
    *("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias"),
    *("mlp.c_proj.weight", "mlp.c_proj.bias"),
]
OPENAI = [
    *("class_embedding", "positional_embedding", "conv1.weight", "proj", "ln_pre.weight", "ln_pre.bias"),
    *("ln_post.weight", "ln_post.bias"),
    *(f"transformer.resblocks.{index}.{name}" for index in range(2) for name in BLOCK),
]
"""Names of OpenAI's vision transformer of two layers."""


@pytest.mark.shows("L", "clip2point")
def test_a_released_checkpoint_is_taken_over_whole(tmp_path) -> None:
    """Each of its tensors finds its place in an encoder, which then computes what OpenAI's layout does."""
    from diptych.encoders.clip_form import clip_form

    options = {"image_layers": 2, "image_width": 32, "tasks": ("pretrain",), "embed": 16}
    giver = small("clip2point", **options)
    with torch.no_grad():
        for value in giver.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    state = {"module.weights": torch.tensor(2.0)}
    for theirs_, tower, head in (
        ("point_model", giver.depth, giver.depth_head),
        ("image_model", giver.image, giver.image_head),
    ):
        weights = {**clip_form(tower).weights, "proj": head.weight.detach().T}
        assert set(weights) == set(OPENAI)
        state |= {f"module.{theirs_}.{name}": value for name, value in weights.items()}
    torch.save(state, tmp_path / "best_val.pth")
    taker = small("clip2point", **options, start=str(tmp_path / "best_val.pth"))
    assert taker.begun
    assert taker.balance.item() == 2.0
    points = batch_of(giver, world_of("clip2point", 8)).points
    giver.begun.fill_(True)
    assert torch.equal(*(m.embed_image(Batch({"points": points})).tokens for m in (giver, taker)))
