"""Every method trains by command on the pictures that come with the library, and goes on where it was stopped."""

import os
import signal
from dataclasses import fields

import pytest
from app_helpers import TINY

from diptych import methods
from diptych.app import main as command_line, sources
from diptych.batch import missing


def flags(id: str) -> list[str]:
    """A tiny run of four steps; of the sizes of towers those that the method has."""
    names = {field.name for field in fields(methods.config_class(id))}
    tiny = TINY | {"text_layers": 2}  # halves of a text tower
    sizes = [
        text for name, value in tiny.items() if name in names for text in (f"--{name.replace('_', '-')}", f"{value}")
    ]
    run = ["--samples", "32", "--batch", "8", "--checkpoints", "1", "--evaluations", "0", "--workers", "0"]
    judged = ["--task", "gap"] if methods.card(id).family == "contrastive" else ["--val", scenes(id)]
    return [*sizes, *run, "--precision", "fp32", "--writers", "none", "--device", "cpu", *judged]


def scenes(id: str) -> str:
    """A small world, of clips for a method that sees clips, of solid things for one that sees point clouds."""
    seen = {"video": ",video=true", "points": ",points=true,objects=1,pixels=32", "category": ",objects=1"}
    return "world:train=64,evaluation=4" + "".join(seen.get(name, "") for name in methods.card(id).needs)


def stopped(loss, at: int):
    """A loss at whose given call somebody presses Ctrl-C."""
    calls = []

    def stops(self, batch, step):
        calls.append(step)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch, step)

    return stops


@pytest.mark.shows("T")
@pytest.mark.parametrize("id", methods.IDS)
def test_an_interrupted_run_ends_in_the_weights_of_an_unbroken_one(id, tmp_path, monkeypatch, capsys):
    real = not missing(sources.open_source("starter").has, methods.card(id).needs)
    command = ["train", id, "--data", "starter" if real else scenes(id), *flags(id), "--out"]
    assert command_line.main([*command, str(tmp_path / "whole")]) == 0
    method = methods.method_class(id)
    with monkeypatch.context() as patch:
        patch.setattr(method, "loss", stopped(method.loss, at=2))
        assert command_line.main([*command, str(tmp_path / "broken")]) == command_line.INTERRUPTED
    assert "saved at step 2" in capsys.readouterr().err
    assert command_line.main([*command, str(tmp_path / "broken")]) == 0
    whole, broken = (tmp_path / name / "checkpoints" / "last" / "model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
