"""MSR-VTT, DiDeMo, MSRVTT-QA and TGIF-QA in their own formats, and folders of videos."""

import json

import pytest
from shard_helpers import film

from diptych.data.dataset import ShardedData
from diptych.data.pack import pack
from diptych.data.raw import Packing, Reading, SourceError
from diptych.data.readers import recognise


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def packed(source, out, **reading):
    """The samples of all splits: split -> key -> the fields that are asked for."""
    report = pack(source, out, Reading(**reading), Packing(max_broken=0.9))

    def all_of(split, fields):
        data = ShardedData(out, split)
        return {data.key(number): data.read(number, fields) for number in range(len(data))}

    return report, all_of


VTT = {
    "info": {"year": "2016", "version": "1.0"},
    "videos": [
        {"category": 9, "url": "https://x", "video_id": "video0", "start time": 1.0, "split": "train", "id": 0},
        {"category": 3, "url": "https://x", "video_id": "video1", "start time": 2.0, "split": "validate", "id": 1},
        {"category": 3, "url": "https://x", "video_id": "video2", "start time": 2.0, "split": "test", "id": 2},
    ],
    "sentences": [
        {"caption": "a man sings", "video_id": "video0", "sen_id": 0},
        {"caption": "a  dog runs", "video_id": "video1", "sen_id": 1},
        {"caption": "someone sings", "video_id": "video0", "sen_id": 2},
        {"caption": "a car", "video_id": "video2", "sen_id": 3},
        {"caption": "lost", "video_id": "video9", "sen_id": 4},
    ],
}
FILMS = {f"TrainValVideo/video{number}.mp4": film(3 + number) for number in range(3)}
PAIRS = "key,vid_key,video_id,sentence\nret0,msr1,video1,a dog is running\n"


def test_msrvtt_has_the_splits_of_its_file(tmp_path):
    put(tmp_path / "in", {"train_val_videodatainfo.json": json.dumps(VTT), **FILMS})
    report, all_of = packed(tmp_path / "in", tmp_path / "out")
    assert report.about == "MSR-VTT (train_val_videodatainfo.json): 3 videos, 4 captions"
    assert report.splits == {"train": 1, "val": 1, "test": 1}
    assert all_of("train", ["texts"])["video0"].texts == ["a man sings", "someone sings"]
    assert len(all_of("val", ["video"])["video1"].video) == 4
    assert report.broken == {
        "train_val_videodatainfo.json: sentences[4]": "it belongs to no video of the file ('video9')"
    }


def test_test_pairs_make_the_split_1k_a(tmp_path):
    put(tmp_path, {"a/info.json": json.dumps(VTT), "a/MSRVTT_JSFUSION_test.csv": PAIRS})
    put(tmp_path / "films", FILMS)
    report, all_of = packed(tmp_path / "a", tmp_path / "out", images=str(tmp_path / "films"))
    assert report.splits == {"train": 2, "test": 1}
    assert all_of("test", ["texts"])["video1"].texts == ["a dog is running"]
    assert "1 test pairs" in report.about
    report, _ = packed(tmp_path / "a" / "MSRVTT_JSFUSION_test.csv", tmp_path / "pairs", images=str(tmp_path / "films"))
    assert report.splits == {"test": 1}


def test_didemo_has_moments_and_their_paragraph(tmp_path):
    entries = [
        {"annotation_id": 1, "video": "7@N00_1.avi", "description": "a cat jumps", "times": [[0, 0], [1, 1], [1, 1]]},
        {"annotation_id": 2, "video": "7@N00_1.avi", "description": "it lands.", "times": [[2, 3]]},
        {"annotation_id": 3, "video": "7@N00_2.mov", "description": "gone", "times": [[0, 0]]},
        {"annotation_id": 4, "video": "7@N00_1.avi", "description": "no times", "times": []},
    ]
    put(tmp_path / "in", {"val_data.json": json.dumps(entries), "videos/7@N00_1.mp4": film()})
    report, all_of = packed(tmp_path / "in", tmp_path / "out")
    assert report.splits == {"val": 1}
    (sample,) = all_of("val", ["moments", "text", "video"]).values()
    assert [tuple(moment) for moment in sample.moments] == [(5.0, 10.0, "a cat jumps"), (10.0, 20.0, "it lands.")]
    assert sample.text == "a cat jumps. it lands."
    assert len(sample.video) == 6  # found by its name, whatever its ending
    assert set(report.broken.values()) == {
        "the entry has no video, no description, or no times",
        "'7@N00_2.mov' is missing, or no plain file",
    }


def test_msrvtt_qa(tmp_path):
    entries = [
        {"answer": "couch", "category_id": 14, "id": 0, "question": "what is he sitting on?", "video_id": 0},
        {"answer": "two", "category_id": 14, "id": 1, "question": "how many sit?", "video_id": 0},
        {"answer": "x", "id": 2, "question": "", "video_id": 0},
    ]
    put(tmp_path / "in", {"test_qa.json": json.dumps(entries), **FILMS})
    report, all_of = packed(tmp_path / "in" / "test_qa.json", tmp_path / "out")
    assert all_of("test", ["questions"])["video0"].questions == [
        {"question": "what is he sitting on?", "answers": ["couch"], "type": "what"},
        {"question": "how many sit?", "answers": ["two"], "type": "how"},
    ]
    assert list(report.broken) == ["test_qa.json[2]"]


def test_tgif_qa_in_both_forms(tmp_path):
    action = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\n"
    action += "tumblr_a\tWhat does the cat do 3 times ?\tjump\tnod\tblink\twave\tspin\t4\tACTION1\t7\n"
    frame = "gif_name\tquestion\tanswer\tvid_id\tkey\ntumblr_a\twhat is it ?\tcat\tFRAMEQA1\t8\n"
    gif = film(4, container="gif", codec="gif")
    put(
        tmp_path / "in",
        {"Test_action_question.csv": action, "Test_frameqa_question.csv": frame, "gifs/tumblr_a.gif": gif},
    )
    report, all_of = packed(tmp_path / "in", tmp_path / "out")
    assert report.about.startswith(
        "TGIF-QA (Test_action_question.csv, Test_frameqa_question.csv): 1 videos, 2 questions"
    )
    sample = all_of("test", ["questions", "video"])["tumblr_a"]
    choices = ["jump", "nod", "blink", "wave", "spin"]
    assert sample.questions == [
        {"question": "What does the cat do 3 times ?", "answers": ["spin"], "type": "action", "choices": choices},
        {"question": "what is it ?", "answers": ["cat"], "type": "frameqa"},
    ]
    assert len(sample.video) == 4
    assert report.has == ("questions", "video")  # a GIF is no picture here


def test_videos_that_are_not_there_are_one_sentence(tmp_path):
    put(tmp_path, {"train_qa.json": json.dumps([{"answer": "a", "question": "what?", "video_id": 3}])})
    with pytest.raises(SourceError, match="name their folder with --images"):
        recognise(tmp_path / "train_qa.json")


def test_a_link_among_the_videos_that_leads_out_is_not_followed(tmp_path):
    secret = put(tmp_path, {"secret.mp4": film()}) / "secret.mp4"
    put(tmp_path / "in", {"test_qa.json": json.dumps([{"answer": "a", "question": "what?", "video_id": 0}])})
    (tmp_path / "in" / "video0.mp4").symlink_to(secret)
    with pytest.raises(SourceError, match=r"name their folder|leads out"):
        pack(tmp_path / "in" / "test_qa.json", tmp_path / "out")


def test_a_folder_of_videos_with_captions(tmp_path):
    short = film(4, container="webm", codec="libvpx")
    put(tmp_path / "in", {"train/a.mp4": film(), "train/a.txt": "grey film", "val/b.webm": short, "val/b.txt": "short"})
    report, all_of = packed(tmp_path / "in", tmp_path / "out")
    assert report.about.startswith("a folder of 2 videos in the splits train, val")
    assert all_of("train", ["text"])["train/a"].text == "grey film"
    assert len(all_of("val", ["video"])["val/b"].video) == 4
