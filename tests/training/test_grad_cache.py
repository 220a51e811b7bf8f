"""The loss of a whole batch in the memory of a part."""

import weakref

import pytest
import torch
from test_loop import SGD, Line
from torch import nn
from torch.testing import assert_close
from toy import Config, Toy, ToyData, recipe

from diptych.batch import Batch, Embed, Features, Step
from diptych.training import train
from diptych.training.distributed import split
from diptych.training.grad_cache import InParts, joined


class InPartsKept(Embed):
    """The same parts in the same order, but with all that their gradients need kept: the plain form."""

    def __call__(self, features, batch):
        return joined([features(part) for part in split(batch, 3)])


def batch(size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(3)
    text = torch.arange(2 * size).reshape(size, 2) % 12
    image = torch.randn(size, 8, generator=generator)
    return Batch({"image": image, "text": text, "text_mask": torch.ones_like(text, dtype=torch.bool)})


def gradients(method: nn.Module, embed: Embed, precision: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # of the dropout
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        total = method.loss(batch(), Step(embed=embed)).total
    total.backward()
    found = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    return {"loss": total.detach(), **found}


@pytest.mark.parametrize("count", [1, 3, 4, 8, 20])
def test_parts_give_the_gradient_of_the_whole_batch(count) -> None:
    still = Config(dropout=0.0)
    whole, parts = gradients(Toy(still), Embed()), gradients(Toy(still), InParts(count))
    assert whole.keys() == parts.keys()
    for name, expected in whole.items():
        assert_close(parts[name], expected, msg=name)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_dropout_and_precision_are_the_same_both_times(precision) -> None:
    once, twice = (gradients(Toy(Config(dropout=0.5)), embed, precision) for embed in (InPartsKept(), InParts(3)))
    assert torch.equal(twice["loss"], once["loss"])
    for name, expected in once.items():
        assert_close(twice[name], expected, msg=name)


def test_no_more_than_a_part_is_alive_at_once() -> None:
    alive: list[weakref.ref] = []
    most = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def features(self, batch: Batch) -> torch.Tensor:
            most.append(sum(ref() is not None for ref in alive))
            hidden = self.linear(batch.image).exp()  # exp keeps its result for the backward pass
            alive.append(weakref.ref(hidden.untyped_storage()))
            return hidden.sum(1)

    method, embed = Watched(), InParts(4)
    total = embed(method.features, batch()).square().sum()
    assert most == [0, 0, 0, 0]
    total.backward()
    assert most == [0] * 8
    assert method.linear.weight.grad is not None


@pytest.mark.parametrize("count", [3, 4])
def test_a_run_with_it_learns_what_a_run_of_whole_batches_does(count, tmp_path) -> None:
    methods = [Toy(Config(dropout=0.0)) for _ in range(3)]
    settings = [{}, {"accumulate": count, "grad_cache": True}, {"accumulate": count}]
    for index, (method, setting) in enumerate(zip(methods, settings, strict=True)):
        train(method, ToyData(), tmp_path / str(index), recipe(samples=24, batch=8, **SGD, **setting), logs=())
    whole, cached, accumulated = (method.head.weight for method in methods)
    assert_close(cached, whole)
    assert not torch.allclose(accumulated, whole)  # its negatives come from a part


def test_a_loss_without_it_says_what_to_do(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"line does not compute its features through `step.embed`.*--grad-cache"):
        train(Line(), ToyData(4), tmp_path, recipe(accumulate=2, grad_cache=True), logs=())


def test_parts_of_unequal_length_are_filled_up() -> None:
    parts = [
        (Features(torch.ones(2, size, 3), torch.ones(2, 3), torch.ones(2, size, dtype=torch.bool)), torch.ones(2))
        for size in (1, 4)
    ]
    features, vector = joined(parts)
    assert isinstance(features, Features)
    assert features.tokens.shape == (4, 4, 3)
    assert features.mask.sum(1).tolist() == [1, 1, 4, 4]
    assert features.tokens.sum((1, 2)).tolist() == [3, 3, 12, 12]
    assert vector.tolist() == [1, 1, 1, 1]
