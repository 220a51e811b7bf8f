import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy import Config, Toy, ToyData, recipe, same

from diptych.batch import MissingField, Terms
from diptych.card import Card
from diptych.data.mixture import Mixture
from diptych.recipe import Stage
from diptych.results import Row
from diptych.training import Judge, train


class Line(nn.Module):
    """Least squares on one weight: gradient and updates by hand. A sample's x is its number, its y is 0."""

    card = Card(id="line", title="Line", year=2024, arxiv="", family="vision", needs=("image",))
    config: dict = {}  # noqa: RUF012

    def __init__(self, *stages: Stage) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(1, 1)) for _ in range(2))
        self.given = stages or (Stage(),)
        self.steps: list = []
        self.seen: list = []

    def views(self, sample, rng):
        return {"x": torch.tensor(float(sample.key.rsplit("-")[-1]))}

    def loss(self, batch, step):
        self.steps.append(step)
        self.seen.append(batch.sample_keys)
        x = batch.x[:, None]
        return Terms(a=(x @ self.a).square().mean(), b=2 * (x @ self.b).square().mean())

    def stages(self, recipe):
        return list(self.given)


SGD = {"optimizer": "sgd", "betas": (0.0, 0.0), "weight_decay": 0.0, "lr": 1e-3, "schedule": "constant", "warmup": 0.0}


def test_it_learns(tmp_path) -> None:
    finished = train(Toy(Config(dropout=0.0)), ToyData(), tmp_path, recipe(samples=800, batch=8, lr=0.05), logs=())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(losses) == finished.steps == 100
    assert np.mean(losses[:5]) > math.log(8) * 0.8  # chance
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_one_step_by_hand(tmp_path) -> None:
    method = Line()
    train(method, ToyData(4), tmp_path, recipe(samples=4, clip=0, **SGD), logs=())
    square = np.mean(np.square([0, 1, 2, 3]))  # the one batch holds all four samples
    assert method.a.item() == pytest.approx(1 - 1e-3 * 2 * square)
    assert method.b.item() == pytest.approx(1 - 1e-3 * 4 * square)


def test_accumulated_parts_give_the_gradient_of_the_batch(tmp_path) -> None:
    whole, parts, uneven = Line(), Line(), Line()
    for method, count in ((whole, 1), (parts, 4), (uneven, 3)):
        train(
            method,
            ToyData(8),
            tmp_path / str(count),
            recipe(samples=24, batch=8, accumulate=count, clip=0, **SGD),
            logs=(),
        )
        assert len(method.steps) == 3 * count
    for method in (parts, uneven):
        assert torch.allclose(method.a, whole.a, atol=1e-6)
    assert json.loads((tmp_path / "1/log.jsonl").read_text().splitlines()[0])["loss"] == pytest.approx(
        json.loads((tmp_path / "3/log.jsonl").read_text().splitlines()[0])["loss"]
    )


def test_the_gradient_is_clipped_and_its_own_norm_is_logged(tmp_path) -> None:
    method = Line()
    train(method, ToyData(4), tmp_path, recipe(samples=4, clip=0.5, **SGD), logs=())
    moved = torch.cat([1 - method.a, 1 - method.b]).norm().item()
    assert moved == pytest.approx(1e-3 * 0.5, rel=1e-3)
    logged = json.loads((tmp_path / "log.jsonl").read_text())
    assert logged["grad_norm"] == pytest.approx(math.hypot(2, 4) * 3.5)
    assert logged["terms"] == {"a": pytest.approx(3.5), "b": pytest.approx(7.0)}


def test_stages_train_what_they_say_at_their_own_rate(tmp_path) -> None:
    method = Line(Stage("first", freeze=("b",)), Stage("second", lr=(("a", 0.0), ("b", 0.1))))
    values = []
    method.after_step = lambda step: values.append((step.stage, method.a.item(), method.b.item()))
    loss, able = method.loss, []
    method.loss = lambda batch, step: (
        able.append((method.a.requires_grad, method.b.requires_grad)),
        loss(batch, step),
    )[1]
    train(method, ToyData(4), tmp_path, recipe(samples=16, clip=0, **SGD), logs=())
    assert able == [(True, False)] * 2 + [(False, True)] * 2
    assert [stage for stage, _, _ in values] == ["first", "first", "second", "second"]
    assert [b for _, _, b in values][:2] == [1.0, 1.0]
    assert values[1][1] == values[2][1] == values[3][1]
    assert values[2][2] == pytest.approx(1 - 1e-4 * 4 * 3.5)
    assert method.a.requires_grad
    assert method.b.requires_grad


def test_the_loss_is_told_where_the_run_is(tmp_path) -> None:
    method = Line(Stage("a", 0.5), Stage("b", 0.5))
    train(method, ToyData(4), tmp_path, recipe(samples=16), logs=())
    assert [(step.stage, step.index, step.progress) for step in method.steps] == [
        ("a", 0, 0.0),
        ("a", 1, 0.5),
        ("b", 2, 0.0),
        ("b", 3, 0.5),
    ]


def test_a_stage_may_train_on_one_part_of_a_mixture(tmp_path) -> None:
    few, many = ToyData(6), ToyData(30)
    few.name, many.name = "few", "many"
    method = Line(Stage("a", data="few"), Stage("b"), Stage("c", data="few"))
    train(method, Mixture([(few, 1.0), (many, 1.0)]), tmp_path, recipe(samples=36, batch=2), logs=())
    first, rest, last = method.seen[:6], method.seen[6:12], method.seen[12:]
    assert sorted(key for keys in first[:3] for key in keys) == [f"toy-{i}" for i in range(6)]
    assert any(key.startswith("many/") for keys in rest for key in keys)
    assert sorted(key for keys in last[:3] for key in keys) == [f"toy-{i}" for i in range(6)]
    with pytest.raises(ValueError, match="'a' trains on the part 'few' of a mixture, and toys is none"):
        train(method, ToyData(), tmp_path / "other", recipe(), logs=())


def test_every_sample_once_an_epoch_and_broken_ones_shift_nothing(tmp_path) -> None:
    whole, holed = Line(), Line()
    train(whole, ToyData(200), tmp_path / "whole", recipe(samples=400, batch=10), logs=())
    finished = train(holed, ToyData(200, broken=(3, 77)), tmp_path / "holed", recipe(samples=400, batch=10), logs=())
    assert sorted(key for keys in whole.seen[:20] for key in keys) == sorted(f"toy-{i}" for i in range(200))
    assert [[key for key in keys if key not in ("toy-3", "toy-77")] for keys in whole.seen] == list(
        map(list, holed.seen)
    )
    assert finished.quarantine == dict.fromkeys(("toy-3", "toy-77"), "it is made to be broken")


def test_a_batch_with_no_sample_left_changes_nothing(tmp_path) -> None:
    method = Line()
    finished = train(method, ToyData(4, broken=range(4)), tmp_path, recipe(samples=8, max_broken=1.0), logs=())
    assert (finished.steps, method.a.item()) == (2, 1.0)
    assert len(finished.quarantine) == 4


def test_workers_change_nothing(tmp_path) -> None:
    one, two = Toy(), Toy()
    train(one, ToyData(), tmp_path / "0", recipe(workers=0), logs=())
    train(two, ToyData(), tmp_path / "2", recipe(workers=2), logs=())
    assert same(one, two)


def rows_of(*values: float) -> list[Row]:
    return [Row("toy", "", "toys", "task", f"m{index}", value) for index, value in enumerate(values)]


def test_evaluations_are_of_the_average_in_eval_mode_and_disturb_nothing(tmp_path) -> None:
    found = []

    def evaluate(method: Toy) -> list[Row]:
        torch.rand(3)
        found.append((method.training, method.head.weight.detach().clone()))
        return rows_of(0.5)

    judged, alone = Toy(), Toy()
    train(judged, ToyData(), tmp_path / "judged", recipe(ema=0.9, evaluations=3), evaluate=evaluate, logs=())
    train(alone, ToyData(), tmp_path / "alone", recipe(ema=0.9), logs=())
    assert [training for training, _ in found] == [False] * 3
    assert torch.equal(found[-1][1], load_file(tmp_path / "judged/checkpoints/last/model.safetensors")["head.weight"])
    assert same(judged, alone)


def test_the_best_checkpoint_is_the_one_with_the_highest_figure(tmp_path) -> None:
    kept = []

    def evaluate(method: Toy) -> list[Row]:
        kept.append(method.head.weight.detach().clone())
        return rows_of(len(kept), (0.1, 0.7, 0.7, 0.3)[len(kept) - 1])

    judge = Judge(evaluate, best=lambda rows: rows[1].value)
    finished = train(Toy(), ToyData(), tmp_path, recipe(evaluations=4), evaluate=judge, logs=())
    best = tmp_path / "checkpoints" / "best"
    assert torch.equal(load_file(best / "model.safetensors")["head.weight"], kept[1])
    facts = [json.loads((tmp_path / f"checkpoints/{name}/state.json").read_text()) for name in ("best", "last")]
    assert [fact["best"] for fact in facts] == [{"value": 0.7, "step": 6}] * 2
    assert [row.value for row in finished.rows] == [4, 0.3]


def test_by_default_the_first_row_is_what_counts_and_nan_is_never_best(tmp_path) -> None:
    values = iter([math.nan, 0.2, 0.1])
    train(Toy(), ToyData(), tmp_path, recipe(evaluations=3), evaluate=lambda _: rows_of(next(values)), logs=())
    assert json.loads((tmp_path / "checkpoints/best/state.json").read_text())["step"] == 8


def test_data_without_a_needed_field_is_refused_at_once(tmp_path) -> None:
    data = ToyData()
    data.has = frozenset({"text"})
    with pytest.raises(MissingField, match=r"toy needs image, which toys \(train\) does not have"):
        train(Toy(), data, tmp_path, recipe(), logs=())


def test_the_seed_decides_order_and_dropout(tmp_path) -> None:
    methods = [Toy() for _ in range(3)]
    for number, (method, seed) in enumerate(zip(methods, (0, 0, 1), strict=True)):
        torch.rand(number)  # whatever happened before
        train(method, ToyData(), tmp_path / str(number), recipe(seed=seed), logs=())
    assert same(methods[0], methods[1])
    assert not same(methods[0], methods[2])
