import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import Config, Toy, ToyData, recipe, same

from diptych.training import DamagedCheckpoint, SaveFailed, checkpoint, snapshot, train
from diptych.training.distributed import Place
from diptych.training.state import Run


def begun(method, out, **changes) -> Run:
    """A run in its first stage, with optimiser state."""
    run = Run(method, recipe(**changes), Place(torch.device("cpu")), out)
    run.enter(run.span)
    for value in method.parameters():
        value.grad = torch.ones_like(value)
    run.optimiser.step()
    if run.average:
        run.average.update()
    run.step = 1
    return run


def test_the_folder_holds_tensors_and_json_only(tmp_path) -> None:
    train(Toy(), ToyData(), tmp_path, recipe(), logs=())
    folder = tmp_path / "checkpoints" / "last"
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "state.safetensors",
        "state.json",
    }
    facts = json.loads((folder / "state.json").read_text())
    assert (facts["step"], facts["samples"], facts["stage"]) == (12, 48, "train")
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["shapes"]["image.0.weight"] == [6, 8]
    assert json.loads((folder / "config.json").read_text())["config"]["width"] == 6
    assert [path.name for path in folder.parent.iterdir()] == ["last"]


def test_the_average_is_what_is_taken_away(tmp_path) -> None:
    run = begun(Toy(), tmp_path, ema=0.9)
    raw = run.method.head.weight.detach().clone()
    checkpoint.write(snapshot.take(run), run.last)
    exported = load_file(run.last / "model.safetensors")["head.weight"]
    assert torch.equal(exported, run.average.copies["head.weight"])
    assert not torch.equal(exported, raw)
    saved = checkpoint.read(run.last)
    assert torch.equal(saved.weights["head.weight"], raw)
    assert torch.equal(run.method.head.weight, raw)


def test_after_training_the_method_holds_what_was_saved(tmp_path) -> None:
    train(method := Toy(), ToyData(), tmp_path, recipe(ema=0.9), logs=())
    exported = load_file(tmp_path / "checkpoints/last/model.safetensors")
    assert all(torch.equal(value, exported[name]) for name, value in method.state_dict().items())


class Tied(Toy):
    """Two names for one weight, one of which safetensors leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.second = torch.nn.Linear(6, 6, bias=False)
        self.second.weight = self.head.weight


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_tied_weights_come_back_tied_and_equal(ema, tmp_path) -> None:
    run = begun(Tied(), tmp_path, ema=ema)
    checkpoint.write(snapshot.take(run), run.last)
    other = Run(Tied(), run.recipe, run.place, tmp_path)
    other.restore(*checkpoint.read(run.last))
    assert same(run.method, other.method)
    assert other.method.second.weight is other.method.head.weight


class Lean(Toy):
    """Saves itself, without a part that can be made anew."""

    def save_pretrained(self, folder, *, state_dict) -> None:
        kept = {name: value for name, value in state_dict.items() if not name.startswith("words")}
        save_file(kept, folder / "model.safetensors")
        (folder / "config.json").write_text('{"method": "lean"}')


def test_a_method_may_save_itself_and_leave_something_out(tmp_path) -> None:
    run = begun(Lean(), tmp_path)
    checkpoint.write(snapshot.take(run), run.last)
    assert json.loads((run.last / "config.json").read_text()) == {"method": "lean"}
    assert "words.weight" not in load_file(run.last / "model.safetensors")
    other = Run(Lean(Config(), seed=4), run.recipe, run.place, tmp_path)
    other.restore(*checkpoint.read(run.last))
    assert same(run.method, other.method)


def test_nothing_is_stored_twice(tmp_path) -> None:
    run = begun(Toy(), tmp_path)
    checkpoint.write(snapshot.take(run), run.last)
    assert not [name for name in load_file(run.last / "state.safetensors") if name.startswith("weight/")]


def test_a_full_disk_is_one_sentence_and_keeps_the_last_good_one(tmp_path) -> None:
    run = begun(Toy(Config(width=64)), tmp_path)
    checkpoint.write(snapshot.take(run), run.last)
    before = {path.name: path.read_bytes() for path in run.last.iterdir()}
    run.step = 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow beyond this, as on a full disk
    try:
        with pytest.raises(SaveFailed, match=r"checkpoint of step 2 could .* that of step 1 is kept") as error:
            checkpoint.write(snapshot.take(run), run.last)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in run.last.iterdir()} == before
    assert [path.name for path in run.last.parent.iterdir()] == ["last"]
    checkpoint.write(snapshot.take(run), run.last)
    assert checkpoint.read(run.last).facts["step"] == 2


def test_what_a_crash_between_two_renames_left_is_put_right(tmp_path) -> None:
    run = begun(Toy(), tmp_path)
    checkpoint.write(snapshot.take(run), run.last)
    run.last.rename(run.last.with_name(".last.previous"))
    (run.last.with_name(".last.partial")).mkdir()
    assert checkpoint.find(run.last) == run.last
    assert checkpoint.read(run.last).facts["step"] == 1
    assert checkpoint.find(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
def test_damage_is_noticed(name, tmp_path) -> None:
    run = begun(Toy(), tmp_path)
    checkpoint.write(snapshot.take(run), run.last)
    path = run.last / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedCheckpoint, match="delete"):
        checkpoint.read(run.last)
    path.unlink()
    if name != "state.json":
        with pytest.raises(DamagedCheckpoint):
            checkpoint.read(run.last)
