"""Conversations, documents with pictures between their texts, and texts alone, in the forms in which they are given."""

import gzip
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diptych.batch import MissingField
from diptych.data.dataset import ShardedData, Subset
from diptych.data.decode import BrokenSample
from diptych.data.fields import decode_sample
from diptych.data.mixture import Mixture
from diptych.data.pack import Packing, pack
from diptych.data.raw import Reading, SourceError
from diptych.data.readers import recognise
from diptych.recipe import Stage
from diptych.training.loop import fields_of
from diptych.world import open_world

RED, BLUE = (255, 0, 0), (0, 0, 255)
LLAVA = [
    {
        "id": "7",
        "image": "coco/a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A star."},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Yes."},
        ],
    },
    {
        "id": "two",
        "image": ["coco/a.png", "coco/b.png"],
        "conversations": [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "This."}],
    },
    {"id": "none", "conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Yo."}]},
]


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "coco" / "a.png", RED)
    picture(tmp_path / "coco" / "b.png", BLUE)
    return tmp_path


def read(path, **reading):
    source = recognise(path, Reading(**reading))
    found = list(source.samples())
    return (
        source,
        [one for one in found if not isinstance(one, BrokenSample)],
        {one.key: one.reason for one in found if isinstance(one, BrokenSample)},
    )


def turns(sample):
    return [(turn["role"], turn["text"]) for turn in json.loads(sample.members["json"])["conversation"]]


def test_llava(folder):
    (folder / "train.json").write_text(json.dumps(LLAVA))
    source, samples, broken = read(folder / "train.json")
    assert (source.kind, source.total, broken) == ("conversations", 3, {})
    assert source.about == "conversations (train.json): 3, of which 1 show nothing"
    assert [(one.key, one.split, sorted(one.members)) for one in samples] == [
        ("7", "train", ["0.png", "json"]),
        ("two", "train", ["0.png", "1.png", "json"]),
        ("none", "train", ["json"]),
    ]
    assert turns(samples[0]) == [
        ("user", "<image>\nWhat is it?"),
        ("assistant", "A star."),
        ("user", "Sure?"),
        ("assistant", "Yes."),
    ]


def test_messages_of_chat_models(folder):
    lines = [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {
                    "role": "user",
                    "content": [{"type": "image", "image": "coco/b.png"}, {"type": "text", "text": "What?"}],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "Blue."}]},
            ]
        },
        {
            "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Red."}],
            "images": ["coco/a.png"],
        },
    ]
    (folder / "talk.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source, samples, broken = read(folder / "talk.jsonl")
    assert (source.kind, broken) == ("conversations", {})
    assert turns(samples[0]) == [("system", "Be kind."), ("user", "<image>\nWhat?"), ("assistant", "Blue.")]
    assert turns(samples[1]) == [("user", "<image>What?"), ("assistant", "Red.")]
    assert [sorted(one.members) for one in samples] == [["json", "png"]] * 2


def test_videos_are_seen_at_their_marker(folder):
    (folder / "a.mp4").write_bytes(b"film")
    talk = [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", "value": "It moves."}]
    (folder / "v.json").write_text(json.dumps([{"id": "v", "video": "a.mp4", "conversations": talk}]))
    _, (sample,), _ = read(folder / "v.json")
    assert sample.members["mp4"] == b"film"
    assert turns(sample)[0] == ("user", "<image>\nWhat happens?")


def test_packed_conversations_are_read_back(folder, tmp_path):
    talk = [{**LLAVA[0], "id": str(number)} for number in range(4)]
    (folder / "talk.json").write_text(json.dumps(talk))
    report = pack(folder / "talk.json", tmp_path / "out", packing=Packing(split="train"))
    assert set(report.has) == {"image", "conversation"}
    sample = ShardedData(tmp_path / "out", "train").read(0, ("image", "conversation"))
    assert np.asarray(sample.image)[0, 0].tolist() == list(RED)
    assert sample.conversation[1] == {"role": "assistant", "text": "A star."}


def test_words_alone_are_packed_beside_what_is_seen(folder, tmp_path):
    talk = [{**LLAVA[2 * (number % 2)], "id": str(number)} for number in range(6)]
    (folder / "talk.json").write_text(json.dumps(talk))
    report = pack(folder / "talk.json", tmp_path / "out", packing=Packing(split="train"))
    assert (set(report.has), report.some) == ({"conversation"}, ("image",))
    data = ShardedData(tmp_path / "out", "train")
    method = SimpleNamespace(card=SimpleNamespace(id="x", needs=()))
    fields = fields_of(method, Stage(needs=("conversation|questions",), uses=("image|video",)), data)
    assert fields == ("conversation", "image")
    both = Mixture([(data, 1.0), (open_world("video=true"), 1.0)])
    for one in (data, Subset(data, range(6)), both):
        samples = [one.read(index, fields) for index in range(6)]
        assert [("image" in sample, "image" in sample.lacks) for sample in samples] == [
            (True, False),
            (False, True),
        ] * 3
        assert samples[1].conversation[1]["text"] == "Yo."
    with pytest.raises(MissingField, match="needs image, which"):
        fields_of(method, Stage(needs=("image",)), data)


@pytest.mark.parametrize("turn", [{"role": "robot", "text": "hi"}, {"role": "user", "text": 3}, {"text": "hi"}, "hi"])
def test_damaged_conversations_are_broken(turn):
    with pytest.raises(BrokenSample):
        decode_sample("a", {"json": json.dumps({"conversation": [turn]}).encode()}, ("conversation",))


def test_documents_of_mmc4(folder):
    line = {
        "text_list": ["One.", "Two.", "Three."],
        "image_info": [
            {"image_name": "coco/b.png", "matched_text_index": 2},
            {"image_name": "coco/a.png", "matched_text_index": 0},
        ],
    }
    (folder / "docs.jsonl").write_text(json.dumps(line))
    source, (sample,), _ = read(folder / "docs.jsonl")
    assert source.kind == "documents"
    assert turns(sample) == [("text", "<image>\nOne.\nTwo.\n<image>\nThree.")]
    first = Image.open(io.BytesIO(sample.members["0.png"]))
    assert (first.getpixel((0, 0)), sorted(sample.members)) == (RED, ["0.png", "1.png", "json"])


def test_documents_of_obelics(folder):
    line = {"texts": ["One <image>.", None, "Two."], "images": [None, "coco/b.png", None]}
    (folder / "docs.jsonl").write_text(json.dumps(line))
    _, (sample,), _ = read(folder / "docs.jsonl")
    assert turns(sample) == [("text", "One .\n<image>\nTwo.")]
    assert sorted(sample.members) == ["0.png", "json"]


ANSWER = {"from": "gpt", "value": "A star."}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image": "coco/a.png", "conversations": [{"from": "human", "value": "<image><image>"}, ANSWER]}, "2 markers"),
        ({"conversations": [{"from": "human", "value": "<image>"}, ANSWER]}, "1 markers <image> for 0 pictures"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "nobody answers"),
        ({"conversations": [{"from": "robot", "value": "Hi"}, ANSWER]}, "said by nobody that is known"),
        ({"conversations": [{"from": "human", "value": " "}, ANSWER]}, "a turn is empty"),
        ({"conversations": [{"from": "human", "value": 3}, ANSWER]}, "a turn is empty"),
        ({"conversations": "hello"}, "nobody answers"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "neither text nor image nor video"),
        ({"image": "../secret.png", "conversations": [ANSWER]}, "leads out of the folder"),
        ({"image": "http://x.org/a.png", "conversations": [ANSWER]}, "URLs are not fetched"),
        ({"image": "coco/c.png", "conversations": [ANSWER]}, "is missing"),
        ({"image": [None], "conversations": [ANSWER]}, "does not name its pictures"),
        ({"image": ["coco/a.png"] * 65, "conversations": [ANSWER]}, "more than 64"),
        ("hello", "no object"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_and_the_others_are_read(folder, entry, reason):
    picture(folder.parent / "secret.png", RED)
    (folder / "all.json").write_text(json.dumps([LLAVA[0], entry]))
    _, samples, broken = read(folder / "all.json")
    assert [one.key for one in samples] == ["7"]
    assert len(broken) == 1
    assert reason in next(iter(broken.values()))


def test_pictures_that_are_nowhere_are_asked_for(folder):
    (folder / "all.json").write_text(json.dumps([{**LLAVA[0], "image": "else/a.png"}]))
    with pytest.raises(SourceError, match="name its folder with --images"):
        recognise(folder / "all.json")


# --- texts ------------------------------------------------------------------------------------------------------------


def test_texts_are_lines_paragraphs_or_definitions(tmp_path):
    (tmp_path / "a.txt").write_text("One\ntwo.\n\n\nThree.\n")
    source, samples, _ = read(tmp_path / "a.txt")
    assert (source.kind, [one.members["txt"].decode() for one in samples]) == ("texts", ["One\ntwo.", "Three."])
    lines = ['{"text": "One."}', '{"text": " "}', "oops", '{"body": "Two."}']
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    _, samples, broken = read(tmp_path / "b.jsonl", kind="texts")
    assert [one.members["txt"] for one in samples] == [b"One."]
    assert sorted(broken.values()) == ["it has no text in the column 'text'"] * 2 + ["the row is not valid JSON"]
    _, samples, _ = read(tmp_path / "b.jsonl", kind="texts", text_column="body")
    assert [one.members["txt"] for one in samples] == [b"Two."]


def test_a_folder_of_definitions(tmp_path):
    entry = {"key": "n1", "words": ["oak", "oak tree"], "definition": "a tree with acorns", "examples": ["an old oak"]}
    with gzip.open(tmp_path / "val.jsonl.gz", "wt") as file:
        file.write(json.dumps(entry) + "\nnonsense\n")
    source, (sample,), broken = read(tmp_path)
    assert (source.kind, sample.key, sample.split) == ("texts", "n1", "val")
    assert sample.members == {"txt": b"oak, oak tree: a tree with acorns; an old oak"}
    assert list(broken.values()) == ["the row is no JSON object"]
