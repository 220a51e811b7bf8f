import functools
import io
import json
import operator
import pickle

import numpy as np
import pytest
from shard_helpers import members_of, picture, tar_bytes, write_set

from diptych.batch import FIELDS, Sample
from diptych.data import dataset as module
from diptych.data.dataset import Dataset, ShardedData, Subset, splits
from diptych.data.decode import BrokenSample, Limits
from diptych.data.fields import decode_sample, field_of, fields_of, wanted
from diptych.data.shards import ShardWriter, split_of, write_dataset_json


def record(**values):
    return {"json": json.dumps(values).encode()}


def value(name, members, **options):
    return decode_sample("k", members, [name], **options)[name]


# --- members and fields -----------------------------------------------------------------------------------------------


def test_extensions_tell_their_field():
    known = {"jpg": "image", "webp": "image", "txt": "text", "mp4": "video", "ogg": "audio", "cls": "label"}
    known |= {"masks.npz": "masks", "depth.npz": "depth", "regions.npz": "regions", "points.npz": "points"}
    assert {extension: field_of(extension) for extension in known} == known
    assert [field_of(name) for name in ("0.jpg", "12.png", "json", "npz", "speech_en.ogg", "pkl")] == [
        "images",
        "images",
        None,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("fields", "members"),
    [
        (["image"], ["jpg"]),
        (["text"], ["txt"]),
        (["image", "text"], ["jpg", "txt"]),
        (["texts"], ["txt", "json"]),
        (["tags"], ["json"]),
        (["masks"], ["npz"]),  # a mask is never in the json
        (["audio"], []),
        (["label"], ["json"]),
        (["image", "boxes", "phrases"], ["jpg", "json", "npz"]),
    ],
)
def test_only_the_members_that_are_needed_are_read(fields, members):
    assert wanted(["jpg", "txt", "json", "npz", "0.jpg"], fields) == members


def test_captions_come_from_txt_and_json():
    both = {"txt": b"short", **record(texts=["one", "two"])}
    assert value("text", both) == "short"
    assert value("texts", both) == ["one", "two"]
    assert value("text", record(texts=["one", "two"])) == "one"
    assert value("texts", {"txt": b"short"}) == ["short"]
    assert value("text", record(caption="c")) == "c"
    assert value("texts", record(texts=["", "two", " "])) == ["two"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"txt": b" "}, "the text is empty"),
        (record(caption=""), "the text is empty"),
        (record(texts=["", " "]), "the text is empty"),
        (record(other=1), "it has no text"),
        ({}, "it has no text"),
        (record(caption=3), "text holds a int instead of text"),
        ({"json": b'{"caption": "\\ud800"}'}, "broken Unicode"),
    ],
)
def test_a_sample_without_words_is_broken_when_words_are_asked_for(members, reason):
    for name in ("text", "texts"):
        with pytest.raises(BrokenSample, match=reason) as raised:
            value(name, members)
        assert raised.value.key == "k"


def test_categories_and_labels_tell_each_other():
    classes = ("ant", "cat", "dog")
    assert value("label", record(category="cat"), classes=classes) == 1
    assert value("category", record(label="dog"), classes=classes) == "dog"
    assert value("label", record(label="dog"), classes=classes) == 2
    assert value("label", {"cls": b"2\n"}, classes=classes) == 2
    assert value("category", {"cls": b"2"}, classes=classes) == "dog"
    assert value("label", record(label=7)) == 7
    with pytest.raises(BrokenSample, match="category 'cow' is not one of the 3 classes"):
        value("label", record(category="cow"), classes=classes)
    with pytest.raises(BrokenSample, match="not a number"):
        value("label", {"cls": b"two"}, classes=classes)


def test_lists_and_tables_of_the_json():
    members = record(
        captions={"en": "a dog", "de": "ein Hund"},
        keywords={"de": ["Hund"], "en": ["dog", "pet"]},
        questions=[{"question": "what?", "answers": ["dog"]}],
        relations=[[0, "on", 1], ["dog", "has", "tail"]],
        attributes=[{"colour": "red"}],
        conversation=[{"role": "user", "text": "hi"}],
        scene={"objects": []},
        labels=[1, 0, -1],
    )
    assert value("translations", members) == {"en": "a dog", "de": "ein Hund"}
    assert value("tags", members) == ["dog", "pet"]
    assert value("questions", members)[0]["answers"] == ["dog"]
    assert value("relations", members) == [(0, "on", 1), ("dog", "has", "tail")]
    assert value("labels", members).tolist() == [1.0, 0.0, -1.0]
    assert {"attributes", "conversation", "scene", "tags"} <= fields_of(members)


def test_boxes_with_their_phrases_and_spans():
    members = {"txt": b"a dog", **record(boxes=[[0, 0.25, 0.5, 1.0005]], phrases=["a dog"], spans=[[2, 5, 0]])}
    boxes = value("boxes", members)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[0.0, 0.25, 0.5, 1.0]]
    assert value("phrases", members) == ["a dog"]
    assert value("spans", members) == [(2, 5, 0)]
    assert value("boxes", record(boxes=[])).shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "members", "reason"),
    [
        ("boxes", record(boxes=[[0, 0, 2, 1]]), r"in \[0, 1\]"),
        ("boxes", record(boxes=[[0.5, 0, 0.4, 1]]), r"in \[0, 1\]"),
        ("boxes", record(boxes=[[0, 0, 1]]), "shape"),
        ("boxes", record(boxes=[[0, 0, "a", 1]]), "numbers"),
        ("boxes", {"json": b'{"boxes": [[0, 0, NaN, 1]]}'}, "finite"),
        ("boxes", {"json": b'{"boxes": [[0, 0, 1e999, 1]]}'}, "finite"),
        ("boxes", record(boxes=[[0, 0, 10**400, 1]]), "numbers"),
        ("phrases", record(phrases=["a"], boxes=[]), "1 phrases for 0 boxes"),
        ("spans", {"txt": b"dog", **record(spans=[[0, 4, 0]], boxes=[[0, 0, 1, 1]])}, "outside"),
        ("spans", {"txt": b"dog", **record(spans=[[0, 3, 1]], boxes=[[0, 0, 1, 1]])}, "outside"),
        ("relations", record(relations=[[1, 2]]), "triples"),
        ("relations", record(relations="abc"), "triples"),
        ("tags", record(tags="dog"), "list of texts"),
        ("tags", record(tags=["dog", 3]), "int instead of text"),
        ("questions", record(questions=["what?"]), "list of objects"),
        ("translations", record(captions=["a"]), "by language"),
        ("scene", record(scene=[1]), "not an object"),
        ("camera", record(camera=[[1.0]]), "shape"),
        ("image", {"txt": b"x"}, "it has no image"),
    ],
)
def test_values_of_the_wrong_kind_are_broken(name, members, reason):
    with pytest.raises(BrokenSample, match=reason):
        value(name, members)


def test_arrays_lie_in_members_of_their_own_or_together():
    def npz(**arrays):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    masks = np.eye(3, dtype=np.uint8)[None]
    assert value("masks", {"masks.npz": npz(masks=masks)}).dtype == bool
    assert value("masks", {"masks.npz": npz(arr_0=masks)}).shape == (1, 3, 3)
    assert value("depth", {"npz": npz(depth=np.ones((2, 2)), masks=masks)}).shape == (2, 2)
    cloud = value("points", {"npz": npz(xyz=np.zeros((5, 3), np.float16), rgb=np.full((5, 3), 255, np.uint8))})
    assert cloud.shape == (5, 6)
    assert cloud[0].tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(BrokenSample, match="no masks"):
        value("masks", {"npz": npz(depth=np.ones((2, 2)))})


def test_several_pictures_come_in_the_order_of_their_numbers():
    members = {f"{n}.png": picture((n + 1, 1)) for n in (10, 2, 0)}
    assert [image.width for image in value("images", members)] == [1, 3, 11]
    with pytest.raises(BrokenSample, match="3 pictures; the limit is 2"):
        value("images", members, limits=Limits(frames=2))


# --- the data set -----------------------------------------------------------------------------------------------------


def test_samples_are_read_one_by_one_in_any_order(tmp_path):
    data = ShardedData(write_set(tmp_path, 9, max_bytes=8_000))
    assert isinstance(data, Dataset)
    assert len(data) == 9
    assert (data.name, data.split) == (tmp_path.name, "train")
    for index in (7, 0, 8, 3):
        sample = data.read(index, ("image", "text"))
        assert sample.key == data.key(index) == f"sample_{index:05d}"
        assert sample.text == f"number {index}"
        assert sample.image.getpixel((0, 0)) == (index,) * 3
        assert set(sample) == {"image", "text"}
        assert data.raw(index) == members_of(index)


def test_only_what_is_asked_for_is_decoded(tmp_path):
    with ShardWriter(tmp_path, "train") as writer:
        writer.add("a", {"png": b"no picture", "txt": b"fine", "json": b"{broken"})
    data = ShardedData(tmp_path)
    assert data.read(0, ("text",)).text == "fine"
    for name in ("image", "tags"):
        with pytest.raises(BrokenSample) as raised:
            data.read(0, (name,))
        assert raised.value.key == "a"


def test_what_a_data_set_has_is_found_by_looking(tmp_path):
    data = ShardedData(write_set(tmp_path, 40))
    assert data.has == {"image", "text", "texts", "category", "label"}
    assert data.has <= set(FIELDS)


def test_a_field_that_few_samples_have_is_not_promised(tmp_path):
    with ShardWriter(tmp_path, "train") as writer:
        for n in range(20):
            more = {"tags": ["x"]} if n % 2 else {}
            members = members_of(n, **more)
            writer.add(f"k{n}", members if n < 15 else {"txt": members["txt"]})
    data = ShardedData(tmp_path)
    assert data.has == {"text", "texts"}
    assert data.coverage["image"] == 0.75
    assert data.coverage["tags"] == 0.35


def test_what_dataset_json_says_is_believed(tmp_path):
    write_set(tmp_path, 3)
    write_dataset_json(tmp_path, {"name": "mine", "has": ["image", "text"], "classes": ["dog", "cat", "ant"]})
    data = ShardedData(tmp_path)
    assert (data.name, data.has, data.classes) == ("mine", {"image", "text"}, ("dog", "cat", "ant"))
    assert [data.read(i, ("label",)).label for i in range(3)] == [0, 2, 1]


def test_classes_are_those_of_all_splits(tmp_path):
    write_set(tmp_path, 2, "train")  # dog, ant
    write_set(tmp_path, 1, "val", first=2)  # cat
    train, val = ShardedData(tmp_path, "train"), ShardedData(tmp_path, "val")
    assert train.classes == val.classes == ("ant", "cat", "dog")
    assert [train.read(0, ("label",)).label, val.read(0, ("label",)).label] == [2, 1]


def test_classes_are_searched_for_once(tmp_path, monkeypatch):
    write_set(tmp_path, 3)
    assert ShardedData(tmp_path).classes == ("ant", "cat", "dog")
    monkeypatch.setattr(module, "_categories", lambda *_: pytest.fail("searched again"))
    assert ShardedData(tmp_path).classes == ("ant", "cat", "dog")


def test_an_epoch_is_a_permutation_by_seed_and_number(tmp_path):
    data = ShardedData(write_set(tmp_path, 50))
    orders = [data.order(*key, True) for key in ((0, 0), (1, 0), (0, 1))]
    for order in orders:
        assert order.dtype == np.int64
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in orders}) == 3
    assert np.array_equal(orders[0], data.order(0, 0, True))
    assert np.array_equal(data.order(5, 3, False), np.arange(50))


def test_parts_divide_the_samples(tmp_path):
    write_set(tmp_path, 10, max_bytes=8_000)
    keys = [[part.key(i) for i in range(len(part))] for part in (ShardedData(tmp_path, part=(i, 3)) for i in range(3))]
    assert functools.reduce(operator.iadd, keys, []) == [f"sample_{n:05d}" for n in range(10)]
    assert [len(part) for part in keys] == [3, 3, 4]
    last = ShardedData(tmp_path, part=(2, 3))
    assert last.read(0, ("text",)).text == "number 6"


def test_a_subset_renumbers(tmp_path):
    data = ShardedData(write_set(tmp_path, 10))
    subset = Subset(data, [7, 2, 9])
    assert isinstance(subset, Dataset)
    assert [subset.key(i) for i in range(len(subset))] == [data.key(i) for i in (7, 2, 9)]
    assert subset.read(1, ("text",)).text == "number 2"
    assert sorted(subset.order(0, 0, True)) == [0, 1, 2]
    assert (subset.has, subset.classes) == (data.has, data.classes)
    with pytest.raises(IndexError, match="0 to 9"):
        Subset(data, [10])
    with pytest.raises(IndexError, match="0 to 9"):
        Subset(data, [-1])


def test_members_over_the_limit_are_not_even_read(tmp_path, monkeypatch):
    data = ShardedData(write_set(tmp_path, 1), limits=Limits(bytes=20))
    monkeypatch.setattr(data.files, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(BrokenSample, match=r"its \.png has [\d,]+ bytes; the limit is 20"):
        data.read(0, ("image",))


def test_a_tar_that_became_shorter_breaks_samples_only(tmp_path):
    data = ShardedData(write_set(tmp_path, 3))
    path = tmp_path / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    assert data.read(0, ("text",)).text == "number 0"
    with pytest.raises(BrokenSample, match=r"train-00000.tar ends within its \.txt"):
        data.read(2, ("text",))


def test_it_opens_again_in_another_process(tmp_path):
    data = ShardedData(write_set(tmp_path, 10), part=(1, 2), limits=Limits(frames=3))
    sent = pickle.dumps(data)
    assert len(sent) < 1000  # the way to the data, not the index
    copy = pickle.loads(sent)
    assert [copy.key(i) for i in range(5)] == [data.key(i) for i in range(5)]
    assert copy.limits == Limits(frames=3)


@pytest.mark.parametrize("listed", [True, False])
def test_a_remote_folder_reads_like_a_local_one(tmp_path, listed):
    import fsspec

    write_set(tmp_path, 4, max_bytes=8_000)
    shards = len(list(tmp_path.glob("*.tar")))
    write_dataset_json(tmp_path, {"splits": {"train": {"samples": 4, "shards": shards}}} if not listed else {})
    system = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        system.pipe_file(f"/remote_{listed}/{path.name}", path.read_bytes())
    data = ShardedData(f"memory://remote_{listed}")
    assert [data.read(i, ("text",)).text for i in range(4)] == [f"number {i}" for i in range(4)]
    assert data.has == ShardedData(tmp_path).has


# --- folders as people have them --------------------------------------------------------------------------------------


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; check the path"):
        ShardedData(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no shards .* `diptych pack .* DST`"):
        ShardedData(tmp_path)
    (tmp_path / "train-0.tar.gz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"compressed tars, which .*gzip"):
        ShardedData(tmp_path)
    (tmp_path / "train-0.tar.gz").unlink()
    write_set(tmp_path, 1)
    write_set(tmp_path, 1, "val")
    with pytest.raises(FileNotFoundError, match="no split 'test'; it has train, val"):
        ShardedData(tmp_path, "test")
    with pytest.raises(NotADirectoryError, match=r"train-00000\.tar is a file; give the folder"):
        ShardedData(tmp_path / "train-00000.tar")
    with pytest.raises(FileNotFoundError, match="memory://nowhere does not exist"):
        ShardedData("memory://nowhere")
    with pytest.raises(ModuleNotFoundError, match="nosuch://x cannot be opened"):
        ShardedData("nosuch://x")


def test_tars_without_a_split_in_their_names_are_divided_by_key(tmp_path):
    keys = [f"k{n}" for n in range(60)]
    for part in range(2):
        content = [(f"{key}.txt", key.encode()) for key in keys[part::2]]
        (tmp_path / f"0000{part}.tar").write_bytes(tar_bytes(content))
    for split in ("train", "val"):
        data = ShardedData(tmp_path, split)
        expected = [key for key in keys[0::2] + keys[1::2] if split_of(key) == split]
        assert [data.key(i) for i in range(len(data))] == expected
        assert [data.read(i, ("text",)).text for i in range(len(data))] == expected
    assert splits(tmp_path) == ["train", "val"]


def test_a_longer_name_of_a_split_is_understood(tmp_path):
    write_set(tmp_path, 2, "flickr-train")
    write_set(tmp_path, 1, "flickr-val")
    assert len(ShardedData(tmp_path, "train")) == 2
    assert splits(tmp_path) == ["flickr-train", "flickr-val"]


def test_a_read_gives_a_sample(tmp_path):
    sample = ShardedData(write_set(tmp_path, 1)).read(0, ())
    assert isinstance(sample, Sample)
    assert dict(sample) == {}
