"""CoOp against its sheet: plain CLIP in the limit, where the words stand, what learns."""

import pytest
import torch
from method_helpers import clip_folder, figures, loss_of, small
from PIL import Image

from diptych import methods
from diptych.batch import Batch, Sample
from diptych.encoders import EncoderError
from diptych.methods.adaptation.coop import PRESETS, Config, CoOp
from diptych.recipe import Recipe
from diptych.training.optimiser import make, trainable

NAMES = ("dog", "traffic_light", "a red kite", "sun")
WORDS = "a photo of a"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return folder, clip_folder(folder)


@pytest.fixture
def build(theirs):
    """A CoOp on that CLIP, with some options."""
    tower = f"hf:{theirs[0]}"

    def built(**options) -> CoOp:
        sizes = {"image": tower, "text": tower, "image_size": 32, "context": 24, "embed": 24, "classnames": NAMES}
        torch.manual_seed(0)
        return methods.build("coop", Config(**{**sizes, **options}))

    return built


def pictures(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def logits(method) -> torch.Tensor:
    image = method.embed_image(Batch({"image": pictures()})).pooled
    return method.scale * image @ method.class_features().T


def batch(method) -> Batch:
    return Batch({"image": pictures(), "label": torch.tensor([0, 2, 1])})


def reference(method, model) -> torch.Tensor:
    """What transformers' CLIPModel says of the pictures and the hand-written prompt."""
    ids, mask = method.text.tokenizer.encode([f"{WORDS} {name.replace('_', ' ')}." for name in NAMES])
    pixels = method.image.pixels(pictures())
    return model(input_ids=ids, attention_mask=mask.long(), pixel_values=pixels).logits_per_image


@pytest.mark.shows("F", "coop")
@pytest.mark.shows("P", "coop")
@torch.no_grad()
def test_with_the_words_of_the_prompt_it_is_zero_shot_clip(build, theirs) -> None:
    method = build(words=WORDS).eval()
    torch.testing.assert_close(logits(method), reference(method, theirs[1]), atol=1e-5, rtol=1e-5)


@pytest.mark.shows("F", "coop")
def test_where_context_and_name_stand(build) -> None:
    names = {"t1 t2": ["traffic light"]}
    orders = {"end": "S c1 c2 c3 c4 t1 t2 . E", "middle": "S c1 c2 t1 t2 c3 c4 . E", "front": "S t1 t2 c1 c2 c3 c4 . E"}
    for position, order in orders.items():
        method = build(vectors=4, position=position)
        (start, first, second, end), dot = (
            method.text.tokenizer.encode(names["t1 t2"])[0][0].tolist(),
            method.text.tokenizer.encode(["."])[0][0, 1].item(),
        )
        called = {start: "S", first: "t1", second: "t2", dot: ".", end: "E"}
        tokens = method.tokenize(names["t1 t2"])
        said = [
            f"c{slot}" if slot else called[word]
            for word, slot in zip(tokens.text[0].tolist(), tokens.slots[0].tolist(), strict=True)
        ]
        assert " ".join(said) == order


@pytest.mark.shows("F", "coop")
def test_the_end_is_where_the_name_is_long_and_the_same_for_all_positions(build) -> None:
    lengths = []
    for position in ("end", "middle", "front"):
        method = build(vectors=4, position=position)
        tokens = method.class_tokens
        end = method.text.tokenizer.end
        found = (tokens.text == end).int().argmax(1)
        own = [len(method.text.tokenizer.encode([name.replace("_", " ")])[0][0]) - 2 for name in NAMES]
        assert found.tolist() == [1 + 4 + count + 1 for count in own]
        assert torch.equal(tokens.text_mask.sum(1), found + 1)
        lengths.append(tokens.text.shape)
    assert len(set(lengths)) == 1


@pytest.mark.shows("F", "coop")
@pytest.mark.parametrize("specific", [False, True])
def test_only_the_context_learns(build, specific: bool) -> None:
    method = build(vectors=5, class_specific=specific)
    (stage,) = method.stages(Recipe())
    chosen = trainable(method, stage)
    assert sum(value.numel() for value, _ in chosen.values()) == (len(NAMES) if specific else 1) * 5 * 32
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimiser = make(PRESETS["paper"].recipe, chosen)
    assert optimiser.param_groups[0]["weight_decay"] == 5e-4  # acts on the context
    loss_of(method, batch(method)).total.backward()
    assert {name for name, value in method.named_parameters() if value.grad is not None} == {"ctx"}
    optimiser.step()
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"ctx"}


@pytest.mark.shows("F", "coop")
def test_equal_contexts_of_classes_are_one_and_their_gradients_sum_to_its_own(build) -> None:
    one, each = build(vectors=4), build(vectors=4, class_specific=True)
    each.ctx.data = one.ctx.data.expand_as(each.ctx).clone()
    torch.testing.assert_close(logits(each), logits(one))
    for method in (one, each):
        loss_of(method, batch(method)).total.backward()
    assert each.ctx.grad.abs().sum((1, 2)).min() > 0
    torch.testing.assert_close(each.ctx.grad.sum(0), one.ctx.grad)


@torch.no_grad()
def test_contexts_belong_to_their_classes_and_strangers_get_the_mean(build) -> None:
    method = build(vectors=2, class_specific=True)
    before = method.embed_text(method.tokenize(["dog", "sun", "zebra"])).pooled
    method.ctx[3] += 1
    after = method.embed_text(method.tokenize(["dog", "sun", "zebra"])).pooled
    assert (before == after).all(1).tolist() == [True, False, False]
    mean = build(vectors=2)
    mean.ctx.copy_(method.ctx.mean(0))
    torch.testing.assert_close(after[2:], mean.embed_text(mean.tokenize(["zebra"])).pooled)


@pytest.mark.shows("F", "coop")
@torch.no_grad()
def test_classes_may_be_permuted_and_others_named(build, tmp_path) -> None:
    method = build(vectors=4)
    method.ctx += 1
    method.save_pretrained(tmp_path)
    other = build(vectors=4, classnames=NAMES[::-1], start=str(tmp_path))
    torch.testing.assert_close(logits(other), logits(method).flip(1))
    few = build(vectors=4, classnames=("sun", "moon"), start=str(tmp_path))
    assert torch.equal(few.ctx, method.ctx)
    assert torch.equal(build(words="a photo of a", start=str(tmp_path)).ctx, method.ctx)
    torch.testing.assert_close(logits(few)[:, 0], logits(method)[:, 3])


def test_some_classes_at_a_time_give_the_same_loss_and_gradient(build) -> None:
    found = []
    for count in (0, 3):
        method = build(vectors=4, classes_at_once=count)
        total = loss_of(method, batch(method)).total
        total.backward()
        found.append((total.detach(), method.ctx.grad))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.shows("F", "coop")
def test_nearest_words_of_words_are_these_words(build) -> None:
    method = build(words=WORDS)
    assert method.ctx.shape == (4, 32)
    words = method.nearest_words(2)
    assert [row[0][0].removesuffix("</w>") for row in words] == WORDS.split()
    assert all(row[0][1] < 1e-3 < row[1][1] for row in words)


@pytest.mark.shows("L", "coop")
def test_prompts_of_the_papers_code_are_taken_over(build, tmp_path) -> None:
    ctx = torch.randn(4, 32, dtype=torch.float16)
    official = {"ctx": ctx, "token_prefix": torch.zeros(11, 1, 32), "token_suffix": torch.zeros(11, 72, 32)}
    torch.save({"state_dict": official, "epoch": 50, "val_result": None}, tmp_path / "model.pth")
    method = build(vectors=4, start=str(tmp_path / "model.pth"))
    assert torch.equal(method.ctx, ctx.float())


def test_long_names_are_cut_and_keep_their_end(build) -> None:
    method = build(vectors=4, position="middle")
    tokens = method.tokenize(["dog " * 40, "dog"])
    assert tokens.text.shape == (2, 24)
    assert tokens.text[0, -1] == method.text.tokenizer.end
    assert tokens.slots[0].tolist() == [0, 1, 2, *[0] * 18, 3, 4, 0]


def test_what_cannot_be_is_said(build) -> None:
    with pytest.raises(EncoderError, match="21 vectors and a name do not fit into the 24 tokens"):
        build(vectors=21)
    with pytest.raises(ValueError, match="has no classes to learn"):
        _ = build(classnames=()).class_tokens
    with pytest.raises(ValueError, match="'cat' is none of the 4 classes"):
        build(vectors=4).views(Sample("k", {"image": Image.new("RGB", (32, 32)), "category": "cat"}), None)


@pytest.mark.shows("E", "coop")
def test_it_is_judged_by_the_names_of_classes() -> None:
    found = figures("coop", ["zero_shot"])
    assert found["zero_shot top1"].value == 1.0


def test_a_small_one_reads_the_classes_of_its_data() -> None:
    assert small("coop").config.classnames == small("maple").config.classnames != ()
