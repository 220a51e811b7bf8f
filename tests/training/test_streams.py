"""A stream of tasks: what is learned when, what a buffer holds, and what a method is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import Config, Toy, ToyData, mixture, norm, recipe

from diptych.config import to_dict
from diptych.data.dataset import permutation
from diptych.data.mixture import Mixture
from diptych.recipe import Recipe, Stage
from diptych.training import Judge, streams, train
from diptych.training.schedule import plan

STREAM = recipe(stream=True, samples=64)  # 16 steps: 4 of the first task, which has a quarter of the weight


def three(*sizes: int) -> Mixture:
    parts = [ToyData(size) for size in sizes]
    return Mixture([(part, 1.0) for part in parts], names="abc"[: len(sizes)])


def test_every_stage_begins_anew_with_every_task(tmp_path) -> None:
    told, steps = [], []
    method = Toy(Config(stages=("head", "slow")))
    method.before_stage = lambda step: told.append((step.stage, step.task, step.index, torch.is_grad_enabled()))

    def after_step(step) -> None:
        steps.append((step.task, step.stage))
        assert all(value.grad is not None for name, value in method.named_parameters() if name.startswith("head"))

    method.after_step = after_step
    learned: list = []
    judge = Judge(norm, learned=lambda model, task: learned.append((task, len(steps))) or norm(model))
    train(method, mixture(), tmp_path, replace(STREAM, max_broken=0.5), evaluate=judge, logs=())
    assert told == [("head", 0, 0, False), ("slow", 0, 2, False), ("head", 1, 4, False), ("slow", 1, 10, False)]
    assert steps == [(0, "head")] * 2 + [(0, "slow")] * 2 + [(1, "head")] * 6 + [(1, "slow")] * 6
    assert learned == [(0, 4), (1, 16)]
    assert '"stage": "head (task 2)"' in (tmp_path / "log.jsonl").read_text()


def test_outside_of_a_stream_no_task_is_learned(tmp_path) -> None:
    method, told = Toy(), []
    method.before_stage = lambda step: told.append(step.task)
    train(
        method,
        ToyData(),
        tmp_path,
        recipe(),
        evaluate=Judge(norm, learned=lambda *_: pytest.fail("no task ended")),
        logs=(),
    )
    assert told == [0]


def test_a_task_sees_its_own_samples_alone(tmp_path) -> None:
    seen: dict[int, set[str]] = {0: set(), 1: set()}

    class Noting(Toy):
        def loss(self, batch, step):
            seen[step.task] |= set(batch.sample_keys)
            return super().loss(batch, step)

    train(Noting(), mixture(), tmp_path, replace(STREAM, max_broken=0.5), logs=())
    assert seen[0] == {f"few/toy-{i}" for i in range(7)}
    assert {key.partition("/")[0] for key in seen[1]} == {"many"}


def test_the_buffer_is_shared_out_equally_and_shrinks_within_itself() -> None:
    data, asked = three(10, 2, 10), replace(STREAM, buffer=5, seed=3)
    assert streams.exemplars(0, data, asked).tolist() == []
    of_a = permutation(10, 0, 3, True)
    first, second = streams.exemplars(1, data, asked).tolist(), streams.exemplars(2, data, asked).tolist()
    assert first == sorted(of_a[:5])
    assert second == [*sorted(of_a[:3]), 10, 11]  # 3 of the first task and 2 of the second, all that it has
    assert set(second[:3]) < set(first)
    assert len(streams.exemplars(2, data, replace(asked, buffer=20))) == 12  # ten and two; free places stay empty
    assert streams.exemplars(1, data, replace(asked, seed=4)).tolist() != first


def test_samples_of_the_buffer_come_as_often_as_the_tasks_own() -> None:
    data = three(10, 4, 6)
    seen = streams.seen_in(2, data, replace(STREAM, buffer=4))
    assert len(seen) == 6 + 4
    order = seen.order(0, 0, True)
    keys = [seen.key(index) for index in order]
    assert len(set(keys)) == 10
    assert {key[0] for key in keys} == {"a", "b", "c"}
    assert seen.indices[:6].tolist() == list(range(14, 20))


def test_stages_on_tasks_in_shares_by_weight() -> None:
    own = [Stage("a", 1), Stage("b", 3)]
    spans = plan(replace(STREAM, samples=128), streams.stages(own, STREAM, mixture()))
    assert [(span.name, span.start, span.end) for span in spans] == [
        ("a (task 1)", 0, 2),
        ("b (task 1)", 2, 8),
        ("a (task 2)", 8, 14),
        ("b (task 2)", 14, 32),
    ]
    assert [span.first_sample for span in spans] == [0, 8, 0, 24]  # stages of a task go on in its data
    assert streams.stages(own, recipe(), ToyData()) == own


@pytest.mark.parametrize(
    ("own", "settings", "data", "says"),
    [
        ([Stage()], STREAM, ToyData(), "at least two tasks, and toys is one"),
        ([Stage()], STREAM, three(5), "at least two tasks"),
        ([Stage("x", data="few")], STREAM, mixture(), "stage 'x' trains on the part 'few'"),
        ([Stage()], recipe(buffer=3), mixture(), "add stream"),
        ([Stage()], replace(STREAM, buffer=-1), mixture(), "at least 0"),
    ],
)
def test_streams_that_cannot_be(own, settings, data, says) -> None:
    with pytest.raises(ValueError, match=says) as error:
        streams.stages(own, settings, data)
    assert str(error.value).count(". ") == 0


def test_a_recipe_without_a_stream_is_written_as_ever() -> None:
    assert not {"stream", "buffer"} & to_dict(Recipe()).keys()
    assert to_dict(Recipe(stream=True, buffer=7))["buffer"] == 7
    assert np.isclose(Recipe().lr, to_dict(Recipe())["lr"])
