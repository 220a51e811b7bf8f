"""What people have, made by hand at tiny size, goes into shards; what is broken or hostile is reported and harmless."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.batch import Sample
from diptych.data.dataset import ShardedData
from diptych.data.pack import Packing, PackReport, pack
from diptych.data.raw import Reading, SourceError, key_of, split_name
from diptych.data.readers import recognise
from diptych.data.shards import split_of

ANY = Packing(max_broken=1.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(number: int, form: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """A picture that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(out, form)
    return out.getvalue()


def huge_png_header() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return write(path, out.getvalue())


def contents(report: PackReport) -> dict[str, dict[str, Sample]]:
    """Everything that a reader finds: split -> key -> sample with all fields."""
    found = {}
    for split in report.splits:
        data = ShardedData(report.folder, split)
        found[split] = {data.key(i): data.read(i, sorted(data.has)) for i in range(len(data))}
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))}


# --------------------------------------------------------------------------------------------------------- folders


def test_folder_by_class_with_splits(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for label in ("cat", "red_fox"):
            for number in range(2):
                data = picture(hash_of(split, label, str(number)), "JPEG")
                write(tmp_path / "pets" / split / label / f"{number}.jpg", data)
    write(tmp_path / "pets" / "notes.md", "not a picture")

    report = pack(tmp_path / "pets", tmp_path / "out")

    assert report.splits == {"train": 4, "val": 4}
    assert report.classes == ("cat", "red_fox")
    assert "1 other files are ignored" in report.about
    assert "2 classes (cat, red_fox)" in report.about
    assert {"image", "category", "label", "text"} <= set(report.has)
    train = contents(report)["train"]
    sample = train["train/red_fox/1"]
    assert (sample.category, sample.label) == ("red_fox", 1)
    assert sample.text == "a picture of red fox"
    assert report.notes == {"a caption was made from the class": 8}
    raw = ShardedData(report.folder, "train").raw(0)
    assert raw["jpg"] == (tmp_path / "pets/train/cat/0.jpg").read_bytes(), "bytes are copied unchanged"


def hash_of(*words: str) -> int:
    return zlib.crc32("/".join(words).encode())


def test_loose_folder_with_captions_beside_the_pictures(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / "in" / f"p{number}.png", picture(number))
        write(tmp_path / "in" / f"p{number}.txt", f"  caption {number}\n")
    report = pack(tmp_path / "in", tmp_path / "out")
    expected = {split: {f"p{n}" for n in range(30) if split_of(f"p{n}") == split} for split in ("train", "val")}
    found = contents(report)
    assert {split: set(samples) for split, samples in found.items()} == expected
    assert found["train"]["p0"].text == "caption 0"
    assert report.classes == ()


def test_a_single_folder_below_is_no_class(tmp_path: Path) -> None:
    write(tmp_path / "in" / "images" / "a.png", picture(1))
    write(tmp_path / "in" / "images" / "b.png", picture(2))
    assert recognise(tmp_path / "in").classes == ()
    assert [item.key for item in recognise(tmp_path / "in").samples()] == ["a", "b"]


def test_links_to_private_texts_are_not_packed(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.txt", "password")
    write(tmp_path / "in" / "a.png", picture(1))
    (tmp_path / "in" / "a.txt").symlink_to(secret)
    report = pack(tmp_path / "in", tmp_path / "out")
    assert report.written == 1
    assert "text" not in report.has


def test_same_key_twice_keeps_both(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", picture(1))
    write(tmp_path / "in" / "a.jpg", picture(2, "JPEG"))
    report = pack(tmp_path / "in", tmp_path / "out", packing=Packing(split="train"))
    assert set(contents(report)["train"]) == {"a", "a-2"}
    assert sum(report.notes.values()) == 1


def test_broken_pictures_are_reported_and_the_rest_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "good.jpg", picture(1, "JPEG"))
    write(folder / "cut.jpg", picture(2, "JPEG", (200, 200))[:900])
    write(folder / "huge.png", huge_png_header())
    write(folder / "empty.png", b"")
    write(folder / "text.png", "this is no picture")
    write(folder / "mute.png", picture(3))
    write(folder / "mute.txt", " \n")
    write(folder / "babel.png", picture(4))
    write(folder / "babel.txt", b"caf\xe9 \xff")

    with pytest.raises(SourceError, match=r"6 of 7 samples are broken.*--max-broken"):
        pack(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]

    report = pack(folder, tmp_path / "out", packing=ANY)
    assert report.written == 1
    assert set(report.broken) == {"cut", "huge", "empty", "text", "mute", "babel"}
    assert "pixels" in report.broken["huge"]
    assert "the caption is empty" in report.broken["mute"]
    assert "UTF-8" in report.broken["babel"]
    assert json.loads((tmp_path / "out" / "broken.json").read_text()) == report.broken
    assert all(key in str(report) for key in report.broken)


def test_pictures_are_made_smaller_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "in" / "wide.jpg", picture(1, "JPEG", (300, 150)))
    write(tmp_path / "in" / "small.png", picture(2))
    report = pack(tmp_path / "in", tmp_path / "out", packing=Packing(split="train", max_side=64))
    data = ShardedData(report.folder)
    sizes = {data.key(i): data.read(i, ["image"]).image.size for i in range(2)}
    assert sizes == {"wide": (64, 32), "small": (24, 16)}
    assert data.raw(0)["png"] == picture(2)


def test_tiff_is_converted_without_loss(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.tif", picture(1, "TIFF"))
    report = pack(tmp_path / "in", tmp_path / "out", packing=Packing(split="train"))
    image = ShardedData(report.folder).read(0, ["image"]).image
    assert image.tobytes() == Image.open(io.BytesIO(picture(1))).tobytes()


# ---------------------------------------------------------------------------------------------------------- tables


def test_csv_with_several_captions_a_picture(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "in" / "img" / f"{number}.png", picture(number))
    rows = [
        ("filename", "caption", "split", "tags", "photographer"),
        ("img/0.png", "a dog, running", "train", "dog; grass", "Ann"),
        ("img/1.png", "a cat", "test", "cat", "Bo"),
        ("img/0.png", "ein Hund läuft", "train", "dog; grass", "Ann"),
        ("./img/2.png", "a cow", "", "", ""),
    ]
    report = pack(write_csv(tmp_path / "in" / "captions.csv", rows), tmp_path / "out", packing=ANY)
    found = contents(report)
    assert found["train"]["img/0"].texts == ["a dog, running", "ein Hund läuft"]
    assert found["train"]["img/0"].text == "a dog, running"
    assert found["test"]["img/1"].texts == ["a cat"]
    assert "img/2" in found[split_of("img/2")]
    assert not report.broken
    data = ShardedData(report.folder, "test")
    assert json.loads(data.raw(0)["json"]) == {"photographer": "Bo", "tags": ["cat"]}
    assert "image from 'filename'" in report.about
    assert "text from 'caption'" in report.about


def test_paths_in_tables_stay_in_the_folder_of_pictures(tmp_path: Path) -> None:
    write(tmp_path / "private.png", picture(9))
    write(tmp_path / "in" / "good.png", picture(1))
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "private.png")
    names = {
        "good.png": None,
        str(tmp_path / "private.png"): "leads out",
        "../private.png": "leads out",
        "link.png": "leads out",
        "missing.png": "missing",
        "https://example.org/a.png": "URLs are not fetched",
        "": "names no picture",
    }
    rows = [("image", "text"), *((name, f"caption of {name}") for name in names)]
    report = pack(write_csv(tmp_path / "in" / "t.csv", rows), tmp_path / "out", packing=ANY)
    assert report.written == 1
    reasons = list(report.broken.values())
    assert len(reasons) == 6
    for part in filter(None, names.values()):
        assert sum(part in reason for reason in reasons) == list(names.values()).count(part)


def test_an_absolute_path_inside_the_folder_is_fine(tmp_path: Path) -> None:
    write(tmp_path / "pictures" / "a.png", picture(1))
    table = write_csv(tmp_path / "t.csv", [("image", "text"), (str(tmp_path / "pictures" / "a.png"), "a")])
    report = pack(table, tmp_path / "out", Reading(images=str(tmp_path / "pictures")))
    assert report.written == 1


def test_broken_rows_of_a_csv(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.png", picture(number))
    data = b"image,text\n0.png,fine\n1.png,\n2.png,caf\xe9\n3.png,one,two\n0.png,  \n"
    report = pack(write(tmp_path / "t.csv", data), tmp_path / "out", packing=ANY)
    assert report.written == 1
    assert {key: reason.split(" (")[0] for key, reason in report.broken.items()} == {
        "t.csv:3": "the caption is empty",
        "t.csv:4": "the row is not valid UTF-8",
        "t.csv:5": "the row has 3 cells, the header 2",
        "t.csv:6": "the caption is empty",
    }


def test_json_lines_with_bad_rows(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.png", picture(number))
    lines = [
        json.dumps({"image": "0.png", "captions": ["one", "two"], "boxes": [[0, 0, 0.5, 1]], "phrases": ["x"]}),
        '{"image": "1.png", "captions": ',
        "[1, 2]",
        '{"image": "1.png", "captions": "\\ud800"}',
        json.dumps({"image": "2.png", "captions": "three", "boxes": [[0, 0, 50, 90]], "phrases": ["pixels"]}),
    ]
    packing = Packing(split="train", max_broken=1)
    report = pack(write(tmp_path / "t.jsonl", "\n".join(lines)), tmp_path / "out", packing=packing)
    assert list(report.broken) == ["t.jsonl:2", "t.jsonl:3", "t.jsonl:4"]
    data = ShardedData(report.folder)
    first = data.read(0, ["texts", "boxes", "phrases"])
    assert first.texts == ["one", "two"]
    assert first.boxes.tolist() == [[0, 0, 0.5, 1]]
    assert [note for note in report.notes if note.startswith("boxes was left out")]
    assert json.loads(data.raw(1)["json"]) == {"phrases": ["pixels"]}, "a damaged field is taken out, and noted"


def test_an_unclosed_quote_does_not_swallow_the_table(tmp_path: Path) -> None:
    write(tmp_path / "0.png", picture(0))
    lines = ["image,text", "0.png,fine", '0.png,"not closed', *["0.png,lost"] * 200]
    report = pack(write(tmp_path / "t.csv", "\n".join(lines)), tmp_path / "out", packing=ANY)
    assert list(report.broken) == ["t.csv:3"]
    assert "quote" in report.broken["t.csv:3"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "image_name| comment_number| comment\n0.png| 0| a dog\n0.png| 1| one dog\n"),
        ("t.tsv", "file\tcaption\n0.png\ta dog\n0.png\tone dog\n"),
        ("t.csv", '\ufefffilename;text\n0.png;"a dog"\n0.png;one dog\n'),
        ("t.csv", 'id,sentences\n0,"[""a dog"", ""one dog""]"\n'),
        ("t.json", '[{"image": "0.png", "caption": ["a dog", "one dog"]}]'),
    ],
)
@pytest.mark.parametrize("folder", ["", "pictures"])
def test_tables_as_they_are_found(tmp_path: Path, name: str, text: str, folder: str) -> None:
    write(tmp_path / "in" / folder / "0.png", picture(0))
    table = write(tmp_path / "in" / name, text)
    reading = Reading(image_column="id") if text.startswith("id") else Reading()
    report = pack(table, tmp_path / "out", reading, Packing(split="train"))
    assert [sample.texts for sample in contents(report)["train"].values()] == [["a dog", "one dog"]]
    assert ("pictures in pictures/" in report.about) == bool(folder)


def test_parquet_with_pictures_inside(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"image": {"bytes": picture(n, "JPEG"), "path": None}, "caption": f"number {n}", "id": n} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    report = pack(tmp_path / "data.parquet", tmp_path / "out", packing=Packing(split="train"))
    data = ShardedData(report.folder)
    assert [data.read(i, ["text"]).text for i in range(3)] == ["number 0", "number 1", "number 2"]
    assert data.raw(2)["jpg"] == picture(2, "JPEG")


def test_a_table_whose_columns_say_nothing_names_the_option(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [("a", "b"), ("1", "2")])
    with pytest.raises(SourceError, match=r"columns a, b.*--image-column"):
        recognise(table)
    with pytest.raises(SourceError, match="no column 'c'"):
        recognise(table, Reading(image_column="c"))


def test_columns_are_guessed_from_the_cells_and_overruled_by_options(tmp_path: Path) -> None:
    write(tmp_path / "0.png", picture(0))
    rows = [("wo", "was", "art"), ("0.png", "ein Hund", "hund")]
    table = write_csv(tmp_path / "t.csv", rows)
    reading = Reading(text_column="was", label_column="art")
    report = pack(table, tmp_path / "out", reading, Packing(split="val"))
    sample = contents(report)["val"]["0"]
    assert (sample.text, sample.category, sample.label) == ("ein Hund", "hund", 0)


# ----------------------------------------------------------------------------------------------------- annotations


def coco_folder(root: Path) -> Path:
    for split, ids in (("train2017", (1, 2)), ("val2017", (3,))):
        for number in ids:
            write(root / split / f"{number:03d}.jpg", picture(number, "JPEG", (40, 20)))
        images = [{"id": n, "file_name": f"{n:03d}.jpg", "width": 40, "height": 20} for n in ids]
        captions = [
            {"id": 10 * n + k, "image_id": n, "caption": f" caption {k}\n of {n}"} for n in ids for k in range(2)
        ]
        instances = [
            {"id": 5, "image_id": ids[0], "category_id": 7, "bbox": [10, 5, 20, 10]},
            {"id": 6, "image_id": ids[0], "category_id": 8, "bbox": [0, 0, 80, 5], "iscrowd": 0},
            {"id": 7, "image_id": ids[0], "category_id": 8, "bbox": [0, 0, 8, 5], "iscrowd": 1},
            {"id": 8, "image_id": ids[0], "category_id": 8, "bbox": [1, 1, 0, 5]},
            {"id": 9, "image_id": 999, "category_id": 8, "bbox": [1, 1, 2, 5]},
        ]
        categories = [{"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}]
        common: dict[str, Any] = {"images": images}
        write(root / "annotations" / f"captions_{split}.json", json.dumps({**common, "annotations": captions}))
        content = {**common, "annotations": instances, "categories": categories}
        write(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    return root


def test_coco_captions_and_instances(tmp_path: Path) -> None:
    report = pack(coco_folder(tmp_path / "coco"), tmp_path / "out", packing=ANY)
    assert report.splits == {"train": 2, "val": 1}
    data = ShardedData(report.folder, "train")
    sample = data.read(0, ["texts", "boxes", "phrases"])
    assert data.key(0) == "001"
    assert sample.texts == ["caption 0 of 1", "caption 1 of 1"]
    np.testing.assert_allclose(sample.boxes, [[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 0.25]])
    assert sample.phrases == ["dog", "cat"]
    assert [reason for key, reason in report.broken.items() if "annotations[3]" in key] == ["the box has no area"] * 2
    assert sum("does not list" in reason for reason in report.broken.values()) == 2
    assert report.notes["a crowd region without single boxes was left out"] == 2


def test_one_coco_file_with_bad_entries(tmp_path: Path) -> None:
    write(tmp_path / "pics" / "a.png", picture(1))
    content = {
        "images": [
            {"id": 1, "file_name": "a.png"},
            {"id": 2},
            "nonsense",
            {"id": 3, "file_name": "../../etc/passwd"},
            {"id": 4, "file_name": "gone.png"},
        ],
        "annotations": [
            {"image_id": 1, "bbox": [6, 4, 12, 8], "category_id": 1},
            *({"image_id": n, "caption": "text"} for n in (1, 3, 4)),
            {"image_id": 1, "caption": " "},
            {"image_id": 1, "bbox": [1, 2], "category_id": 1},
            17,
        ],
        "categories": [{"id": 1, "name": "ball"}],
    }
    file = write(tmp_path / "labels.json", json.dumps(content))
    report = pack(file, tmp_path / "out", Reading(images=str(tmp_path / "pics")), ANY)
    assert report.written == 1
    assert len(report.broken) == 7
    assert "leads out" in report.broken["etc/passwd"]
    assert "is missing" in report.broken["gone"]
    boxes = ShardedData(report.folder, next(iter(report.splits))).read(0, ["boxes"]).boxes
    np.testing.assert_allclose(boxes, [[0.25, 0.25, 0.75, 0.75]], err_msg="the size comes from the picture itself")


def test_coco_without_its_pictures_says_what_to_do(tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}))
    with pytest.raises(SourceError, match="--images"):
        recognise(file)
    with pytest.raises(SourceError, match="neither a COCO file"):
        recognise(write(tmp_path / "y.json", "{}"))
    with pytest.raises(SourceError, match="not valid JSON"):
        recognise(write(tmp_path / "z.json", '{"images": ['))


def test_karpathy_split(tmp_path: Path) -> None:
    images = []
    for number, split in enumerate(("train", "restval", "val", "test")):
        write(tmp_path / "val2014" / f"{number}.jpg", picture(number, "JPEG"))
        sentences = [{"raw": f"sentence {k} of {number}."} for k in range(5)]
        entry = {"filepath": "val2014", "filename": f"{number}.jpg", "sentences": sentences, "split": split}
        images.append(entry)
    images.append({"filepath": "val2014", "filename": "4.jpg", "sentences": [], "split": "val"})
    write(tmp_path / "val2014" / "4.jpg", picture(4, "JPEG"))
    file = write(tmp_path / "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))
    report = pack(file, tmp_path / "out", packing=ANY)
    assert report.splits == {"train": 2, "val": 1, "test": 1}
    assert contents(report)["train"]["val2014/1"].texts == [f"sentence {k} of 1." for k in range(5)]
    assert report.broken == {"val2014/4": "it has no caption"}


# --------------------------------------------------------------------------------------------------- Hugging Face


def test_hugging_face_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "private.png", picture(8))
    features = datasets.Features(
        image=datasets.Image(), caption=datasets.Value("string"), label=datasets.ClassLabel(names=["dog", "cat"])
    )

    def part(start: int, **other: Any) -> Any:
        pictures = [{"bytes": picture(start + n), "path": None} for n in range(3)]
        rows = {"image": pictures, "caption": ["a", "b", "c"], "label": [1, 0, -1]} | other
        return datasets.Dataset.from_dict(rows, features=features)

    parts = {"train": part(0), "validation": part(3, caption=["a", "", "c"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    report = pack(tmp_path / "saved", tmp_path / "out", packing=ANY)
    assert report.splits == {"train": 3, "val": 2}
    assert report.classes == ("dog", "cat"), "the order of the source, not of the alphabet"
    data = ShardedData(report.folder, "train")
    assert [data.read(i, ["label", "text"]).label for i in range(2)] == [1, 0]
    assert report.broken == {"validation/00000001": "the caption is empty"}


def test_hugging_face_paths_stay_in_the_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    private = write(tmp_path / "private.png", picture(8))
    plain = datasets.Features(image={"bytes": datasets.Value("binary"), "path": datasets.Value("string")})
    rows = [{"bytes": None, "path": str(private)}, {"bytes": None, "path": "in.png"}]
    datasets.Dataset.from_dict({"image": rows}, features=plain).save_to_disk(tmp_path / "saved")
    write(tmp_path / "saved" / "in.png", picture(1))
    info = json.loads((tmp_path / "saved" / "dataset_info.json").read_text())
    info["features"]["image"] = {"_type": "Image"}  # as a saved data set may claim, whoever made it
    write(tmp_path / "saved" / "dataset_info.json", json.dumps(info))
    report = pack(tmp_path / "saved", tmp_path / "out", packing=ANY)
    assert report.written == 1
    (reason,) = report.broken.values()
    assert reason.endswith(" leads out of the folder of pictures, which --images can name")


# ----------------------------------------------------------------------------------------------------- WebDataset


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def hostile_shards(root: Path) -> Path:
    root.mkdir()
    with tarfile.open(root / "train-000.tar", "w") as tar:
        for name in ("a", "../../escape", "/absolute", "b"):
            add(tar, f"{name}.jpg", picture(hash_of(name), "JPEG"))
            add(tar, f"{name}.txt", b"words")
        add(tar, "b.pkl", b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
        add(tar, "b.xyz", b"?")
        link = tarfile.TarInfo("c.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    write(root / "val-000.tar", b"not a tar" * 100)
    return root


def test_hostile_webdataset_is_rewritten_clean(tmp_path: Path) -> None:
    report = pack(hostile_shards(tmp_path / "in"), tmp_path / "out", packing=ANY)
    assert report.splits == {"train": 2}
    assert set(contents(report)["train"]) == {"a", "b"}
    assert list(report.broken) == ["val-000.tar"]
    notes = " ".join(report.notes)
    assert "leads out of its folder" in notes
    assert "escape" in notes
    assert "absolute" in notes
    assert "b.pkl" in notes
    assert "c.txt" in notes
    assert ".xyz members hold no field" in notes
    with tarfile.open(tmp_path / "out" / "train-00000.tar") as tar:
        assert sorted(tar.getnames()) == ["a.jpg", "a.txt", "b.jpg", "b.txt"]


def test_a_webdataset_packed_onto_itself_gets_its_index(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        add(tar, "a.jpg", picture(1, "JPEG"))
    before = (folder / "train-000.tar").read_bytes()
    report = pack(folder, folder)
    assert report.splits == {"train-000.tar": 1}
    assert sorted(files_of(folder)) == ["train-000.index.parquet", "train-000.tar"]
    assert (folder / "train-000.tar").read_bytes() == before
    assert len(ShardedData(folder)) == 1


# --------------------------------------------------------------------------------------------------- any data set


class Drawn:
    """A data set that is in no file."""

    name, classes = "drawn", ("round", "square")
    has = frozenset({"image", "text", "texts", "boxes", "phrases", "masks", "category", "label", "relations", "depth"})

    def __init__(self, split: str, count: int) -> None:
        self.split, self.count = split, count

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"{self.split}-{index}"

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        return np.arange(self.count)

    def read(self, index: int, fields: Any) -> Sample:
        rng = np.random.default_rng([len(self.split), index])
        values = {
            "image": Image.open(io.BytesIO(picture(index))).convert("RGB"),
            "text": f"thing {index}",
            "texts": [f"thing {index}", "a thing"],
            "boxes": np.sort(rng.random((2, 2, 2), dtype=np.float32), axis=1).reshape(2, 4),
            "phrases": ["a", "b"],
            "masks": rng.random((2, 16, 24)) > 0.5,
            "category": self.classes[index % 2],
            "label": index % 2,
            "relations": [(0, "left of", 1)],
            "depth": rng.random((16, 24), dtype=np.float32),
        }
        return Sample(self.key(index), {name: values[name] for name in fields})


def test_any_data_set_can_be_frozen(tmp_path: Path) -> None:
    parts = [Drawn("train", 5), Drawn("val", 2)]
    report = pack(parts, tmp_path / "out")
    assert report.splits == {"train": 5, "val": 2}
    assert report.classes == ("round", "square")
    assert set(report.has) == Drawn.has
    data = ShardedData(report.folder, "train")
    for index in range(5):
        before, after = parts[0].read(index, Drawn.has), data.read(index, Drawn.has)
        assert data.key(index) == before.key
        assert before.image.tobytes() == after.image.tobytes()
        for name in Drawn.has - {"image"}:
            np.testing.assert_array_equal(before[name], after[name])


# -------------------------------------------------------------------------------------------------- the pack itself


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    coco_folder(tmp_path / "coco")
    for name in ("one", "two"):
        pack(tmp_path / "coco", tmp_path / name / "data", packing=ANY)
    first, second = files_of(tmp_path / "one" / "data"), files_of(tmp_path / "two" / "data")
    assert first == second
    assert any(name.endswith(".index.parquet") for name in first)


def test_a_used_destination_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", picture(1))
    write(tmp_path / "out" / "precious", "x")
    with pytest.raises(SourceError, match="not empty"):
        pack(tmp_path / "in", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert pack(tmp_path / "in", tmp_path / "empty").written == 1


def test_an_interrupted_pack_leaves_nothing(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / "in" / f"{number}.png", picture(number))

    def interrupt(done: int, total: int | None) -> None:
        assert total == 20
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "in", tmp_path / "out", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_shards_are_cut_at_their_size(tmp_path: Path) -> None:
    for number in range(9):
        write(tmp_path / "in" / f"{number}.png", picture(number))
    report = pack(tmp_path / "in", tmp_path / "out", packing=Packing(split="train", shard_bytes=6000))
    assert report.shards["train"] > 1
    assert len(contents(report)["train"]) == 9


def test_dataset_json_says_what_was_made(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a" / "1.png", picture(1))
    write(tmp_path / "in" / "b" / "1.png", picture(2))
    packing = Packing(split="train", name="letters", licence="CC0")
    pack(tmp_path / "in", tmp_path / "out", packing=packing)
    info = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (info["name"], info["licence"], info["classes"], info["broken"]) == ("letters", "CC0", ["a", "b"], 0)
    assert info["splits"] == {"train": {"samples": 2, "shards": 1}}
    assert str(tmp_path) not in json.dumps(info), "a pack does not tell where it was made"


def test_nothing_there_and_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There is no"):
        recognise(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no pictures"):
        recognise(tmp_path / "empty")
    with pytest.raises(SourceError, match="is not understood"):
        recognise(write(tmp_path / "a.docx", "x"))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("dogs/rex.v2.jpg", "dogs/rex_v2"),
        ("../../a.png", "a"),
        ("/abs/path/b.jpeg", "abs/path/b"),
        ("a\nb c.jpg", "a_b_c"),
        (".hidden.png", "hidden"),
        ("C:\\pics\\x.jpg", "C_/pics/x"),
        ("no_suffix", "no_suffix"),
        ("a..b/c..d.png", "a_b/c_d"),
        ("", "unnamed"),
        ("\udcff.png", "_"),
    ],
)
def test_keys_are_plain(name: str, key: str) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize(
    ("name", "split"),
    [("validation", "val"), ("Train", "train"), ("restval", "train"), ("extra", "extra"), ("../x", ""), ("a2", "a2_")],
)
def test_split_names(name: str, split: str) -> None:
    assert split_name(name) == split
