"""One mechanism of edits over every family: read, replace, insert, mask and drop tokens before any layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.encoders import Encoder, EncoderError, image_encoder, own_tokenizer, text_encoder
from diptych.encoders.base import editing
from diptych.encoders.own import TextTransformer

IMAGES = [
    "own",
    "timm",
    "hf:clip",
    "hf:siglip",
    "hf:vit",
    "hf:deit",
    "hf:dinov2",
    "hf:dinov2_with_registers",
    "oc:thin",
]
TEXTS = [
    "own",
    "hf:clip",
    "hf:siglip",
    "hf:bert",
    "hf:roberta",
    "hf:distilbert",
    "hf:electra",
    "hf:sentence",
    "oc:thin",
]
IMAGES += ["oc:thin"]
TEXTS += ["oc:thin", "oc:siglip", "oc:timm"]
MAPS = ["timm:test_efficientnet", "timm:test_convnext", "timm:test_resnet", "oc:resnet"]
FAMILIES = [f"image {name}" for name in IMAGES] + [f"text {name}" for name in TEXTS]
CAUSAL = ["text own", "text hf:clip", "text oc:thin"]
ATTENDS_PADDING = ["text hf:siglip", "text oc:siglip"]


@dataclass
class Case:
    """An encoder with inputs; calling it runs the encoder."""

    encoder: Any
    inputs: tuple[Tensor, ...]

    def __call__(self, edit: Any = None) -> Any:
        return self.encoder(*self.inputs, edit=edit)


@pytest.fixture(scope="module")
def make(hf_folders: dict[str, str], open_clip_names: dict[str, str]) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def image(name: str) -> Encoder:
        kind, _, rest = name.partition(":")
        full = {"own": "vit", "hf": f"hf:{hf_folders.get(rest)}", "oc": f"open_clip:{open_clip_names.get(rest)}"}
        full |= {"timm": f"timm:{rest or 'test_vit'}"}
        return image_encoder(full[kind], size=32, width=32, layers=2, heads=2)

    def text(name: str) -> Encoder:
        kind, _, rest = name.partition(":")
        full = {
            "own": "transformer",
            "hf": f"hf:{hf_folders.get(rest)}",
            "oc": f"open_clip:{open_clip_names.get(rest)}",
        }
        return text_encoder(full[kind], width=32, layers=2, heads=2, context=16)

    def case(family: str) -> Case:
        if family not in made:
            torch.manual_seed(0)
            side, name = family.split()
            if side == "image":
                encoder: Any = image(name)
                inputs: tuple[Tensor, ...] = (torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8),)
            else:
                encoder = text(name)
                inputs = encoder.tokenizer.encode(["a red circle above a square", "two dogs"])
            made[family] = Case(encoder.eval(), inputs)
        return made[family]

    return case


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, *(f"image {name}" for name in MAPS)])
def test_an_edit_that_only_reads_sees_every_layer_and_changes_nothing(family: str, make: Callable[[str], Case]) -> None:
    case = make(family)
    seen: list[tuple[int, tuple[int, ...]]] = []

    def read(index: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        seen.append((index, hidden.shape))
        assert mask is None or mask.shape == hidden.shape[:2]
        return hidden, mask

    plain, edited = case(), case(read)
    assert [index for index, _ in seen] == list(range(len(case.encoder.layers)))
    assert all(len(shape) == 3 for _, shape in seen)
    for a, b in zip(plain[:3], edited[:3], strict=True):
        assert a.equal(b)
    assert not any(layer._forward_pre_hooks for layer in case.encoder.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_equal_copy_changes_nothing(family: str, make: Callable[[str], Case]) -> None:
    """The attention mask that an edit causes to be built anew means what the model's own does."""
    case = make(family)

    def copy(index: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        everything = torch.ones(hidden.shape[:2], dtype=torch.bool)
        return hidden.clone(), everything if mask is None else mask.clone()

    plain, edited = case(), case(copy)
    close(edited.pooled, plain.pooled)
    close(edited.tokens[plain.mask], plain.tokens[plain.mask])


def inserted(prompt: Tensor, at: int, layer: int, attended: bool = True) -> Any:
    """An edit that puts `prompt` (k, D) at position `at` before one layer."""

    def edit(index: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if index != layer:
            return hidden, mask
        new = prompt.to(hidden.dtype).expand(len(hidden), -1, -1)
        hidden = torch.cat([hidden[:, :at], new, hidden[:, at:]], dim=1)
        if mask is None and attended:
            return hidden, None
        if mask is None:
            mask = torch.ones(len(hidden), hidden.shape[1] - len(prompt), dtype=torch.bool)
        there = torch.full((len(hidden), len(prompt)), attended)
        return hidden, torch.cat([mask[:, :at], there, mask[:, at:]], dim=1)

    return edit


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_inserted_tokens_are_there_and_matter(family: str, layer: int, make: Callable[[str], Case]) -> None:
    case = make(family)
    at = case.encoder.prefix + 1
    prompt = torch.randn(3, case.encoder.width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    plain, edited = case(), case(inserted(prompt, at, layer))
    assert edited.tokens.shape[1] == edited.mask.shape[1] == plain.tokens.shape[1] + 3
    assert edited.mask[:, 1:4].all()
    assert (edited.pooled - plain.pooled).abs().max() > 1e-4
    edited.pooled.square().sum().backward()
    assert prompt.grad is not None
    assert prompt.grad.abs().sum(1).min() > 0


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ATTENDS_PADDING])
def test_inserted_tokens_that_nobody_attends_to_change_nothing(family: str, make: Callable[[str], Case]) -> None:
    """MaPLe's check: with the prompts masked out of attention, the other features equal the plain ones."""
    case = make(family)
    prompt = torch.randn(3, case.encoder.width, generator=torch.Generator().manual_seed(1))
    plain, edited = case(), case(inserted(prompt, case.encoder.prefix + 1, 1, attended=False))
    assert not edited.mask[:, 1:4].any()
    rest = torch.cat([edited.tokens[:, :1], edited.tokens[:, 4:]], dim=1)
    close(rest[plain.mask], plain.tokens[plain.mask])
    if family != "image hf:siglip":  # pools by attention over all of its last tokens, the inserted ones too
        close(edited.pooled, plain.pooled)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropped_tokens_are_gone(family: str, make: Callable[[str], Case]) -> None:
    case = make(family)
    at = case.encoder.prefix + 1

    def drop(index: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if index != 1:
            return hidden, mask
        keep = [i for i in range(hidden.shape[1]) if i != at]
        return hidden[:, keep], None if mask is None else mask[:, keep]

    plain, edited = case(), case(drop)
    assert edited.tokens.shape[1] == edited.mask.shape[1] == plain.tokens.shape[1] - 1
    assert (edited.pooled - plain.pooled).abs().max() > 1e-5


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if name.startswith("text") and name not in ATTENDS_PADDING]
)
def test_dropping_padding_changes_nothing(family: str, make: Callable[[str], Case]) -> None:
    case = make(family)
    ids, mask = case.inputs
    short = Case(case.encoder, (ids[1:], mask[1:]))
    length = int(mask[1].sum())

    def drop(index: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert mask is not None
        return hidden[:, :length], mask[:, :length]

    plain, edited = short(), short(drop)
    close(edited.pooled, plain.pooled)
    close(edited.tokens, plain.tokens[:, :length])


@pytest.mark.parametrize("family", CAUSAL)
def test_causal_texts_stay_causal_with_inserted_tokens(family: str, make: Callable[[str], Case]) -> None:
    case = make(family)
    prompt = torch.randn(2, case.encoder.width, generator=torch.Generator().manual_seed(1))
    plain, edited = case(), case(inserted(prompt, 2, 0))
    close(edited.tokens[:, :2], plain.tokens[:, :2])
    assert (edited.tokens[:, 4] - plain.tokens[:, 2]).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_what_an_edit_replaces_is_what_the_next_layer_computes_on(family: str, make: Callable[[str], Case]) -> None:
    """Deep prompts: replacing the inserted tokens before the next layer makes the first ones' outputs irrelevant."""
    case = make(family)
    at = case.encoder.prefix + 1
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(2, case.encoder.width, generator=generator) for _ in range(2))
    insert = inserted(first, at, 0)
    seen = []

    def deep(index: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hidden, mask = insert(index, hidden, mask)
        if index == 1:
            seen.append(hidden[:, at : at + 2])
            hidden = torch.cat([hidden[:, :at], second.expand(len(hidden), -1, -1), hidden[:, at + 2 :]], dim=1)
        return hidden, mask

    deeply, once = case(deep), case(insert)
    assert deeply.tokens.shape == once.tokens.shape
    assert not torch.allclose(seen[0], first.expand_as(seen[0]))  # layer 0 has worked on them
    assert not torch.allclose(deeply.pooled, once.pooled)


@pytest.mark.parametrize("name", MAPS)
def test_maps_can_be_replaced_but_keep_their_positions(name: str, make: Callable[[str], Case]) -> None:
    case = make(f"image {name}")

    def rolled(index: int, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return (hidden * 0.5 if index == 1 else hidden), mask

    assert not torch.allclose(case(rolled).pooled, case().pooled)
    with pytest.raises(EncoderError, match="may read and replace them, but not insert, drop or mask"):
        case(lambda index, hidden, mask: (hidden[:, 1:], mask))


@pytest.mark.parametrize("family", ["image own", "image hf:vit", "text own", "text hf:bert"])
def test_wrong_edits_are_refused(family: str, make: Callable[[str], Case]) -> None:
    case = make(family)
    with pytest.raises(EncoderError, match="only the number of tokens"):
        case(lambda index, hidden, mask: (hidden[..., 1:], mask))
    with pytest.raises(EncoderError, match="one entry a token"):
        case(lambda index, hidden, mask: (hidden, torch.ones(2, hidden.shape[1] + 1, dtype=torch.bool)))
    with pytest.raises(ZeroDivisionError):
        case(lambda index, hidden, mask: (hidden / (1 // index), mask))
    assert not any(layer._forward_pre_hooks for layer in case.encoder.layers)


@pytest.mark.parametrize("family", ["image own", "image hf:clip", "image timm"])
def test_the_class_token_must_stay(family: str, make: Callable[[str], Case]) -> None:
    with pytest.raises(EncoderError, match="class and register tokens"):
        make(family)(lambda index, hidden, mask: (hidden[:, :1], None))


@pytest.mark.parametrize(
    "family", ["image own", "image timm", "text own", "text hf:bert", "text hf:clip", "text oc:thin"]
)
def test_masked_tokens_under_mixed_precision(family: str, make: Callable[[str], Case]) -> None:
    """The mask is added in the precision of the residual stream and must survive being cast to another."""
    case = make(family)
    prompt = torch.randn(3, case.encoder.width, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        plain, edited = case(), case(inserted(prompt, case.encoder.prefix + 1, 1, attended=False))
    assert edited.tokens.isfinite().all()
    torch.testing.assert_close(edited.pooled.float(), plain.pooled.float(), atol=0.05, rtol=0.05)


def test_hooks_and_the_loop_of_our_own_towers_agree() -> None:
    """The two ways in which edits are applied give the same result on the same layers."""
    torch.manual_seed(0)
    encoder = TextTransformer(own_tokenizer(16), width=32, layers=3, heads=2).eval()
    ids, mask = encoder.tokenizer.encode(["a red circle", "dog"])
    edit = inserted(torch.randn(2, 32), 1, 1)
    expected = encoder(ids, mask, edit=edit)

    class Wrapped(torch.nn.Module):
        """A layer as other libraries have it, with a float mask that is added."""

        def __init__(self, block: Any) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
            return self.block(x, attn_mask)

    layers = [Wrapped(block) for block in encoder.blocks]
    x = encoder.words(ids) + encoder.positions[: ids.shape[1]]
    before = torch.zeros(2, 1, 5, 5).masked_fill(~(torch.ones(5, 5).tril().bool() & mask[:, None, None]), -1e9)
    with editing(layers, edit, mask, causal=True) as state:
        for layer in layers:
            x = layer(x, attn_mask=before)
    assert state.mask is not None
    close(encoder.norm_out(x)[state.mask], expected.tokens[expected.mask])
