import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from toy import Config, Toy, ToyData, recipe

from diptych.batch import Batch
from diptych.results import Row
from diptych.training import logs, train


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_line_says_all_that_the_step_did(tmp_path) -> None:
    train(Toy(Config(teacher=True)), ToyData(), tmp_path, recipe(), logs=())
    found = lines(tmp_path)
    assert [line["step"] for line in found] == list(range(1, 13))
    line = found[5]
    assert line["samples"] == 24
    assert line["loss"] == pytest.approx(line["terms"]["contrastive"] + line["terms"]["taught"])
    assert line["watch"].keys() == {"scale", "progress"}
    assert line["watch"]["progress"] == pytest.approx(5 / 12)
    assert 0 < line["lr"] < 1e-2
    assert line["grad_norm"] > 0
    assert line["samples_per_second"] > 0
    assert 0 <= line["wait"] <= 1
    assert line["memory_gb"] > 0.01
    assert found[5]["seconds"] < found[6]["seconds"]


def test_padding_is_the_share_of_masked_positions() -> None:
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    batch = Batch({"text": torch.zeros(2, 4), "text_mask": mask, "other_mask": torch.ones(2, 4, dtype=torch.bool)})
    assert logs.padding(batch) == pytest.approx(3 / 16)
    assert logs.padding(Batch({"text": torch.zeros(2, 4)})) is None


def test_a_meter_averages_each_term_over_the_steps_that_had_it() -> None:
    meter = logs.Meter()
    meter.add(logs.Update(terms={"a": torch.tensor(1.0), "b": torch.tensor(5.0)}, wait=0.0))
    meter.add(logs.Update(terms={"a": torch.tensor(3.0)}, wait=1e9))
    record = meter.record(batch=4)
    assert record["terms"] == {"a": 2.0, "b": 5.0}
    assert record["wait"] > 1
    meter.add(logs.Update(terms={"a": torch.tensor(7.0)}))
    assert meter.record(batch=4)["terms"] == {"a": 7.0}


def test_records_of_several_processes_are_averaged() -> None:
    one = {"loss": 1.0, "terms": {"a": 1.0}, "wait": 0.2, "padding": None, "memory_gb": 1.0, "lr": 0.1}
    two = {"loss": 3.0, "terms": {"a": 3.0}, "wait": 0.4, "padding": 0.5, "memory_gb": 2.0, "lr": 0.1}
    both = {"loss": 2.0, "terms": {"a": 2.0}, "wait": pytest.approx(0.3), "padding": 0.5, "memory_gb": 2.0, "lr": 0.1}
    assert logs.merged([one, two]) == both
    assert logs.merged([one]) == one


def test_the_words_of_a_record() -> None:
    record = {
        "terms": {"a": 1.0, "b": 0.5},
        "loss": 1.5,
        "samples_per_second": 100.0,
        "wait": 0.25,
        "memory_gb": 1.26,
        "skipped": 0,
    }
    line = logs.line_of(record, left=370_000)
    assert line == "loss 1.5 (a 1, b 0.5)  100/s  waits 25%  1.3 GB  1:01:40 left"
    assert "1.3 GB  3 skipped  1:01:40 left" in logs.line_of({**record, "skipped": 3}, left=370_000)
    assert logs.line_of({**record, "terms": {"a": 1.5}}, left=100).startswith("loss 1.5  100/s")


def test_without_a_terminal_there_are_plain_lines_now_and_then(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(logs, "_PLAIN_SECONDS", 0.0)
    train(Toy(), ToyData(), tmp_path, recipe(), logs=())
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "toy: 181 of 181 parameters on cpu in fp32, 12 steps of 4 samples"
    assert len(said) == 1 + 12
    assert "\x1b" not in "".join(said)
    assert said[-1].startswith("train 12/12  loss ")


def test_on_a_terminal_there_is_a_bar(tmp_path, monkeypatch) -> None:
    console = Console(force_terminal=True, width=150, record=True, file=io.StringIO())
    monkeypatch.setattr(logs, "Console", lambda stderr: console)
    train(Toy(), ToyData(), tmp_path, recipe(), logs=())
    shown = console.export_text()
    assert "12/12" in shown
    assert "0:00:00 left" in shown


def test_evaluations_are_in_the_log(tmp_path) -> None:
    row = Row("toy", "", "toys", "retrieval", "R@1", 0.5)
    train(Toy(), ToyData(), tmp_path, recipe(evaluations=2), evaluate=lambda _: [row], logs=())
    found = [line for line in lines(tmp_path) if "rows" in line]
    assert [line["step"] for line in found] == [6, 12]
    assert found[0]["rows"][0]["value"] == 0.5
    assert found[0]["rows"][0]["low"] is None


def test_tensorboard_holds_the_curves(tmp_path) -> None:
    row = Row("toy", "", "toys", "retrieval", "R@1", 0.5)
    train(Toy(), ToyData(), tmp_path, recipe(evaluations=1), evaluate=lambda _: [row])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 13))
    assert events.Scalars("train/terms/contrastive")[3].value == pytest.approx(lines(tmp_path)[3]["loss"], rel=1e-5)
    assert events.Scalars("evaluation/toys/retrieval/R@1")[0].step == 12


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_logs_by_name(name, tmp_path, monkeypatch) -> None:
    calls = []
    module = SimpleNamespace(
        init=lambda **options: calls.append(("init", options)),
        log=lambda values, step: calls.append(("log", step, values)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, name, module)
    train(Toy(), ToyData(), tmp_path / "mine", recipe(), logs=(name,))
    kinds = [call[0] for call in calls]
    assert kinds == ["init", *["log"] * 12, "finish"]
    assert calls[0][1]["name"] == "mine"
    assert calls[0][1]["config"]["recipe"]["lr"] == 0.01
    assert calls[3][1] == 3
    assert calls[3][2]["train/loss"] == pytest.approx(lines(tmp_path / "mine")[2]["loss"])


def test_a_log_that_is_not_there(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="no log called 'tensorbord'; did you mean 'tensorboard'"):
        train(Toy(), ToyData(), tmp_path, recipe(), logs=("tensorbord",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        train(Toy(), ToyData(), tmp_path, recipe(), logs=("wandb",))
