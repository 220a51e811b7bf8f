"""FILIP against its sheet, as a method; the similarities themselves are tested with the objective."""

import math

import numpy as np
import pytest
import torch
from method_helpers import figures

from diptych import methods
from diptych.batch import Batch, Features, Step
from diptych.methods.contrastive.filip import CARD, PRESETS

SIZES = {
    "image_size": 32,
    "image_width": 32,
    "image_layers": 1,
    "image_heads": 2,
    "text_width": 32,
    "text_layers": 1,
    "text_heads": 2,
}


def pair(seed: int = 0):
    """CLIP and FILIP with the same weights."""
    clip = methods.build("clip", {**SIZES, "embed": 16})
    filip = methods.build("filip", {**SIZES, "embed": 16, "tile": 0})
    filip.load_state_dict(clip.state_dict())
    return clip.eval(), filip.eval()


def batch(method, texts: list[str]) -> Batch:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (len(texts), 3, 32, 32), dtype=torch.uint8)
    return Batch({"image": images, **method.tokenize(texts)})


TEXTS = ["a red star", "two blue rings on a striped ground", "moon", "a green cross, a heart"]


@pytest.mark.shows("F", "filip")
def test_tokens_are_every_patch_and_every_word_without_the_class_token() -> None:
    _, filip = pair()
    some = batch(filip, TEXTS)
    image, text = filip.embed_image(some), filip.embed_text(some)
    assert image.tokens.shape == (4, 16, 16)  # 32 px in patches of 8, joint width 16
    assert bool(image.mask.all())
    assert torch.equal(text.mask, some.text_mask)
    for features in (image, text):
        norms = features.tokens.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.shows("F", "filip")
def test_with_one_token_a_side_it_is_clip() -> None:
    clip, filip = pair()
    some = batch(clip, TEXTS)
    loss = clip.loss(some, Step()).total

    def single(features: Features) -> Features:
        one = features.pooled[:, None]
        return Features(one, features.pooled, torch.ones(len(one), 1, dtype=torch.bool))

    image, text = single(clip.embed_image(some)), single(clip.embed_text(some))
    filip.embed_image, filip.embed_text = lambda _: image, lambda _: text
    torch.testing.assert_close(filip.loss(some, Step()).total, loss)
    for mine, theirs in zip(filip.similarity(image, text), clip.similarity(image, text), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.shows("F", "filip")
def test_loss_is_the_cross_entropy_of_the_two_similarities() -> None:
    _, filip = pair()
    some = batch(filip, TEXTS)
    to_text, to_image = filip.similarity(filip.embed_image(some), filip.embed_text(some))
    assert not torch.allclose(to_text, to_image)
    rows = torch.log_softmax(to_text * filip.scale, dim=1).diagonal().mean()
    columns = torch.log_softmax(to_image * filip.scale, dim=0).diagonal().mean()
    torch.testing.assert_close(filip.loss(some, Step()).total, -(rows + columns) / 2)


@pytest.mark.shows("F", "filip")
def test_longer_padding_changes_nothing() -> None:
    _, filip = pair()
    some = batch(filip, TEXTS)
    more = torch.nn.functional.pad(some.text, (0, 5)), torch.nn.functional.pad(some.text_mask, (0, 5))
    padded = Batch({"image": some.image, "text": more[0], "text_mask": more[1]})
    torch.testing.assert_close(filip.loss(padded, Step()).total, filip.loss(some, Step()).total)


@pytest.mark.shows("F", "filip")
def test_tiled_loss_and_gradients_equal_the_plain_ones() -> None:
    _, plain = pair()
    tiled = methods.build("filip", {**SIZES, "embed": 16, "tile": 2})
    tiled.load_state_dict(plain.state_dict())
    some = batch(plain, TEXTS)
    for method in (plain, tiled):
        method.loss(some, Step()).total.backward()
    for (name, mine), theirs in zip(plain.named_parameters(), tiled.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_selection_only_lowers_what_the_gathered_side_can_reach() -> None:
    _, filip = pair()
    fewer = methods.build("filip", {**SIZES, "embed": 16, "keep": 0.25})
    fewer.load_state_dict(filip.state_dict())
    some = batch(filip, TEXTS)
    assert math.isfinite(fewer.loss(some, Step()).total.item())
    assert fewer.loss(some, Step()).total.item() != filip.loss(some, Step()).total.item()


@pytest.mark.shows("F", "filip")
def test_prompts_are_averaged_as_similarities() -> None:
    prompts = methods.method_class("filip").prompts
    assert "a photo of a {}. I like it." in prompts
    assert len(set(prompts)) == 9
    assert methods.method_class("filip").prompt_ensemble == "similarities"
    assert methods.method_class("clip").prompt_ensemble == "features"
    assert CARD.baseline == "clip"


@pytest.mark.shows("R", "filip")
def test_paper_preset_is_the_papers() -> None:
    paper = PRESETS["paper"].config
    assert (paper.embed, paper.keep, paper.image_size, paper.context, paper.tau) == (256, 0.25, 224, 77, 0.07)
    assert paper.augment == "auto"


@pytest.mark.shows("F", "filip")
def test_heat_is_the_cosine_of_patch_and_word() -> None:
    _, filip = pair()
    some = batch(filip, TEXTS)
    image, text = filip.embed_image(some), filip.embed_text(some)
    heat = filip.heat(image, text)
    assert heat.shape == (4, text.tokens.shape[1], 4, 4)
    by_hand = float(np.dot(image.tokens[1, 6].detach().numpy(), text.tokens[1, 2].detach().numpy()))
    assert abs(heat[1, 2, 1, 2].item() - by_hand) < 1e-6


@pytest.mark.shows("E", "filip")
def test_the_tasks_of_its_paper_find_what_it_has_learned() -> None:
    found = figures("filip", ["retrieval", "zero_shot", "pointing"])  # pointing: its word-patch alignment
    for figure in ("retrieval image_to_text_r1", "retrieval text_to_image_r1", "zero_shot top1", "pointing word"):
        assert found[figure].value > 2 * found[figure].chance
