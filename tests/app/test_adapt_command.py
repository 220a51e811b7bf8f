"""`diptych adapt`, on a tiny CLIP and a tiny world of single objects."""

import json

import pytest
from app_helpers import TINY, png

from diptych import methods
from diptych.app import adapt, main as command_line
from diptych.app.adapt import PROTOCOLS, Study, config_of
from diptych.app.commands.adapt import table
from diptych.app.comparison import Score
from diptych.app.sources import open_source
from diptych.data.shards import ShardWriter, write_dataset_json
from diptych.recipe import Recipe

SCENES = "world:objects=1,shapes=6,train=200,evaluation=40,pixels=32"
QUICK = ["--samples", "16", "--epochs", "0", "--batch", "8", "--workers", "0", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved CLIP with fresh weights."""
    folder = tmp_path_factory.mktemp("clip") / "saved"
    methods.build("clip", TINY).save_pretrained(folder)
    return folder


def run(*words, expect: int = 0) -> None:
    assert command_line.main(["adapt", *map(str, words)]) == expect


def test_base_to_new_in_a_table_and_as_json(model, tmp_path, capsys):
    asked = [model, "--data", SCENES, "--out", tmp_path, "--protocol", "base2new", "--shots", "2", "--seeds", "2"]
    run(*asked, "--vectors", "2", *QUICK)
    lines = [line for line in capsys.readouterr().out.splitlines() if "shot" in line or "hand" in line]
    assert [line.split("  ")[0].strip() for line in lines[:2]] == ["hand-written prompt", "coop, 2 shots"]
    assert all(line.count("[") == 3 for line in lines[:2])
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 2
    before = [(place / "results.json").stat().st_mtime_ns for place in runs]
    run(*asked, "--vectors", "2", *QUICK, "--json")  # goes on with what is there
    assert [(place / "results.json").stat().st_mtime_ns for place in runs] == before
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert {score["metric"] for score in scores} == {"base", "new", "harmonic_mean"}
    learned = json.loads((tmp_path / "learned-2-seed1.json").read_text())["train"]
    assert sorted(label for _, label, _ in learned) == [0, 0, 1, 1, 2, 2]
    options = json.loads((runs[0] / "run.json").read_text())["config"]
    assert len(options["classnames"]) == 3
    assert options["start"] == str(model)


def test_epochs_count_what_is_learned_from(model, tmp_path):
    config = config_of(str(model), methods.config_class("coop")(vectors=2))
    study = Study("coop", config, Recipe(batch=8, epochs=5), SCENES)
    job = adapt._job(study, PROTOCOLS["few_shot"], (2, 1), tmp_path, "cpu")
    assert (job.recipe.samples, job.recipe.seed) == (5 * 2 * 6, 1)
    few = adapt._job(study, PROTOCOLS["base2new"], (1, 0), tmp_path, "cpu")
    assert few.recipe.samples == 5 * 3
    assert (config.image_width, config.embed, config.start) == (16, 8, str(model))


@pytest.mark.slow
def test_towers_by_name():
    config = config_of("open_clip:ViT-B-32", methods.config_class("maple")())
    found = config.image, config.text, config.embed, config.context, config.image_size, config.start
    assert found == ("open_clip:ViT-B-32", "open_clip:ViT-B-32", 512, 77, 224, "")


def test_other_data_sets_and_their_mean(model, tmp_path, capsys):
    other = [SCENES.replace("40", "24") + f",seed={seed}" for seed in (1, 2)]
    named = [word for index, spec in enumerate(other) for word in ("--val", named_world(tmp_path / f"{index}", spec))]
    run(
        *(model, "--data", SCENES, *named, "--out", tmp_path / "out", "--protocol", "cross", "--method", "maple"),
        *("--shots", "1", "--seeds", "1", "--json", *QUICK),
    )
    scores = json.loads(capsys.readouterr().out)["scores"]
    for label in ("hand-written prompt", "maple, 1 shot"):
        _, *others, mean = [score["value"] for score in scores if score["label"] == label]
        assert len(others) == 2
        assert mean == pytest.approx(sum(others) / 2)


def named_world(folder, spec: str) -> str:
    """The val split of a world as shards under a name of its own."""
    data = open_source(spec, "val")
    with ShardWriter(folder, "val") as writer:
        for index in range(len(data)):
            told = json.dumps({"category": data.read(index, ("category",)).category}).encode()
            writer.add(f"s{index:03d}", {"png": png((9 * index % 250, 40, 90)), "json": told})
    has = ["image", "category", "label"]
    write_dataset_json(folder, {"name": f"set {folder.name}", "classes": list(data.classes), "has": has})
    return str(folder)


def test_what_does_not_fit_is_said(model, tmp_path, capsys):
    ask = [model, "--data", SCENES, "--out", tmp_path]
    run("--data", SCENES, "--out", tmp_path, expect=2)
    run(*ask, "--protocol", "cross", expect=1)
    assert "the protocol cross needs other data sets" in capsys.readouterr().err
    run(*ask, "--val", f"{SCENES}@test", expect=1)
    assert "few_shot has no use for --val" in capsys.readouterr().err
    more = SCENES.replace("shapes=6", "shapes=8") + "@test"
    run(*ask, "--protocol", "shift", "--val", more, expect=1)
    assert "for new classes the protocol is cross" in capsys.readouterr().err
    run(tmp_path / "none", *ask[1:], expect=1)
    assert "There is no text encoder" in capsys.readouterr().err


def test_a_figure_without_interval_has_none():
    columns, lines = table(
        [Score("a", "one/val", "zero_shot", "top1", 0.5, 0.25, 0.75), Score("a", "m", "", "top1", 0.5)]
    )
    assert columns == ["", "one/val", "m"]
    assert lines == [["a", "50.0 [25.0, 75.0]", "50.0"]]
