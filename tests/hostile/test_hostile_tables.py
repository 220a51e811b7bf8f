"""Tables, annotations and folders that a stranger made: what `diptych pack` says of them, and what it does not do."""

import csv
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_helpers import ask, everything, sparse
from shard_helpers import picture

GIB = 1 << 30


def pack(folder, source, **limits):
    """Packs with everything allowed to be broken; nothing but the destination may appear or change."""
    before = everything(folder)
    said = ask("pack", source, folder / "out", "--max-broken", "1", **limits)
    out = str(folder / "out")
    assert {path: data for path, data in everything(folder).items() if not path.startswith(out)} == before
    return said


def broken(folder):
    return json.loads((folder / "out" / "broken.json").read_text(encoding="utf-8"))


@pytest.fixture
def source(tmp_path):
    """A folder with one good picture."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(picture())
    return tmp_path / "in"


def written(source, text, name="t.csv"):
    (source / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return source / name


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cat.jpg", "good.txt", "good.json", "table.csv", "a.json", "train-0.tar"])
def test_pipes_are_not_waited_for(tmp_path, source, name):
    os.mkfifo(source / name)
    pack(tmp_path, source, seconds=10)


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "../private.png", "loop.jpg"])
def test_links_out_of_a_folder_are_not_followed(tmp_path, source, target):
    (tmp_path / "private.png").write_bytes(picture(colour=(1, 2, 3)))
    (source / "loop.jpg").symlink_to(target)
    assert "1 samples" in pack(tmp_path, source).well
    assert list(broken(tmp_path)) == ["loop"]


def test_links_into_a_folder_that_was_named_are_followed(tmp_path, source):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").write_bytes(picture())
    (source / "a.png").symlink_to(tmp_path / "store" / "a.png")
    said = ask("pack", source, tmp_path / "out", "--images", tmp_path)
    assert "2 samples" in said.well


@pytest.mark.parametrize("name", ["good.txt", "good.json", "huge.jpg"])
def test_giant_files_are_refused_by_their_size(tmp_path, source, name):
    written(source, picture(), "other.png")
    sparse(source / name, 40 * GIB)
    said = pack(tmp_path, source, memory=300)
    assert said.code == 0
    assert "bytes; the limit is" in next(iter(broken(tmp_path).values()))


def test_nested_values_break_their_sample_only(tmp_path, source):
    written(source, '{"a":' * 900 + "1" + "}" * 900, "good.json")
    written(source, picture(), "other.png")
    assert "1 samples" in pack(tmp_path, source).well
    assert broken(tmp_path) == {"good": "its values are nested too deeply"}


def test_names_and_classes_do_not_reach_the_terminal_as_commands(tmp_path, source):
    written(source, json.dumps({"category": "\x1b]0;owned\x07\u202e<script>\x9b2J"}), "good.json")
    written(source, b"no picture", "x\x1b[2J\x07.jpg")
    assert "\\x1b]0;owned\\x07" in pack(tmp_path, source).well
    assert "\\x1b]0;owned\\x07" in ask("inspect", tmp_path / "out", "--sheet", tmp_path / "s.png").well


# --- CSV --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["²", "--5", "9" * 5000, "٣", "=cmd|' /C calc'!A0", "1e999"])
def test_odd_labels_are_classes(tmp_path, source, label):
    table = source / "t.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "label"], ["good.png", label]])
    assert "1 samples" in pack(tmp_path, table).well


def test_utf_16_is_read(tmp_path, source):
    assert "text" in pack(tmp_path, written(source, "image,caption\ngood.png,hé\n".encode("utf-16"))).well


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.tsv"])
def test_files_without_an_end_are_refused(tmp_path, source, name):
    assert str(sparse(source / name, 40 * GIB).name) in pack(tmp_path, source / name, memory=300).sentence


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,caption\ngood.png," + "y" * (3 << 20) + "\n", "no rows that can be read"),
        ('image,caption\ngood.png,"open\n' + "a,b\n" * 40_000, "field larger than field limit"),
        ("image,caption\n\udcff.png,a\n", "not valid UTF-8"),
        ("image,caption,split\ngood.png,a,../../x\n", "is no name of a split"),
        ("image,caption\n../../etc/passwd,a\n", "leads out of the folder"),
        ("image,caption\n/etc/passwd,a\n", "leads out of the folder of pictures, which --images can name"),
        ("image,caption\n/dev/zero,a\n", "leads out of the folder"),
        ("image,caption\nhttp://169.254.169.254/latest/meta-data.png,a\n", "URLs are not fetched"),
        ("image,caption\nfile:///etc/passwd.png,a\n", "URLs are not fetched"),
        ("image,caption\nsimplecache::http://127.0.0.1/x.png,a\n", "is missing"),
        ("image,caption\npipe:touch owned; cat good.png,a\n", "is missing"),
        ("image,caption\n$HOME/x.png,a\n", "is missing"),
        ("image" + "x" * 100_000 + ",caption\n", "no rows that can be read"),
        ("", "no rows that can be read"),
        ("\ufeff\ufeff\0\0\0\n\0", "no"),
    ],
)
def test_a_table_that_gives_nothing_says_why(tmp_path, source, text, reason):
    assert reason in pack(tmp_path, written(source, text)).sentence
    assert not (tmp_path / "out").exists()


def test_absolute_paths_are_fine_where_their_folder_is_named(tmp_path, source):
    table = written(tmp_path, f"image,caption\n{source}/good.png,a\n")
    assert "1 samples" in ask("pack", table, tmp_path / "out", "--images", source).well


def test_a_million_columns(tmp_path, source):
    header = ",".join(f"c{number}" for number in range(300_000))
    assert "1 samples" in pack(tmp_path, written(source, f"image,{header}\ngood.png\n")).well


# --- JSON -------------------------------------------------------------------------------------------------------------

COCO = {"images": [{"id": 1, "file_name": "good.png"}], "annotations": [{"image_id": 1, "caption": "x"}]}


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("images", 0, "width"), "BIG", ""),
        (("images", 0, "width"), "1e999", ""),
        (("annotations", 0), '{"image_id": 1, "bbox": [0, 0, BIG, 1]}', "neither a caption nor a bbox"),
        (("annotations", 0), '{"image_id": 1, "bbox": [0, 0, NaN, 1]}', "neither a caption nor a bbox"),
        (("annotations", 0), '{"image_id": [1], "caption": "x"}', "no image_id"),
        (("annotations", 0), "[[[]]]", "no image_id"),
        (("images", 0, "file_name"), '"../../etc/passwd"', "leads out"),
        (("images", 0, "file_name"), '"\\ud800.png"', "None of the first"),
        (("categories",), "[" * 50_000 + "]" * 50_000, "not valid JSON"),
        (("images",), "{}", "no list of images"),
    ],
)
def test_coco_files_that_lie(tmp_path, source, path, value, reason):
    content = json.loads(json.dumps(COCO))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = "HERE"
    text = json.dumps(content).replace('"HERE"', value).replace("BIG", "9" * 400)
    said = pack(tmp_path, written(source, text, "captions_train.json"))
    if said.code == 0:
        assert not reason or reason in str(broken(tmp_path))
    else:
        assert reason in said.sentence or "None of the first" in said.sentence


def test_repeated_keys_and_odd_numbers_in_json_lines(tmp_path, source):
    rows = [
        '{"image": "good.png", "image": "good.png", "caption": "a", "boxes": [[NaN, 0, 1, 1]]}',
        '{"image": "good.png", "caption": "b", "label": ' + "9" * 400 + "}",
        '{"image": {"bytes": 5, "path": "../../etc/passwd"}, "caption": "c"}',
        '{"image": ["good.png"], "caption": {"a": ["b"]}}',
        "[" * 100_000,
        '{"image": "good.png", "caption": "\\udc00"}',
        "\ud800",
        "NaN",
    ]
    said = pack(tmp_path, written(source, "\n".join(rows), "t.jsonl"))
    assert "1 samples" in said.well
    assert len(broken(tmp_path)) >= 6


# --- Parquet ----------------------------------------------------------------------------------------------------------


def parquet(source, **columns):
    names = ["good.png"] * len(next(iter(columns.values())))
    pq.write_table(pa.table({"image": names, **columns}), source / "t.parquet")
    return source / "t.parquet"


def test_a_small_table_does_not_fill_the_memory(tmp_path, source):
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), pa.array(["x" * (10 << 20)]))
    table = parquet(source, caption=large)  # 1 GB in half a MB
    assert table.stat().st_size < 2_000_000
    assert "more than 1,048,576 characters" in pack(tmp_path, table, memory=400, seconds=60).sentence


def test_values_that_python_does_not_have_break_their_rows_only(tmp_path, source):
    text = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ok\xff\xfe")]
    )
    assert "1 samples" in pack(tmp_path, parquet(source, caption=text)).well
    (reason,) = broken(tmp_path).values()
    assert "can't decode" in reason


def test_dates_beyond_the_calendar(tmp_path, source):
    days = pa.array([1, 2**31 - 1], pa.int32()).cast(pa.date32())
    assert "1 samples" in pack(tmp_path, parquet(source, caption=["a", "b"], day=days)).well
    assert len(broken(tmp_path)) == 1


def test_a_parquet_whose_columns_have_names_of_broken_unicode(tmp_path, source):
    table = parquet(source, caption=["a"])
    table.write_bytes(table.read_bytes().replace(b"caption", b"capt\x80on"))
    assert "no rows that can be read" in pack(tmp_path, table).sentence


@pytest.mark.parametrize("cut", [-4, -20, 30, 4])
def test_a_table_that_is_cut_short(tmp_path, source, cut):
    table = parquet(source, caption=["a"])
    table.write_bytes(table.read_bytes()[:cut])
    assert "no rows that can be read" in pack(tmp_path, table).sentence


def test_a_footer_that_lies(tmp_path, source):
    table = parquet(source, caption=["a"])
    data = bytearray(table.read_bytes())
    data[-8:-4] = (2**31 - 1).to_bytes(4, "little")
    table.write_bytes(data)
    assert "no rows that can be read" in pack(tmp_path, table, memory=300).sentence
