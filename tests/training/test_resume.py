"""A run that was broken anywhere and went on equals one that was not, bit for bit."""

import json
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from toy import Config, Toy, ToyData, data_for, recipe, same

from diptych.recipe import Recipe
from diptych.results import Row
from diptych.training import DifferentRun, Finished, checkpoint, interrupt, train

ALL = {"ema": 0.9, "accumulate": 2, "evaluations": 4}
CASES = {
    "plain": (Config(), {}),
    "teacher and queue": (Config(teacher=True), {}),
    "average": (Config(), {"ema": 0.9}),
    "accumulated": (Config(), {"accumulate": 2}),
    "two stages": (Config(stages=("head", "slow")), {"ema": 0.9}),
    "lamb": (Config(), {"optimizer": "lamb"}),
    "sgd": (Config(), {"optimizer": "sgd"}),
    "two workers": (Config(teacher=True), {"workers": 2}),
    "stream": (Config(teacher=True, stages=("head", "slow")), {"stream": True, "buffer": 3}),
    "all together": (Config(teacher=True, stages=("head", "slow", "end")), ALL),
}

TIMES = {"seconds": 0, "paused": {}}  # what two equal runs may differ in


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


def evaluate(method: Toy) -> list[Row]:
    torch.rand(5)  # an evaluation may use random numbers
    return [Row("toy", "", "toys", "size", "norm", value=method.head.weight.norm().item())]


def run(method: Toy, out, settings: Recipe, evaluate=evaluate) -> Finished:
    return train(method, data_for(settings), out, settings, evaluate=evaluate, logs=())


def equal(one, other) -> None:
    """Weights, optimiser, averages, best checkpoint, log and figures."""
    for name in ("last", "best"):
        folders = one / "checkpoints" / name, other / "checkpoints" / name
        assert folders[0].exists() == folders[1].exists()
        for file in ("model.safetensors", "state.safetensors") if folders[0].exists() else ():
            mine, theirs = (load_file(folder / file) for folder in folders)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
        if folders[0].exists():
            mine, theirs = (json.loads((folder / "state.json").read_text()) for folder in folders)
            assert mine | TIMES == theirs | TIMES
    assert curve(one) == curve(other)


def curve(out) -> list:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    kept = ("step", "samples", "stage", "loss", "terms", "watch", "lr", "grad_norm", "padding", "rows")
    return [{name: line.get(name) for name in kept} for line in lines]


def breaking(method: Toy, where: str, call: int, monkeypatch):
    """The method and an evaluation, one of which is killed at the given call."""
    seen = []

    def then_killed(function, after=False):
        def wrapped(*arguments):
            seen.append(1)
            if len(seen) == call and not after:
                raise Killed
            result = function(*arguments)
            if len(seen) == call:
                raise Killed
            return result

        return wrapped

    if where in ("loss", "after_step", "views"):
        setattr(method, where, then_killed(getattr(method, where)))
    if where == "sync":  # the files of a checkpoint are written, not yet renamed
        monkeypatch.setattr(checkpoint, "_sync", then_killed(checkpoint._sync))
    if where == "replace":  # after a rename: the old checkpoint is set aside, or the new one is in place
        monkeypatch.setattr(checkpoint.os, "replace", then_killed(os.replace, after=True))
    return method, then_killed(evaluate) if where == "evaluation" else evaluate


@pytest.mark.parametrize("case", CASES)
def test_broken_in_a_step(case, tmp_path, monkeypatch) -> None:
    config, changes = CASES[case]
    settings = recipe(**changes)
    run(unbroken := Toy(config), tmp_path / "unbroken", settings)
    method, judge = breaking(Toy(config), "loss", 7 * settings.accumulate, monkeypatch)
    with pytest.raises(Killed):
        run(method, tmp_path / "broken", settings, judge)
    resumed, steps = Toy(config), []
    after_step, resumed.after_step = resumed.after_step, lambda step: (steps.append(step.index), after_step(step))
    assert run(resumed, tmp_path / "broken", settings).complete
    assert steps == list(range(4, 12))  # it went on from the first checkpoint and did not begin anew
    assert same(unbroken, resumed)
    equal(tmp_path / "unbroken", tmp_path / "broken")


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("views", 30),
        ("loss", 1),
        ("loss", 9),
        ("loss", 10),
        ("loss", 24),
        ("after_step", 5),
        ("after_step", 12),
        ("evaluation", 1),
        ("evaluation", 3),
        ("evaluation", 4),
        ("sync", 1),
        ("sync", 2),
        ("sync", 4),
        ("replace", 1),
        ("replace", 2),
        ("replace", 3),
        ("replace", 4),
        ("replace", 6),
    ],
)
def test_broken_anywhere(where, call, tmp_path, monkeypatch) -> None:
    config, changes = CASES["all together"]
    settings = recipe(**changes)
    run(Toy(config), tmp_path / "unbroken", settings)
    with monkeypatch.context() as patch:
        method, judge = breaking(Toy(config), where, call, patch)
        with pytest.raises(Killed):
            run(method, tmp_path / "broken", settings, judge)
    run(Toy(config), tmp_path / "broken", settings)
    equal(tmp_path / "unbroken", tmp_path / "broken")


def test_broken_within_an_interval_of_the_log(tmp_path, monkeypatch) -> None:
    settings = recipe(samples=300 * 4, checkpoints=60)  # a line after every third step, a checkpoint after every fifth
    run(Toy(), tmp_path / "unbroken", settings)
    method, judge = breaking(Toy(), "loss", 12, monkeypatch)  # after the checkpoint of step 10
    with pytest.raises(Killed):
        run(method, tmp_path / "broken", settings, judge)
    run(Toy(), tmp_path / "broken", settings)
    equal(tmp_path / "unbroken", tmp_path / "broken")
    assert [line["step"] for line in curve(tmp_path / "broken")][:4] == [3, 6, 9, 12]


def test_broken_again_and_again(tmp_path, monkeypatch) -> None:
    config, changes = CASES["all together"]
    settings = recipe(**changes, checkpoints=12)
    run(Toy(config), tmp_path / "unbroken", settings)
    for _ in range(4):
        method, judge = breaking(Toy(config), "loss", 6, monkeypatch)  # gets two steps further each time
        with pytest.raises(Killed):
            run(method, tmp_path / "broken", settings, judge)
    run(Toy(config), tmp_path / "broken", settings)
    for name in ("model", "state"):
        mine, theirs = (
            load_file(tmp_path / r / f"checkpoints/last/{name}.safetensors") for r in ("unbroken", "broken")
        )
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    assert curve(tmp_path / "unbroken") == curve(tmp_path / "broken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, tmp_path, capsys) -> None:
    run(unbroken := Toy(), tmp_path / "unbroken", recipe())
    method, loss = Toy(), Toy.loss
    method.loss = lambda batch, step: (step.index == 4 and os.kill(os.getpid(), number), loss(method, batch, step))[1]
    before = signal.getsignal(number)
    finished = run(method, tmp_path / "broken", recipe())
    assert signal.getsignal(number) is before
    assert (finished.complete, finished.steps) == (False, 5)
    assert "stopped at step 5 of 12: the same command again goes on from" in capsys.readouterr().err
    finished = run(resumed := Toy(), tmp_path / "broken", recipe())
    assert (finished.complete, finished.steps) == (True, 12)
    assert same(unbroken, resumed)


def test_the_second_signal_stops_at_once(tmp_path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        _interrupted_twice(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted_twice(tmp_path) -> None:
    method, loss = Toy(), Toy.loss

    def twice(batch, step):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return loss(method, batch, step)

    method.loss = twice
    with pytest.raises(KeyboardInterrupt):
        run(method, tmp_path, recipe())
    assert not (tmp_path / "checkpoints").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_wish_from_another_process_saves_and_stops_outside_the_main_thread(tmp_path, monkeypatch) -> None:
    """Where Python hands out no signals, as in the processes of Ray."""
    asked, method, done = threading.Event(), Toy(), []
    monkeypatch.setattr(interrupt, "asked", asked)
    method.after_step = lambda step: asked.set() if step.index == 4 else None
    thread = threading.Thread(target=lambda: done.append(run(method, tmp_path, recipe())))
    thread.start()
    thread.join()
    assert (done[0].steps, done[0].complete) == (5, False)
    assert json.loads((tmp_path / "checkpoints/last/state.json").read_text())["step"] == 5


def test_a_finished_run_is_not_trained_again(tmp_path) -> None:
    settings = recipe(evaluations=1, ema=0.5)
    first = run(one := Toy(), tmp_path, settings)
    second = run(two := Toy(seed=5), tmp_path, settings)
    assert same(one, two)
    assert second.rows == first.rows
    assert (second.steps, second.complete) == (12, True)


@pytest.mark.parametrize(
    ("config", "changes", "size", "name"),
    [
        (Config(), {"lr": 0.02}, 20, r"recipe\.lr=0\.01, and now it is 0\.02"),
        (Config(), {"batch": 8}, 20, r"recipe\.batch=4"),
        (Config(), {"samples": 96}, 20, r"recipe\.samples=48"),
        (Config(width=7), {}, 20, r"config\.width=6, and now it is 7"),
        (Config(), {}, 21, r"data\.samples=20, and now it is 21"),
    ],
)
def test_another_run_is_refused_by_the_name_of_the_field(config, changes, size, name, tmp_path) -> None:
    train(Toy(), ToyData(), tmp_path, recipe(), logs=())
    with pytest.raises(DifferentRun, match=name):
        train(Toy(config), ToyData(size), tmp_path, recipe(**changes), logs=())


def test_what_leaves_the_weights_alone_may_change(tmp_path, monkeypatch) -> None:
    run(unbroken := Toy(), tmp_path / "unbroken", recipe())
    method, judge = breaking(Toy(), "loss", 7, monkeypatch)
    with pytest.raises(Killed):
        run(method, tmp_path / "broken", recipe(), judge)
    run(
        resumed := Toy(),
        tmp_path / "broken",
        replace(recipe(), workers=1, evaluations=3, checkpoints=5, max_broken=0.5),
    )
    assert same(unbroken, resumed)


def test_must_and_never(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint to go on from"):
        train(Toy(), ToyData(), tmp_path, recipe(), logs=(), resume="must")
    train(Toy(), ToyData(), tmp_path, recipe(), logs=())
    again = Toy(seed=3)
    train(again, ToyData(), tmp_path, recipe(lr=0.02), logs=(), resume="never")
    fresh = Toy(seed=3)
    train(fresh, ToyData(), tmp_path / "other", recipe(lr=0.02), logs=())
    assert same(again, fresh)
    assert curve(tmp_path) == curve(tmp_path / "other")
