"""Vectors in place of words and tokens before layers: on our own towers, transformers' and open_clip's CLIP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.encoders import EncoderError, ImageEncoder, TextEncoder, image_encoder, text_encoder
from diptych.encoders.prompts import (
    by_layer,
    dropped,
    filled,
    first_norm,
    inserted,
    replaced,
    word_table,
    words_changed,
)

KINDS = ["own", "hf:clip", "oc:vit", "oc:thin"]
TEXTS = ["a red circle above a square", "two dogs"]


@pytest.fixture(params=KINDS)
def towers(request, hf_folders, open_clip_names) -> tuple[ImageEncoder, TextEncoder]:
    kind, _, rest = request.param.partition(":")
    names = {"own": ("vit", "transformer"), "hf": [f"hf:{hf_folders.get(rest)}"] * 2}
    image, text = (names | {"oc": [f"open_clip:{open_clip_names.get(rest)}"] * 2})[kind]
    torch.manual_seed(0)
    return (
        image_encoder(image, size=32, width=32, layers=2, heads=2).eval(),
        text_encoder(text, width=32, layers=2, heads=2, context=16).eval(),
    )


def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_tower_given_its_own_words_or_no_change_is_the_tower(towers) -> None:
    image, text = towers
    ids, mask = text.tokenizer.encode(TEXTS)
    own = word_table(text)(ids)
    plain = text(ids, mask)
    with words_changed(text, lambda _: own):
        same, fast = text(torch.ones_like(ids), mask, by_layer({})), text.pooled(torch.ones_like(ids), mask)
    assert all(a.equal(b) for a, b in zip(plain[:3], same[:3], strict=True))
    assert fast.equal(text.pooled(ids, mask))
    assert text(ids, mask).pooled.equal(plain.pooled)  # the hook is gone
    assert all(a.equal(b) for a, b in zip(image(pictures())[:3], image(pictures(), by_layer({}))[:3], strict=True))


def test_vectors_take_the_place_of_words_before_positions_are_added(towers) -> None:
    _, text = towers
    ids, mask = text.tokenizer.encode(TEXTS)
    slots = torch.zeros_like(ids)
    slots[:, 2] = torch.tensor([2, 1])  # the two texts exchange their third tokens
    vectors = word_table(text)(ids[:, 2]).detach().requires_grad_()
    with words_changed(text, lambda words: filled(words, slots, vectors)):
        found = text(ids, mask).pooled
    other = ids.clone()
    other[:, 2] = ids[[1, 0], 2]
    torch.testing.assert_close(found, text(other, mask).pooled)
    found.square().sum().backward()
    assert vectors.grad.abs().sum(1).min() > 0


def test_words_of_another_shape_are_refused(towers) -> None:
    _, text = towers
    ids, mask = text.tokenizer.encode(TEXTS)
    with pytest.raises(EncoderError, match="cannot take the place"), words_changed(text, lambda words: words[:, 1:]):
        text(ids, mask)


def test_changes_by_hand() -> None:
    hidden = torch.arange(8.0).view(1, 4, 2)  # tokens 01 23 45 67
    mask = torch.tensor([[True, True, True, False]])
    new = torch.tensor([[-1.0, -1.0]])

    def rows(change, mask=mask) -> tuple[list[float], Any]:
        changed, kept = change(hidden, mask)
        return changed[0, :, 0].tolist(), None if kept is None else kept[0].tolist()

    assert rows(inserted(new)) == ([0, 2, 4, 6, -1], [True, True, True, False, True])
    assert rows(inserted(new, 1), None) == ([0, -1, 2, 4, 6], None)
    assert rows(replaced(new, 1)) == ([0, -1, 4, 6], mask[0].tolist())
    assert rows(replaced(new, -1), None) == ([0, 2, 4, -1], None)
    assert rows(replaced(torch.cat([new, new]), -2)) == ([0, 2, -1, -1], mask[0].tolist())
    assert rows(dropped(1, 3)) == ([0, 6], [True, False])
    assert rows(dropped(-1)) == ([0, 2, 4], [True, True, True])


@torch.no_grad()
def test_tokens_put_in_and_taken_out_again_leave_what_the_layers_between_did_not_see(towers) -> None:
    """Put in behind all others before the last layer and dropped at once: in both towers nothing has happened."""
    image, text = towers
    ids, mask = text.tokenizer.encode(TEXTS)

    def there_and_back(width: int):
        def change(hidden, mask):
            return dropped(-2)(*inserted(torch.ones(2, width))(hidden, mask))

        return by_layer({1: change})

    torch.testing.assert_close(image(pictures(), there_and_back(image.width)).pooled, image(pictures()).pooled)
    torch.testing.assert_close(text(ids, mask, there_and_back(text.width)).pooled, text(ids, mask).pooled)


@torch.no_grad()
def test_first_norm_is_what_patches_pass_before_the_first_layer(towers) -> None:
    image, _ = towers
    before, after = [], []
    handle = first_norm(image).register_forward_hook(lambda module, args, output: before.append(output))

    def read(hidden, mask):
        after.append(hidden)
        return hidden, mask

    image(pictures(), by_layer({0: read}))
    handle.remove()
    assert before[0].equal(after[0])


def test_a_tower_without_such_a_norm_has_none(hf_folders) -> None:
    assert isinstance(first_norm(image_encoder(f"hf:{hf_folders['vit']}", size=32)), torch.nn.Identity)
    assert isinstance(first_norm(image_encoder("timm:test_vit", size=32)), torch.nn.Identity)


def test_a_text_tower_without_a_table_is_said() -> None:
    text = text_encoder("transformer", width=32, layers=1, heads=2, context=16)
    text.vocab_size += 1
    with pytest.raises(EncoderError, match="no table of"):
        word_table(text)
