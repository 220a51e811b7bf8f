"""What training costs: counts against values by hand, copies that leave no trace, and times that add up."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy import PIXELS, Config, Toy, ToyData, recipe, same

from diptych.batch import Batch, Step, Terms
from diptych.recipe import Stage
from diptych.training import cost, counting
from diptych.training.cost import Growth, Memory, Pace
from diptych.training.distributed import Place
from diptych.training.loop import steps
from diptych.training.state import Run

INNER, OUTER = 32, 16
IN = PIXELS


class Plain(Toy):
    """Two linear maps with a ReLU between them; `stage` says what trains."""

    def __init__(self, stage: Stage | None = None) -> None:
        nn.Module.__init__(self)
        self.config, self.stage = Config(), stage or Stage()
        self.first = nn.Linear(IN, INNER, bias=False)
        self.second = nn.Linear(INNER, OUTER, bias=False)

    def loss(self, batch: Batch, step: Step) -> Terms:
        return Terms(mean=self.second(F.relu(self.first(batch.image))).mean())

    def stages(self, recipe):
        return [self.stage]


class Pairs(Plain):
    """Squares of all inner products of a batch."""

    def loss(self, batch: Batch, step: Step) -> Terms:
        x = self.first(batch.image)
        return Terms(mean=(x @ x.T).square().mean())


class Attends(Plain):
    """Self-attention over four tokens of two numbers, in one head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 6, bias=False)

    def loss(self, batch: Batch, step: Step) -> Terms:
        q, k, v = self.first(batch.image.view(-1, 1, 4, 2)).chunk(3, dim=-1)
        return Terms(mean=F.scaled_dot_product_attention(q, k, v).mean())


class Convolves(Plain):
    """A convolution of one channel into two, over eight pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 2, 1, bias=False)

    def loss(self, batch: Batch, step: Step) -> Terms:
        return Terms(mean=self.first(batch.image[:, None]).mean())


class Depthwise(Plain):
    """Two convolutions of four channels, each on its own, over two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv1d(4, 4, 3, padding=1, groups=4, bias=False) for _ in range(2))

    def loss(self, batch: Batch, step: Step) -> Terms:
        return Terms(mean=self.second(self.first(batch.image.view(-1, 4, 2))).mean())


class Remembers(Plain):
    """Computes the first map, which is frozen, only of rows that it has not seen."""

    def __init__(self) -> None:
        super().__init__(Stage(freeze=("first",)))
        self.kept: dict[float, torch.Tensor] = {}

    def views(self, sample, rng):
        return super().views(sample, None)

    def loss(self, batch: Batch, step: Step) -> Terms:
        new = [row for row in batch.image if float(row.sum()) not in self.kept]
        if new:
            made = self.first(torch.stack(new))
            self.kept |= {float(row.sum()): value.clone() for row, value in zip(new, made, strict=True)}
        return Terms(mean=self.second(torch.stack([self.kept[float(row.sum())] for row in batch.image])).mean())


def pictures(count: int) -> Batch:
    return Batch({"image": torch.randn(count, IN)}, [""] * count)


# -- operations --------------------------------------------------------------------------------------------------------


def test_a_product_costs_two_operations_a_weight_and_twice_that_backward():
    # forward 2 (in h + h out); backward: both weights the same again, and of the second its input too
    assert cost.flops(Plain(), pictures(5)) == 2 * (IN * INNER + INNER * OUTER) * 2 + 2 * INNER * OUTER


def test_what_is_frozen_has_no_backward_pass():
    frozen_first = cost.flops(Plain(Stage(freeze=("first",))), pictures(5))
    assert frozen_first == 2 * IN * INNER + 4 * INNER * OUTER
    frozen_last = cost.flops(Plain(Stage(freeze=("second",))), pictures(5))
    assert frozen_last == 4 * IN * INNER + 4 * INNER * OUTER


def test_attention_counts_as_its_products():
    linear, products = 2 * 4 * 2 * 6, 2 * (2 * 4 * 4 * 2)
    assert cost.flops(Attends(), pictures(3)) == 2 * linear + 3 * products


def test_the_groups_of_a_convolution_count_both_ways():
    one = 2 * 2 * 4 * 3
    assert cost.flops(Depthwise(), pictures(5)) == 2 * one + one + 2 * one


def test_operations_on_pairs_grow_with_the_square_of_the_batch():
    first, again = cost.flops_growth(Pairs(), ToyData(), Stage())
    assert first.sample == pytest.approx(2 * 2 * IN * INNER)
    assert first.pair == pytest.approx(3 * 2 * INNER)
    assert again(64) == pytest.approx(first(64))


def test_operations_of_a_run_count_its_stages_and_parts_by_their_share():
    class Staged(Plain):
        def stages(self, recipe):
            return [Stage("head", share=1, train=("second",)), Stage("all", share=3)]

    head = 2 * IN * INNER + 4 * INNER * OUTER
    whole = 4 * IN * INNER + 6 * INNER * OUTER
    assert cost.flops_per_sample(Staged(), ToyData(), recipe()) == pytest.approx((head + 3 * whole) / 4)
    parts = cost.flops_per_sample(Pairs(), ToyData(), recipe(samples=64, batch=16, accumulate=2))
    assert parts == pytest.approx(4 * IN * INNER + 8 * 6 * INNER)


def test_what_is_remembered_is_counted_once_a_sample():
    method, head = Remembers(), 4 * INNER * OUTER
    first, again = cost.flops_growth(method, ToyData(80), method.stage)
    assert first(1) == pytest.approx(2 * IN * INNER + head)
    assert again(1) == pytest.approx(head)
    three_epochs = cost.flops_per_sample(method, ToyData(80), recipe(samples=240, batch=8))
    assert three_epochs == pytest.approx(2 * IN * INNER / 3 + head)
    assert not method.kept


# -- memory ------------------------------------------------------------------------------------------------------------


def held(method: Plain, batch: Batch, number_format="fp32", **kw) -> counting.Held:
    def count(copy, batch, stage):
        return counting.held(copy, batch, stage, number_format)

    (found,) = counting.on_copy(method, method.stage, torch.device("cpu"), [batch], count, **kw)
    return found


@pytest.mark.parametrize("compute", [True, False])
def test_bytes_of_a_pass_are_those_of_a_hand(compute):
    found = held(Plain(), pictures(5), compute=compute)
    forward, between, backward = found.landmarks
    assert forward == 5 * 4 * (IN + 2 * INNER)  # the picture, what the ReLU gets and what it gives
    assert between == 5 * 4 * (IN + INNER) + 4  # its result serves both maps; the loss
    assert backward >= between + 5 * 4 * INNER  # the gradient of the hidden layer
    assert found.after == 0


def test_nothing_is_saved_for_what_is_frozen():
    found = held(Plain(Stage(freeze=("second",))), pictures(5))
    assert found.landmarks[1] == 5 * 4 * (IN + INNER) + 4
    head_only = held(Plain(Stage(freeze=("first",))), pictures(5))
    assert head_only.landmarks[1] == found.landmarks[1]
    nothing_hidden = held(Pairs(), pictures(5))
    assert nothing_hidden.landmarks[1] == 4 * (5 * IN + 5 * INNER + 5 * 5) + 4


def test_a_convolution_on_a_cpu_holds_its_inputs_and_outputs_twice():
    pixels, out, weights = 5 * 4 * IN, 5 * 4 * 2 * IN, 4 * 2
    assert held(Convolves(), pictures(5)).landmarks[0] == 2 * (pixels + out) + weights


def test_memory_has_the_weights_and_the_pass():
    found = cost.memory(Plain(), ToyData(), recipe())
    assert found.weights == found.gradients == 4 * (IN * INNER + INNER * OUTER)
    assert found.kept == 0
    peak = found.peak(1000)
    text = 3 * (8 + 1)  # three tokens with their mask
    assert peak.sample >= 4 * (IN + 2 * INNER) + text
    assert peak.pair == 0
    assert found.total(1000) == pytest.approx(4 * found.weights + 1000 * peak.sample, rel=1e-3)


def test_logits_grow_with_the_square_of_the_batch():
    found = cost.memory(Pairs(), ToyData(), recipe())
    assert found.peak(10**6).pair >= 8  # the logits, and their squares or their gradient
    assert found.peak(10**6).pair % 4 == pytest.approx(0, abs=1e-6)
    tokens = cost.memory(Pairs(), ToyData(), recipe(), sizes=(64, 128, 256))
    assert tokens.total(5000) == pytest.approx(found.total(5000))


def test_a_loss_that_has_no_parts_cannot_be_planned_with_them():
    with pytest.raises(ValueError, match=r"Pairs does not compute its features through .*leave out --grad"):
        cost.memory(Pairs(), ToyData(), recipe(batch=16, accumulate=2, grad_cache=True))


def test_what_is_frozen_saves_nothing():
    found = cost.memory(Plain(Stage(freeze=("second",))), ToyData(), recipe(ema=0.9))
    assert found.gradients == found.average == 4 * IN * INNER
    nothing_before = cost.memory(Plain(Stage(freeze=("first",))), ToyData(), recipe())
    assert nothing_before.gradients == 4 * INNER * OUTER


def test_what_is_kept_of_each_sample_is_told_apart():
    found = cost.memory(Remembers(), ToyData(80), recipe())
    assert found.kept == pytest.approx(4 * INNER)


@pytest.mark.parametrize(
    "change", [{}, {"optimizer": "lamb"}, {"optimizer": "sgd"}, {"optimizer": "sgd", "betas": (0.0, 0.9)}]
)
def test_states_are_those_that_the_optimiser_has_after_a_step(change, tmp_path):
    method, chosen = Plain(), recipe(ema=0.9, **change)
    found = cost.memory(method, ToyData(), chosen)
    run = Run(method, chosen, Place(torch.device("cpu")), tmp_path)
    next(updates := steps(run, ToyData()))
    tensors = {name: value.nbytes for name, value in run.tensors().items() if value.ndim}
    updates.close()
    assert found.optimiser == sum(size for name, size in tensors.items() if name.startswith("optimiser/"))
    assert found.average == sum(size for name, size in tensors.items() if name.startswith("average/"))


def test_bf16_halves_what_is_saved_and_adds_a_copy_of_the_weights():
    found = held(Plain(), pictures(64), "bf16", compute=False)
    bf16_weights = 2 * (IN * INNER + INNER * OUTER)
    # the pictures as they came and in bf16, the hidden layer in bf16, the weights in bf16 as far as they are needed
    assert found.landmarks[1] <= 64 * (6 * IN + 2 * INNER) + bf16_weights + 4
    assert found.landmarks[1] >= 64 * (6 * IN + 2 * INNER)


def test_the_largest_batch_fits_and_one_more_does_not():
    found = Memory(1000, 500, 1000, 0, (Growth(0, 10, 0), Growth(0, 1, 0.1)))
    for limit in (2511, 3000, 100_000):
        largest = found.largest(limit)
        assert found.total(largest) <= limit < found.total(largest + 1)
    assert found.largest(2500) == 0
    assert found.total(10) == 2500 + 100
    assert found.total(1000) == 2500 + 101_000  # the other moment holds more
    assert found.peak(1000).pair == 0.1


# -- copies ------------------------------------------------------------------------------------------------------------


def test_counting_without_numbers_gives_the_same(monkeypatch):
    method = Toy(Config(teacher=True))
    real = cost.flops_per_sample(method, ToyData(), recipe()), cost.memory(method, ToyData(), recipe())
    monkeypatch.setattr(counting, "_LARGE", 0)
    assert cost.flops_per_sample(method, ToyData(), recipe()) == real[0]
    empty = cost.memory(method, ToyData(), recipe())
    assert empty.total(100) == pytest.approx(real[1].total(100), rel=0.05)


def test_a_method_that_looks_at_its_numbers_is_computed(monkeypatch):
    monkeypatch.setattr(counting, "_LARGE", 0)
    first, again = cost.flops_growth(Remembers(), ToyData(80), Stage(freeze=("first",)))
    assert first(1) > again(1)


@pytest.mark.parametrize("training", [True, False])
def test_method_and_random_numbers_stay_as_they_were(training):
    method, twin = (Toy(Config(teacher=True)).train(training) for _ in range(2))
    method.head.weight.requires_grad_(False)
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    drawn = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    cost.flops_per_sample(method, ToyData(), recipe(samples=400))
    cost.memory(method, ToyData(), recipe())
    cost.timed(method, ToyData(), recipe(ema=0.9), "cpu", steps=1)
    assert (torch.rand(1), random.random(), np.random.rand()) == drawn
    assert same(method, twin)
    assert method.training == training
    assert all(value.grad is None for value in method.parameters())
    assert [name for name, value in method.named_parameters() if not value.requires_grad] == [
        "head.weight",
        "teacher.weight",
        "teacher.bias",
    ]


# -- time --------------------------------------------------------------------------------------------------------------


def test_reading_hides_behind_computing_where_processes_read():
    there = Pace(first=4.0, again=1.0, read=2.0, cores=4)  # computed by another device
    assert there.sample(workers=0) == 3.0
    assert there.sample(workers=1) == 2.0
    assert there.sample(workers=4) == 1.0
    assert there.sample(workers=1, first=True) == 4.0
    assert there.run(samples=10, different=4, workers=1) == 4 * 4.0 + 6 * 2.0
    here = replace(there, threads=2, cores=2)  # both cores compute, and must read as well
    assert here.sample(workers=2) == (2 * 1.0 + 2.0) / 2


def test_time_is_that_of_real_steps():
    method = Toy()
    pace = cost.timed(method, ToyData(), recipe(), "cpu", steps=2)
    assert pace.first > 0
    assert pace.again > 0
    assert pace.read > 0
    assert pace.threads == torch.get_num_threads()
    assert cost.samples_per_second(method, ToyData(), recipe(), "cpu") > 1


def test_each_stage_counts_in_time_by_its_share():
    slept = []

    class Staged(Plain):
        def stages(self, recipe):
            return [Stage("quick", share=1), Stage("slow", share=1)]

        def loss(self, batch, step):
            slept.append(step.stage)
            return super().loss(batch, step)

    cost.timed(Staged(), ToyData(), recipe(), "cpu", steps=1)
    assert set(slept) == {"quick", "slow"}


def test_samples_at_once_are_the_largest_part():
    assert cost.samples_at_once(recipe(batch=64)) == 64
    assert cost.samples_at_once(recipe(batch=10, accumulate=3)) == 4
