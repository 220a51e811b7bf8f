"""The skeleton of language models that see."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diptych.batch import Batch, Sample, Step, Terms
from diptych.card import Captions, Card, Generates, TooLong
from diptych.data.loader import collate
from diptych.models.generation import beside, few_shot
from diptych.models.generative import GenerativeConfig, GenerativeVLM
from diptych.world import open_world
from diptych.world.data import World


@dataclass(frozen=True)
class Config(GenerativeConfig):
    image_size: int = 16
    image_width: int = 16
    image_layers: int = 1
    image_heads: int = 2
    width: int = 32
    layers: int = 2
    heads: int = 2


class Each(nn.Module):
    """A linear map of every token."""

    def __init__(self, of: int, width: int, out: int) -> None:
        super().__init__()
        self.of = self.tokens = of
        self.proj = nn.Linear(width, out)

    def forward(self, seen, instruction=None):
        return self.proj(seen.tokens)


class Small(GenerativeVLM):
    card = Card("small", "Small", 2026, "-", "generative", needs=("image", "texts"))

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, weights=weights)
        self.connector = Each(4, self.encoder.width, self.language.width)
        self.begin(weights)


def small(**options) -> Small:
    torch.manual_seed(0)
    return Small(Config(**options)).eval()


def batch_of(method, size: int = 3, fields=("image", "texts")) -> Batch:
    data = World(size=size)
    return collate([method.views(data.read(index, fields), None) for index in range(size)])


def test_meets_the_protocols() -> None:
    assert isinstance(small(), Generates)
    assert isinstance(small(), Captions)


@pytest.mark.parametrize("fields", [("image", "texts"), ("text",)])
def test_loss_reaches_what_is_used(fields) -> None:
    method = small()
    method.loss(batch_of(method, fields=fields), Step()).total.backward()
    assert (method.connector.proj.weight.grad is not None) == ("image" in fields)
    assert method.language.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_writes_and_judges() -> None:
    method = small()
    with torch.no_grad():
        image = method.encode_image(batch_of(method))
        assert len(method.respond(image, ["a", "a picture of", ""], longest=4)) == 3
        assert len(method.respond(None, ["a", "a picture of"], longest=4, beams=2)) == 2
        total, count = method.likelihood(image, ["what ?", "is it red ?", ""], ["a star", "no", "yes"])
        assert count.tolist() == [3, 2, 2]
        spans = method.token_likelihood(image, ["what ?", "is it red ?", ""], ["a star", "no", "yes"])
    assert [[span[:2] for span in one] for one in spans] == [[(0, 1), (2, 6)], [(0, 2)], [(0, 3)]]
    assert (total < 0).all()


def test_a_prompt_is_read_whole_or_not_at_all() -> None:
    """What would be cut off is its end, the question: 20 tokens hold the begin token, pictures of 4, and words."""
    method = small(context=20)
    with torch.no_grad():
        one = method.encode_image(batch_of(method)).take(torch.tensor([0]))
        for seen, prompt, fits in (
            ([one], "a " * 14, True),  # and one token for the answer
            ([one], "a " * 15, False),
            ([one] * 2, few_shot([("what is it ?", "a star")], "and this ?"), True),
            ([one] * 3, few_shot([("a a", "b")] * 2, "c c"), False),
            (
                [one] * 4,
                few_shot([("a", "b")] * 3, "c"),
                False,
            ),  # the fourth picture goes whole
        ):
            if fits:
                assert len(method.respond(beside(*seen), [prompt], longest=1)) == 1
                continue
            with pytest.raises(TooLong, match=f"in the 20 tokens that this run reads, of which {4 * len(seen)} are"):
                method.respond(beside(*seen), [prompt])
            with pytest.raises(TooLong, match="train with a larger context"):
                method.likelihood(beside(*seen), [prompt], ["a star"])


# ---- packed sequences


def loss_and_gradients(method, batch: Batch) -> tuple[Terms, dict[str, torch.Tensor]]:
    method.zero_grad()
    terms = method.loss(batch, Step())
    terms.total.backward()
    return terms, {name: value.grad for name, value in method.named_parameters()}


def skewed(method) -> Batch:
    """Captions of the world, one of which is long, about pictures."""
    data = World(size=6)
    samples = [data.read(index, ("image", "text")) for index in range(6)]
    long = Sample("long", {**samples[0], "text": " ".join(sample.text for sample in samples)})
    return collate([method.views(sample, None) for sample in [*samples, long]])


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("budget", [1, 100, 1000])
def test_packing_changes_no_loss_and_no_gradient_of_any_part(budget: int, weighed: bool) -> None:
    method = small(context=128)
    batch = skewed(method)
    if weighed:
        batch = Batch({**batch, "weights": torch.rand(batch.ids.shape)})
    expected, gradients = loss_and_gradients(method, batch)
    packed = small(context=128, pack=budget)
    terms, found = loss_and_gradients(packed, batch)
    torch.testing.assert_close(terms.total, expected.total)
    assert {name.partition(".")[0] for name in found} == {"encoder", "connector", "language"}
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)
        assert F.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.999, name
    assert terms.watch["padding"] < expected.watch["padding"]


def test_packing_adds_up_in_half_precision() -> None:
    losses = []
    for budget in (0, 1):
        method = small(context=128, pack=budget)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(method.loss(skewed(method), Step()).total.item())
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)


def test_padding_is_told_by_hand() -> None:
    method = small()
    batch = batch_of(method)
    lengths = batch.length.float()
    assert method.loss(batch, Step()).watch["padding"].item() == pytest.approx(
        1 - (lengths / lengths.max()).mean().item()
    )


class Talk:
    """A sample of each kind that a mixture may have: a picture, several, none, with one thing or another to say."""

    lacking = frozenset({"image", "images", "conversation", "questions", "texts"})

    def __init__(self, picture) -> None:
        asked = [{"question": "What is it?", "answers": ["a star"], "type": ""}]
        talk = [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "yo"}]
        two = [{"role": "user", "text": "<image> or <image>?"}, {"role": "assistant", "text": "this"}]
        self.samples = [
            {"image": picture, "questions": asked},
            {"images": [picture, picture], "conversation": two},
            {"conversation": talk},
            {"image": picture, "texts": ["a red star"]},
        ]

    def read(self, *chosen):
        return [Sample(str(n), self.samples[n], self.lacking - set(self.samples[n])) for n in chosen]


@pytest.mark.parametrize("chosen", [(0, 1, 2, 3), (2,), (1, 1)])
def test_samples_of_every_kind_make_one_batch(chosen) -> None:
    method, samples = small(tasks=("instruct",)), Talk(World(size=1).read(0, ("image",)).image).read(*chosen)
    batch = collate([method.views(sample, None) for sample in samples])
    places = {0: 4, 1: 8, 2: 0, 3: 4}
    assert batch.visual.sum(1).tolist() == [places[n] for n in chosen]
    assert batch.images_mask.sum(1).tolist() == [places[n] // 4 for n in chosen]
    alone = [method.loss(collate([method.views(sample, None)]), Step()).total for sample in samples]
    labels = [(collate([method.views(sample, None)]).labels[:, 1:] >= 0).sum() for sample in samples]
    mean = sum(loss * count for loss, count in zip(alone, labels, strict=True)) / sum(labels)
    assert method.loss(batch, Step()).total.item() == pytest.approx(mean.item(), abs=1e-5)


def test_words_alone_are_read_beside_clips() -> None:
    method, clips = small(tasks=("instruct",), frames=2), open_world("video=true")
    clip = clips.read(0, ("video", "questions"))
    seen = [clip, Sample("words", {"conversation": Talk(None).samples[2]["conversation"]}, ("video", "questions"))]
    batch = collate([method.views(sample, None) for sample in seen])
    assert (batch.video.shape[:2], batch.visual.sum(1).tolist()) == ((2, 2), [8, 0])
    assert method.loss(batch, Step()).total > 0


def test_positions_of_a_vit_that_does_not_train_can_be_as_loud_as_its_patches() -> None:
    usual, loud = (small(positions=scale).encoder for scale in (0.0, 1.0))
    assert usual.positions.std().item() == pytest.approx(16**-0.5, rel=0.3)
    assert loud.positions.std().item() == pytest.approx(1, rel=0.3)
    grey = torch.full((1, 3, 16, 16), 0.5)
    # patches of a grey sheet differ by their place alone
    apart = [encoder(grey).tokens.var(dim=1).mean().item() for encoder in (usual, loud)]
    assert apart[1] > apart[0]
