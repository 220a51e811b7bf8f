"""MaPLe against its sheet: plain CLIP in the limits, what stands where in both towers, what learns."""

import pytest
import torch
from method_helpers import clip_folder, figures, loss_of
from torch import nn
from torch.nn import functional as F

from diptych import methods
from diptych.batch import Batch
from diptych.encoders.prompts import by_layer
from diptych.methods.adaptation.maple import PRESETS, Config, MaPLe
from diptych.recipe import Recipe
from diptych.training.optimiser import trainable

NAMES = ("dog", "traffic light", "a red kite", "sun")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return folder, clip_folder(folder)


@pytest.fixture
def build(theirs):
    """A MaPLe on that CLIP of three layers, with some options."""
    tower = f"hf:{theirs[0]}"

    def built(**options) -> MaPLe:
        sizes = {"image": tower, "text": tower, "image_size": 32, "context": 24, "embed": 24, "classnames": NAMES}
        torch.manual_seed(0)
        return methods.build("maple", Config(**{**sizes, "depth": 2, **options})).eval()

    return built


def batch() -> Batch:
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch({"image": pictures, "label": torch.tensor([0, 2, 1])})


def inputs_of(tower, run) -> list[torch.Tensor]:
    """What each layer of a tower is given, seen at its first norm."""
    found: list[torch.Tensor] = []
    norms = [next(part for part in layer.modules() if isinstance(part, nn.LayerNorm)) for layer in tower.layers]
    hooks = [norm.register_forward_pre_hook(lambda _, args: found.append(args[0])) for norm in norms]
    run()
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.shows("F", "maple")
@pytest.mark.parametrize(("depth", "trained"), [(9, 3_555_072), (1, 395_008)])
def test_as_many_parameters_learn_as_the_paper_says(depth: int, trained: int) -> None:
    with torch.device("meta"):
        options = {**vars(PRESETS["paper"].config), "depth": depth}
        method = methods.build("maple", Config(**options), weights=False)
    (stage,) = method.stages(Recipe())
    assert sum(value.numel() for value, _ in trainable(method, stage).values()) == trained


@pytest.mark.shows("F", "maple")
@pytest.mark.shows("P", "maple")
@torch.no_grad()
def test_the_text_tower_alone_is_clips_where_the_first_prompts_are_the_words(build, theirs) -> None:
    method = build(depth=1)
    ids, mask = method.text.tokenizer.encode([f"a photo of a {name}." for name in NAMES])
    expected = theirs[1](input_ids=ids, attention_mask=mask.long(), pixel_values=torch.zeros(1, 3, 32, 32)).text_embeds
    torch.testing.assert_close(method.class_features(), F.normalize(expected, dim=-1), atol=1e-5, rtol=1e-5)


@pytest.mark.shows("F", "maple")
@torch.no_grad()
def test_prompts_that_no_patch_attends_to_leave_the_picture_as_clip_sees_it(build, theirs) -> None:
    method = build(depth=3)
    count = method.vectors

    def masked(put):
        """The same change, with the prompts masked as keys."""

        def change(hidden, mask):
            hidden, _ = put(hidden, None)
            mask = torch.ones(hidden.shape[:2], dtype=torch.bool)
            mask[:, -count:] = False
            return hidden, mask

        return change

    edit = by_layer({layer: masked(change) for layer, change in method.vision_changes().items()})
    found = method.image_head(method.image(batch().image, edit).pooled)
    expected = theirs[1].get_image_features(pixel_values=method.image.pixels(batch().image))
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (method.image(batch().image).pooled - method.see(batch()).pooled).abs().max() > 1e-3


@pytest.mark.shows("F", "maple")
@pytest.mark.parametrize("coupling", ["linear", "none"])
@torch.no_grad()
def test_what_stands_at_the_prompts_places(build, coupling: str) -> None:
    """Put in at the first two layers whatever the layer before made of them, and handed on from there."""
    method = build(coupling=coupling)
    tokens, table = method.class_tokens, dict(method.text.named_parameters())
    positions = next(value for name, value in table.items() if name.endswith("position_embedding.weight"))
    text = inputs_of(method.text, lambda: method.read(tokens))
    torch.testing.assert_close(text[0][:, 1:3], (method.P[0] + positions[1:3]).expand(len(NAMES), -1, -1))
    torch.testing.assert_close(text[1][:, 1:3], method.P[1].expand(len(NAMES), -1, -1))
    assert len({one.shape for one in text}) == 1
    seen = inputs_of(method.image, lambda: method.see(batch()))
    norm = next(module for name, module in method.image.named_modules() if name.endswith("pre_layrnorm"))
    torch.testing.assert_close(seen[0][:, -2:], norm(method.vision_prompts[0]).expand(3, -1, -1))
    torch.testing.assert_close(seen[1][:, -2:], method.vision_prompts[1].expand(3, -1, -1))
    assert [one.shape[1] for one in seen] == [1 + 16 + 2] * 3
    for inputs, place in ((text, slice(1, 3)), (seen, slice(-2, None))):  # handed on as the second layer leaves them
        assert (inputs[2][:, place] - inputs[1][:, place]).abs().max() > 1e-3
    if coupling == "linear":
        torch.testing.assert_close(method.vision_prompts[1], method.F[1](method.P[1]))
        assert torch.equal(build(depth=3).F[1].weight, build(depth=3).F[2].weight)  # alike at first


@pytest.mark.shows("F", "maple")
@torch.no_grad()
def test_positions_of_patches_do_not_reach_the_prompts(build) -> None:
    method = build()
    first = inputs_of(method.image, lambda: method.see(batch()))[0][:, -2:]
    for name, value in method.image.named_parameters():
        if "position" in name:
            value += 1
    assert torch.equal(inputs_of(method.image, lambda: method.see(batch()))[0][:, -2:], first)


@pytest.mark.shows("F", "maple")
def test_the_gradient_of_the_first_prompts_is_that_of_the_text_and_that_of_the_pictures(build) -> None:
    gradients = []
    for side in ("both", "text", "image"):
        method = build()
        if side == "text":
            prompts = [value.detach() for value in method.vision_prompts]
            method.__class__ = type("Alone", (MaPLe,), {"vision_prompts": prompts})
        if side == "image":
            features = method.class_features().detach()
            method.class_features = lambda features=features: features
            outer = method.F[0].register_full_backward_hook(lambda _, __, output: gradients.append(output[0]))
        loss_of(method, batch()).total.backward()
        gradients.append(method.P[0].grad)
        assert all(value.grad is None for name, value in method.named_parameters() if name[0] not in "PF")
    outer.remove()
    whole, text, vision, image = gradients
    torch.testing.assert_close(whole, text + image)
    torch.testing.assert_close(image, vision @ method.F[0].weight)  # F_0^T of what reaches the vision prompts


def test_independent_prompting_has_prompts_of_its_own(build) -> None:
    method = build(coupling="none")
    loss_of(method, batch()).total.backward()
    learning = {name for name, value in method.named_parameters() if value.grad is not None and value.grad.any()}
    assert learning == {"P.0", "P.1", "V.0", "V.1"}


@torch.no_grad()
def test_other_words_of_the_prompt_stay(build) -> None:
    """With n = 2 the trained prompt is v1 v2 'of a NAME'."""
    method = build()
    tokens = method.tokenize(["dog"])
    plain = method.text.tokenizer.encode(["a photo of a dog."])[0]
    assert torch.equal(tokens.text, plain)
    assert tokens.slots[0].tolist() == [0, 1, 2, *[0] * (plain.shape[1] - 3)]
    more = build(vectors=6).tokenize(["dog"])
    assert more.slots[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0, 0]


@pytest.mark.shows("L", "maple")
def test_prompts_of_the_papers_code_are_taken_over(build, tmp_path) -> None:
    source = build(depth=3)
    for value in source.parameters():
        value.data = torch.randn_like(value).half().float()
    official = {"prompt_learner.ctx": source.P[0], "prompt_learner.token_prefix": torch.zeros(2, 1, 32)}
    official |= {f"prompt_learner.proj.{kind}": value for kind, value in source.F[0].named_parameters()}
    for layer in (1, 2):
        official[f"prompt_learner.compound_prompts_text.{layer - 1}"] = source.P[layer]
        for kind, value in source.F[layer].named_parameters():
            official[f"prompt_learner.compound_prompt_projections.{layer - 1}.{kind}"] = value
    state = {name: value.detach().half() for name, value in official.items()}
    torch.save({"state_dict": {**state, "logit_scale": torch.tensor(4.6)}}, tmp_path / "model.pth")
    method = build(depth=3, start=str(tmp_path / "model.pth"))
    own = method.state_dict()
    for name, value in source.state_dict().items():
        if name[0] in "PF":
            assert torch.equal(own[name], value), name


@pytest.mark.shows("E", "maple")
def test_it_is_judged_by_the_names_of_classes() -> None:
    assert figures("maple", ["zero_shot"])["zero_shot top1"].value == 1.0
