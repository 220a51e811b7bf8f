"""Steps that are not finite are skipped and counted; a machine that is too small says what helps."""

import json
import math
import os
import resource
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from killed import SERVER
from test_resume import Killed, breaking, equal
from toy import Config, Toy, ToyData, recipe, same

from diptych.batch import Terms
from diptych.training import NonFinite, OutOfMemory, SaveFailed, checkpoint, guards, train
from diptych.training.distributed import Place
from diptych.training.state import Run


class Spoilt(Toy):
    """Its loss is infinite, and so no number in its gradient, at the given steps."""

    def __init__(self, *steps: int, config: Config | None = None) -> None:
        super().__init__(config)
        self.steps, self.seen, self.moved = steps, [], []

    def loss(self, batch, step) -> Terms:
        terms = super().loss(batch, step)
        self.seen.append(batch.sample_keys)
        factor = math.inf if step.index in self.steps else 1.0
        return Terms(**{name: value * factor for name, value in terms.items()})

    def after_step(self, step) -> None:
        self.moved.append(step.index)
        super().after_step(step)


def nonfinite(out) -> list[dict]:
    return [json.loads(line) for line in (out / "nonfinite.jsonl").read_text().splitlines()]


def test_a_step_that_is_not_finite_moves_nothing_and_shifts_nothing(tmp_path) -> None:
    settings = recipe(ema=0.9)
    whole, holed = Spoilt(), Spoilt(4, 7)
    held = {}

    def watched(step) -> None:
        held[step.index] = holed.head.weight.detach().clone()

    holed.after_step = watched
    first = train(whole, ToyData(), tmp_path / "whole", settings, logs=())
    second = train(holed, ToyData(), tmp_path / "holed", settings, logs=())
    assert (first.skipped, second.skipped, second.steps) == (0, 2, 12)
    assert list(held) == [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]
    assert holed.seen == whole.seen
    rates = [
        {line["step"]: line["lr"] for line in map(json.loads, (tmp_path / name / "log.jsonl").open())}
        for name in ("whole", "holed")
    ]
    assert rates[1] == {step: lr for step, lr in rates[0].items() if step not in (5, 8)}
    assert all(torch.isfinite(value).all() for value in held.values())
    facts = json.loads((tmp_path / "holed/checkpoints/last/state.json").read_text())
    assert facts["averaged"] == 10
    assert facts["skipped"] == {"all": 2, "in_a_row": 0}
    assert [record["step"] for record in nonfinite(tmp_path / "holed")] == [4, 7]
    assert [tuple(record["keys"]) for record in nonfinite(tmp_path / "holed")] == [whole.seen[4], whole.seen[7]]


def test_a_skipped_step_leaves_weights_and_teacher_as_they_were(tmp_path) -> None:
    config = Config(teacher=True)
    short, long = Spoilt(config=config), Spoilt(8, 9, 10, 11, config=config)
    settings = recipe(schedule="constant", warmup=0.0)
    train(short, ToyData(), tmp_path / "short", replace(settings, samples=32), logs=())
    train(long, ToyData(), tmp_path / "long", settings, logs=())
    assert same(short, long)
    assert long.moved == list(range(8))


def test_the_log_holds_no_such_figure_and_counts_them(tmp_path) -> None:
    train(Spoilt(4, 5), ToyData(), tmp_path, recipe(), logs=())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 7, 8, 9, 10, 11, 12]
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in lines)
    assert [line["skipped"] for line in lines] == [0] * 4 + [2] * 6


@pytest.mark.parametrize(("allowed", "stops_at"), [(0, 4), (2, 6)])
def test_too_many_in_a_row_stop_the_run_with_the_keys(allowed, stops_at, tmp_path) -> None:
    method = Spoilt(1, *range(4, 12)) if allowed else Spoilt(*range(4, 12))
    with pytest.raises(NonFinite, match=rf"not finite at step {stops_at} \(contrastive inf, gradient nan\)") as error:
        train(method, ToyData(), tmp_path, recipe(max_nonfinite=allowed), logs=())
    assert tuple(error.value.keys) == method.seen[-1]
    assert [tuple(record["keys"]) for record in nonfinite(tmp_path)][-allowed - 1 :] == method.seen[4:]
    assert json.loads((tmp_path / "checkpoints/last/state.json").read_text())["step"] == 4
    assert torch.isfinite(method.head.weight).all()


def test_every_second_step_never_stops_the_run(tmp_path) -> None:
    finished = train(Spoilt(*range(0, 12, 2)), ToyData(), tmp_path, recipe(max_nonfinite=1), logs=())
    assert (finished.skipped, finished.complete) == (6, True)


class Normed(Spoilt):
    """As batch norm, it keeps a running mean, which no skipped step can clean."""

    def __init__(self, *steps: int) -> None:
        super().__init__(*steps)
        self.register_buffer("mean", torch.zeros(()))

    def loss(self, batch, step) -> Terms:
        terms = super().loss(batch, step)
        self.mean.lerp_(terms.total.detach() - terms.total.detach(), 0.1)  # inf - inf
        return terms


def test_a_spoilt_buffer_stops_the_run_at_once(tmp_path) -> None:
    with pytest.raises(NonFinite, match=r"step 5 .* and with it the buffer mean"):
        train(Normed(5), ToyData(), tmp_path, recipe(), logs=())


@pytest.mark.parametrize(("where", "call"), [("loss", 7), ("loss", 10), ("sync", 2), ("after_step", 5)])
def test_resumed_with_skipped_steps(where, call, tmp_path, monkeypatch) -> None:
    def method() -> Spoilt:
        return Spoilt(2, 3, 5, 8, config=Config(teacher=True))

    settings = recipe(ema=0.9)
    train(method(), ToyData(), tmp_path / "unbroken", settings, logs=())
    with monkeypatch.context() as patch:
        broken, _ = breaking(method(), where, call, patch)
        with pytest.raises(Killed):
            train(broken, ToyData(), tmp_path / "broken", settings, logs=())
    finished = train(method(), ToyData(), tmp_path / "broken", settings, logs=())
    assert finished.skipped == 4
    equal(tmp_path / "unbroken", tmp_path / "broken")
    assert nonfinite(tmp_path / "unbroken") == nonfinite(tmp_path / "broken")


def test_those_in_a_row_are_counted_across_a_crash(tmp_path, monkeypatch) -> None:
    settings = recipe(checkpoints=12, max_nonfinite=3)
    broken, _ = breaking(Spoilt(*range(4, 12)), "loss", 7, monkeypatch)
    with pytest.raises(Killed):
        train(broken, ToyData(), tmp_path, settings, logs=())
    with pytest.raises(NonFinite, match=r"at step 7 .* after 4 such in a row"):
        train(Spoilt(*range(4, 12)), ToyData(), tmp_path, settings, logs=())
    assert [record["step"] for record in nonfinite(tmp_path)] == [4, 5, 6, 7]


# -- memory and disk ---------------------------------------------------------------------------------------------------


def run_of(tmp_path, method=None, **changes) -> Run:
    return Run(method or Toy(), recipe(**changes), Place(torch.device("cpu")), tmp_path)


def test_out_of_memory_names_the_options_that_method_and_recipe_have(tmp_path) -> None:
    with pytest.raises(OutOfMemory) as plain, guards.explained(run_of(tmp_path)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...")
    assert "on cpu at step 0 for 2.50 GiB more" in str(plain.value)
    cached = ", with --grad-cache where the loss is to be that of the whole batch"
    helps = "a smaller --batch (now 4), a larger --accumulate (now {}), --precision bf16 (now fp32)"
    assert helps.format(f"1{cached}") in str(plain.value)
    with pytest.raises(OutOfMemory) as parts, guards.explained(run_of(tmp_path, accumulate=2, grad_cache=True)):
        raise MemoryError
    assert helps.format(2) in str(parts.value)
    assert "`diptych plan toy` says what fits" in str(plain.value)
    assert "--tile" not in str(plain.value)
    assert "--ema" not in str(plain.value)

    from diptych import methods

    tiled = methods.build("clip", methods.config_class("clip")(image_layers=1, text_layers=1), weights=False)
    with pytest.raises(OutOfMemory) as more, guards.explained(run_of(tmp_path, tiled, ema=0.9)):
        raise MemoryError
    assert "--tile 64 (now 0, the whole)" in str(more.value)
    assert "--ema 0 (now 0.9)" in str(more.value)


def test_other_errors_stay_as_they_are(tmp_path) -> None:
    for error in (RuntimeError("a shape"), FileNotFoundError("a file"), SaveFailed("a sentence")):
        with pytest.raises(type(error)) as found, guards.explained(run_of(tmp_path)):
            raise error
        assert found.value is error


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def greedy(out: Path, said: Connection) -> None:
    """Trains, in a process that after its first step may hardly grow any more, and then needs a gigabyte."""
    method = Toy()
    method.after_step = lambda step: resource.setrlimit(resource.RLIMIT_AS, (address_space() + 2**27,) * 2)
    loss = method.loss
    method.loss = lambda batch, step: loss(batch, step) if step.index == 0 else torch.zeros(2**28)
    try:
        train(method, ToyData(), out, recipe(checkpoints=1), logs=())
    except OutOfMemory as error:
        said.send(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="limits and reads the address space of Linux")
def test_memory_that_really_runs_out_is_one_sentence(tmp_path) -> None:
    mine, theirs = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=greedy, args=(tmp_path, theirs))
    process.start()
    process.join(60)
    sentence = mine.recv() if mine.poll() else ""
    assert sentence.startswith("out of memory on cpu at step 1")
    assert "a smaller --batch (now 4)" in sentence
    assert "\n" not in sentence


def limit_files(bytes_: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_disk_that_fills_up_during_training_loses_nothing(tmp_path) -> None:
    config, settings = Config(width=64, teacher=True), recipe(ema=0.9, checkpoints=6)
    train(unbroken := Toy(config), ToyData(), tmp_path / "unbroken", settings, logs=())
    method = Toy(config)
    after_step, before = method.after_step, resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    state = tmp_path / "full/checkpoints/last/state.json"

    def then_full(step) -> None:
        after_step(step)
        if step.index == 4:
            while not state.is_file() or json.loads(state.read_text())["step"] != 4:  # it is still being saved
                time.sleep(0.001)
            limit_files(20_000)  # no file may grow beyond this: the save after step 6 stops in the middle of a write

    method.after_step = then_full
    try:
        with pytest.raises(
            SaveFailed, match=r"checkpoint of step 6 could .* that of step 4 is kept: make room"
        ) as error:
            train(method, ToyData(), tmp_path / "full", settings, logs=())
    finally:
        limit_files(before)
    assert "\n" not in str(error.value)
    assert checkpoint.read(tmp_path / "full/checkpoints/last").facts["step"] == 4
    assert [path.name for path in (tmp_path / "full/checkpoints").iterdir()] == ["last"]
    train(resumed := Toy(config), ToyData(), tmp_path / "full", settings, logs=(), resume="must")
    assert same(unbroken, resumed)
    equal(tmp_path / "unbroken", tmp_path / "full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_is_one_sentence_too(tmp_path) -> None:
    os.symlink("/dev/full", tmp_path / "log.jsonl")
    with pytest.raises(SaveFailed, match=r"there is no room for the files of the run in .*make room on the disk"):
        train(Toy(), ToyData(), tmp_path, recipe(), logs=())
