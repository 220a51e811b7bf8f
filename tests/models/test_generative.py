"""The skeleton of language models that see."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from diptych.batch import Batch, Step
from diptych.card import Captions, Card, Generates
from diptych.data.loader import collate
from diptych.models.generative import GenerativeConfig, GenerativeVLM
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
