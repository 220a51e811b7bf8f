"""`diptych annotate`: regions by small random detectors of transformers, written into new shards."""

import json
import shutil

import numpy as np
import pytest
import torch
from app_helpers import png
from PIL import Image

from diptych.app.annotate import detector_of
from diptych.app.main import main
from diptych.batch import FIELDS
from diptych.curation.regions import FIELDS as REGIONS, Regions
from diptych.data.dataset import ShardedData
from diptych.data.shards import ShardWriter, write_dataset_json

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchvision")

NAMES = dict(enumerate(["cat", "dog", "car", "cup", "hat"]))
STAGES = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
SMALL = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "id2label": NAMES}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def detr():
    backbone = transformers.ResNetConfig(**STAGES, out_features=["stage4"])
    timm = {"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False}
    return transformers.DetrConfig(backbone_config=backbone, num_queries=20, d_model=16, **timm, **SMALL, **HEADS)


def rt_detr():
    backbone = transformers.RTDetrResNetConfig(**STAGES, out_features=["stage2", "stage3", "stage4"])
    widths = {"encoder_in_channels": [16, 24, 32], "decoder_in_channels": [32] * 3, "encoder_hidden_dim": 32}
    more = {"num_queries": 15, "d_model": 32, "hidden_expansion": 0.5}
    return transformers.RTDetrConfig(backbone_config=backbone, **widths, **more, **SMALL, **HEADS)


def yolos():
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.YolosConfig(**size, image_size=[64, 64], num_detection_tokens=12, id2label=NAMES)


def saved(folder, config, processor="DetrImageProcessor", size=None):
    torch.manual_seed(0)
    transformers.AutoModelForObjectDetection.from_config(config).save_pretrained(folder)
    said = {"image_processor_type": processor, "size": size or {"shortest_edge": 48, "longest_edge": 80}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return str(folder)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("detr"), detr())


@pytest.fixture
def source(tmp_path):
    """Pictures of two shapes, one that is broken, and a statement about two."""
    with ShardWriter(tmp_path / "in", "train") as writer:
        for number in range(6):
            size = (24, 16) if number % 2 else (16, 16)
            noise = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            members = {"png": png((number, 80, 160), size), "txt": f"field {number}".encode()}
            writer.add(f"s{number}", members | ({"depth.npz": noise.tobytes()} if number == 3 else {}))
        writer.add("cut", {"png": png((1, 2, 3))[:40], "txt": b"cut"})
        writer.add("two", {"0.png": png((9, 9, 9)), "1.png": png((200, 9, 9)), "txt": b"both are grey"})
    write_dataset_json(tmp_path / "in", {"name": "in", "licence": "CC0-1.0", "has": ["image", "text", "texts"]})
    return str(tmp_path / "in")


def annotate(source, detector, out, *more):
    return main(["annotate", source, "--regions", detector, "--out", str(out), "--device", "cpu", *more])


def contents(folder):
    data = ShardedData(folder, "train")
    return {data.key(number): data.raw(number) for number in range(len(data))}


def test_every_picture_gets_its_regions(source, detector, tmp_path, capsys):
    out = tmp_path / "out"
    assert annotate(source, detector, out, "--fewest", "4", "--most", "7") == 0
    told = capsys.readouterr().out
    assert "regions in 8 pictures" in told.replace("\n", " ")
    assert "1 samples went: broken" in told
    before, after = contents(source), contents(out)
    assert set(before) - set(after) == {"cut"}
    for key, members in after.items():
        new = {"0.regions.npz", "1.regions.npz"} if key == "two" else {"regions.npz"}
        assert set(members) - set(before[key]) == new
        assert {name: members[name] for name in before[key]} == before[key]
    data = ShardedData(out, "train")
    sample = data.read(1, REGIONS)
    assert 4 <= len(sample.regions) <= 7
    assert sample.regions.shape[1] == 16
    assert sample.region_classes.shape[1] == 6
    assert (sample.region_labels < 5).all()
    assert (np.diff(sample.region_scores) <= 0).all()
    sides = data.read(6, ["sides"]).sides
    assert [len(side.regions) for side in sides] == [len(side.region_boxes) for side in sides]


def test_the_record_says_what_was_added_and_what_labels_mean(source, detector, tmp_path):
    annotate(source, detector, tmp_path / "out")
    info = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert info["has"] == sorted({"image", "text", "texts", *REGIONS})
    assert info["names"] == {"region_labels": list(NAMES.values())}
    assert info["curated"][0]["settings"] == {
        "detector": detector,
        "threshold": 0.2,
        "fewest": 10,
        "most": 36,
        "features": "decoder",
        "batch": 4,
    }
    assert info["licence"] == "CC0-1.0"
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"diptych annotate {source} --regions {detector}" in page
    assert any(f"{name} 0." in page for name in NAMES.values())


def test_old_regions_are_replaced_and_what_they_had_more_is_gone(source, detector, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    annotate(source, detector, first)
    info = json.loads((first / "dataset.json").read_text())
    write_dataset_json(first, {**info, "has": [*info["has"], "region_attributes"]})
    annotate(str(first), detector, second, "--features", "roi")
    info = json.loads((second / "dataset.json").read_text())
    assert "region_attributes" not in info["has"]
    assert [done["settings"]["features"] for done in info["curated"]] == ["decoder", "roi"]
    assert ShardedData(second, "train").read(0, ["regions"]).regions.shape[1] == 32  # channels of the last stage
    for name in ("region_boxes", "region_scores"):
        old, new = (ShardedData(folder, "train").read(0, [name])[name] for folder in (first, second))
        assert (old == new).all()


def test_a_killed_command_goes_on(source, detector, tmp_path, monkeypatch):
    from diptych.app import annotate as command
    from diptych.curation.detect import Detector

    monkeypatch.setattr(command, "_BLOCK", 2)
    annotate(source, detector, tmp_path / "whole")
    seen, plain = [], Detector.detect

    def detect(self, prepared):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(prepared))
        return plain(self, prepared)

    monkeypatch.setattr(Detector, "detect", detect)
    assert annotate(source, detector, tmp_path / "part") == 130
    assert not (tmp_path / "part").exists()
    monkeypatch.setattr(Detector, "detect", lambda self, prepared: seen.append(len(prepared)) or plain(self, prepared))
    assert annotate(source, detector, tmp_path / "part") == 0
    assert seen == [2, 2, 2, 2]  # the first two blocks once; the last has both sides of a statement, and a broken one
    tar = "train-00000.tar"
    assert (tmp_path / "part" / tar).read_bytes() == (tmp_path / "whole" / tar).read_bytes()


@pytest.mark.parametrize(
    ("config", "processor", "size", "width"),
    [
        (detr, "DetrImageProcessor", None, 16),
        (rt_detr, "RTDetrImageProcessor", {"height": 64, "width": 64}, 32),
        (yolos, "YolosImageProcessor", {"shortest_edge": 48, "longest_edge": 64}, 16),
    ],
)
def test_detectors_of_several_kinds(config, processor, size, width, tmp_path):
    found = detector_of(saved(tmp_path, config(), processor, size), Regions(fewest=3, most=5), "cpu")
    pictures = [Image.effect_noise((40, 24), 60 + number).convert("RGB") for number in range(3)]
    regions = list(found.detect([found.prepare(picture) for picture in pictures]))
    assert [one["regions"].shape[1] for one in regions] == [width] * 3
    assert all(3 <= len(one["regions"]) <= 5 for one in regions)
    assert all(np.abs(one["region_classes"].sum(1) - 1).max() < 1e-2 for one in regions)
    alone = next(iter(found.detect([found.prepare(pictures[2])])))
    assert np.abs(alone["region_boxes"] - regions[2]["region_boxes"]).max() < 1e-4


def test_scores_and_boxes_are_those_of_the_library(detector):
    """`post_process_object_detection` of the model's own processor, on a picture that is not square."""
    found = detector_of(detector, Regions(fewest=1, most=36, threshold=0.0), "cpu")
    picture = Image.effect_noise((60, 40), 80).convert("RGB")
    prepared = found.prepare(picture)
    (ours,) = found.detect([prepared])
    with torch.no_grad():
        output = found.model(**prepared)
    theirs = found.processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(40, 60)])[0]
    order = theirs["scores"].argsort(descending=True, stable=True)
    assert np.allclose(ours["region_scores"], theirs["scores"][order], atol=1e-6)
    assert (ours["region_labels"] == theirs["labels"][order].numpy()).all()
    pixels = (theirs["boxes"][order] / torch.tensor([60, 40, 60, 40])).clamp(0, 1)
    assert np.allclose(ours["region_boxes"], pixels, atol=1e-5)


def test_a_world_is_drawn_first(detector, tmp_path):
    assert annotate("world:train=3,evaluation=2,pixels=32", detector, tmp_path / "out") == 0
    data = ShardedData(tmp_path / "out", "train")
    assert len(data) == 3
    assert data.read(0, ["regions"]).regions.shape[1] == 16  # the detector's, not the world's own
    assert "region_attributes" not in data.has
    assert [path.name for path in tmp_path.iterdir() if path.name != "out"] == []


def test_models_that_are_no_detectors_are_refused_in_a_sentence(source, detector, tmp_path, capsys):
    def refused(name, *more):
        assert annotate(source, str(name), tmp_path / "out", *more) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    assert "is a vit, which is no object detector: give one, such as" in refused(tmp_path / "vit")
    (tmp_path / "empty").mkdir()
    assert "no detector that transformers knows at" in refused(tmp_path / "empty")
    shutil.copytree(detector, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    assert "is not whole" in refused(tmp_path / "bare")
    saved(tmp_path / "yolos", yolos(), "YolosImageProcessor")
    assert "has no backbone" in refused(tmp_path / "yolos", "--features", "roi")
    assert annotate(source, detector, tmp_path / "out", "--fewest", "9", "--most", "3") == 2
    assert "--fewest 9 and --most 3" in capsys.readouterr().err


def test_fields_that_are_added_are_fields():
    assert set(REGIONS) <= set(FIELDS)
