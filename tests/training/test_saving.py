"""Saving beside training: what is written is the run as it was, one save after the other, and no failure is lost."""

import json
import threading
import time

import pytest
import torch
from safetensors.torch import load_file
from test_checkpoint import Tied, begun
from toy import Config, Toy, ToyData, recipe

from diptych import methods
from diptych.training import SaveFailed, checkpoint, snapshot, train
from diptych.training.saving import Saver


@pytest.fixture
def held(monkeypatch):
    """Writing waits until this event is set."""
    let = threading.Event()
    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *given: (let.wait(10), write(*given)))
    return let


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def spoil(run) -> None:
    """Everything changes, as training changes it."""
    with torch.no_grad():
        for value in [*run.method.state_dict().values(), *run.tensors().values()]:
            value.fill_(7)
    run.step, run.best, run.quarantine["new"] = 9, 1.0, "broken"


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}])
@pytest.mark.parametrize("kind", [lambda: Toy(Config(teacher=True)), Tied])
def test_what_is_written_later_is_what_was_taken(kind, changes, tmp_path, held) -> None:
    run = begun(kind(), tmp_path, **changes)
    checkpoint_now = tmp_path / "now"
    held.set()
    checkpoint.write(snapshot.take(run), checkpoint_now)
    held.clear()
    with Saver() as saver:
        saver.save(run, [run.last])
        spoil(run)
        assert not run.last.exists()
        held.set()
    assert files(run.last) == files(checkpoint_now)


def test_a_method_that_saves_itself_is_given_the_weights(tmp_path, held) -> None:
    config = methods.config_class("clip")(
        image_size=16, image_width=16, image_layers=1, text_width=16, text_layers=1, embed=8
    )
    run = begun(methods.build("clip", config), tmp_path, ema=0.9)
    averages = {name: value.clone() for name, value in run.average.copies.items()}
    with Saver() as saver:
        saver.save(run, [run.last])
        spoil(run)
        held.set()
    saved = load_file(run.last / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in averages.items())
    loaded = type(run.method).from_pretrained(run.last)
    assert torch.equal(loaded.image_head.weight, averages["image_head.weight"])


def test_memory_is_used_again_and_holds_the_new_values(tmp_path) -> None:
    run = begun(Toy(), tmp_path)
    first = snapshot.take(run)
    place, before = first.weights["head.weight"].data_ptr(), first.weights["head.weight"].clone()
    spoil(run)
    second = snapshot.take(run, first)
    assert second.weights["head.weight"].data_ptr() == place
    assert (second.weights["head.weight"] == 7).all()
    assert not torch.equal(second.weights["head.weight"], before)


def test_one_save_after_the_other(tmp_path, held) -> None:
    run = begun(Toy(), tmp_path)
    with Saver() as saver:
        saver.save(run, [run.last])
        threading.Timer(0.05, held.set).start()
        run.step = 2
        saver.save(run, [run.best_so_far, run.last])  # waits for the one before
        assert checkpoint.read(run.last).facts["step"] in (1, 2)
    assert checkpoint.read(run.last).facts["step"] == checkpoint.read(run.best_so_far).facts["step"] == 2


def failing(*given) -> None:
    raise SaveFailed("the disk refuses")


def test_a_failure_is_raised_at_the_next_occasion_and_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "write", failing)
    run = begun(Toy(), tmp_path)
    for occasion in (lambda saver: saver.wait(), lambda saver: saver.save(run, [run.last])):
        with Saver() as saver:
            saver.save(run, [run.last])
            with pytest.raises(SaveFailed):
                occasion(saver)
    with pytest.raises(SaveFailed), Saver() as saver:
        saver.save(run, [run.last])


def test_the_error_that_came_first_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "write", failing)
    run = begun(Toy(), tmp_path)
    with pytest.raises(ZeroDivisionError), Saver() as saver:
        (saver.save(run, [run.last]), 1 / 0)


def test_training_stops_soon_after_a_failure(tmp_path, monkeypatch) -> None:
    method, steps = Toy(), []
    monkeypatch.setattr(checkpoint, "write", failing)

    def after_step(step) -> None:
        steps.append(step.index)
        if step.index > 5:  # while this waits, the save after step 6 fails
            time.sleep(0.05)

    method.after_step = after_step
    with pytest.raises(SaveFailed, match="the disk refuses"):
        train(method, ToyData(), tmp_path, recipe(checkpoints=2), logs=())
    assert 6 <= steps[-1] < 11


def test_the_log_tells_how_long_training_stood_still(tmp_path) -> None:
    finished = train(Toy(), ToyData(), tmp_path, recipe(), logs=())
    paused = [json.loads(line)["paused"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert paused[:4] == [{}] * 4  # the first save comes after the fourth step
    assert 0 < paused[4]["saving"] == paused[7]["saving"] < paused[8]["saving"] < finished.paused["saving"]
