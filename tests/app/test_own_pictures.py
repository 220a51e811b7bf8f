"""What people have goes through inspect, pack, train and evaluate; what is broken in it is told and harmless."""

import csv
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from app_helpers import COLOURS, FLAGS, png, rows_of
from PIL import Image

from diptych.app.main import main

RUN = [*FLAGS, "--samples", "32", "--batch", "8", "--workers", "0", "--evaluations", "0", "--writers", "none"]
GOOD = 40


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    colour = tuple(min(255, value + number) for value in list(COLOURS.values())[number % 4])
    Image.new("RGB", (24, 24), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def name(number: int) -> str:
    return list(COLOURS)[number % 4]


def huge_png() -> bytes:
    """A valid header of 60,000 x 60,000 pixels, and hardly any data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"x")) + chunk(b"IEND", b"")


def with_table(folder: Path) -> Path:
    """Pictures and a CSV that names them."""
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "caption"])
        for number in range(GOOD):
            (folder / f"p{number:02d}.jpg").write_bytes(jpeg(number))
            table.writerow([f"p{number:02d}.jpg", f"a {name(number)} field number {number}"])
    return folder


def by_class(folder: Path) -> Path:
    """A folder a class."""
    for number in range(GOOD):
        (folder / name(number)).mkdir(parents=True, exist_ok=True)
        (folder / name(number) / f"p{number:02d}.jpg").write_bytes(jpeg(number))
    return folder


def coco(folder: Path) -> Path:
    """Pictures, captions and instances as COCO has them."""
    (folder / "images").mkdir(parents=True)
    images, captions, boxes = [], [], []
    for number in range(GOOD):
        (folder / "images" / f"p{number:02d}.jpg").write_bytes(jpeg(number))
        images.append({"id": number, "file_name": f"p{number:02d}.jpg", "width": 24, "height": 24})
        captions.append({"id": number, "image_id": number, "caption": f"a {name(number)} field number {number}"})
        boxes.append({"id": number, "image_id": number, "category_id": 1 + number % 4, "bbox": [2, 2, 10, 10]})
    categories = [{"id": 1 + place, "name": colour} for place, colour in enumerate(COLOURS)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": categories})
    )
    return folder


@pytest.mark.parametrize("make", [with_table, by_class, coco])
def test_from_a_folder_to_figures(make, tmp_path, monkeypatch, capsys):
    source = make(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == GOOD
    assert "clip" in found["can_run"]
    assert (tmp_path / "mine-sheet.png").is_file()
    assert main(["pack", str(source), "shards"]) == 0
    assert f"{GOOD} samples" in capsys.readouterr().out
    assert main(["inspect", "shards"]) == 0
    assert "clip" in capsys.readouterr().out
    assert main(["train", "clip", "--data", "shards", "--out", "run", *RUN, "--json"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert {row["data"] for row in rows} == {"shards/val"}
    assert "retrieval" in {row["task"] for row in rows}
    assert main(["evaluate", "run", "--data", "shards", "--split", "train", "--task", "retrieval", "--json"]) == 0
    assert {row["data"] for row in rows_of(capsys.readouterr().out)} == {"shards/train"}


def test_a_folder_by_class_is_classified_by_name_neighbours_and_probe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pack", str(by_class(tmp_path / "mine")), "shards"]) == 0
    assert main(["train", "clip", "--data", "shards", "--out", "run", *RUN]) == 0
    tasks = {row["task"] for row in rows_of((tmp_path / "run" / "results.json").read_text())}
    assert tasks >= {"zero_shot", "knn", "linear_probe"}


def test_what_is_broken_is_told_and_left_out(tmp_path, monkeypatch, capsys):
    folder = with_table(tmp_path / "mine")
    (folder / "cut.jpg").write_bytes(jpeg(1)[:150])
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "mute.jpg").write_bytes(jpeg(2))
    with (folder / "captions.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["cut.jpg", "cut short"], ["huge.png", "a bomb"], ["mute.jpg", ""], ["gone.jpg", "is not there"]]
        )
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == GOOD
    assert len(found["broken"]) == 4
    assert any("huge" in key for key in found["oversized"])
    assert main(["pack", str(folder), "strict"]) == 1
    assert "--max-broken" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()
    assert main(["pack", str(folder), "shards", "--max-broken", "0.2"]) == 0
    told = capsys.readouterr().out
    assert f"{GOOD} samples" in told
    assert all(word in told for word in ("cut:", "huge:", "caption is empty", "gone:"))


def test_a_broken_sample_in_a_shard_is_skipped_counted_and_listed(tmp_path, monkeypatch, capsys):
    """A foreign tar with a truncated picture, a name that leads outside, and a pickle."""
    source = tmp_path / "foreign"
    source.mkdir()

    def add(tar: tarfile.TarFile, member: str, data: bytes) -> None:
        info = tarfile.TarInfo(member)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

    for split, numbers in (("train", range(30)), ("val", range(30, GOOD))):
        with tarfile.open(source / f"{split}-00000.tar", "w") as tar:
            for number in numbers:
                add(tar, f"s{number:02d}.png", png((number, 90, 90)))
                add(tar, f"s{number:02d}.txt", f"field number {number}".encode())
            if split == "train":
                add(tar, "t_cut.png", png((1, 2, 3))[:50])
                add(tar, "t_cut.txt", b"cut short")
                add(tar, "../../evil.txt", b"out")
                add(tar, "s_code.pkl", b"cos\nsystem\n(S'touch owned'\ntR.")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "foreign"]) == 0
    assert "t_cut" in capsys.readouterr().out
    assert (
        main(["train", "clip", "--data", "foreign", "--out", "run", *RUN, "--max-broken", "0.2", "--samples", "64"])
        == 0
    )
    assert "t_cut" in json.loads((tmp_path / "run" / "quarantine.json").read_text())
    assert "t_cut" in (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "foreign-sheet.png", "run"]
    assert not (tmp_path.parent / "evil.txt").exists()
