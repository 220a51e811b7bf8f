from __future__ import annotations

import json
import pickle
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from diptych.batch import FIELDS
from diptych.world import Clips, Knobs, Object, Scene, Sprite, draw, open_world, telling
from diptych.world.motion import TURNED, Clip, Event
from diptych.world.scene import DIRECTIONS


def options(clip: Clip) -> dict[str, str]:
    """Every question that a clip backwards answers otherwise, with its answer."""
    asks = [telling.OPTIONS[kind] for kind in ("order", "direction")]
    return {option.form.format(*option.words): option.answer for ask in asks for option in ask(clip)}


def changes(clip: Clip, index: int) -> list[tuple[int, float, float]]:
    """(frame, dx, dy) of each step of an object that changes its place, the short way round."""
    found = []
    for frame in range(1, len(clip.scenes)):
        a, b = (clip.scenes[f].objects[index] for f in (frame - 1, frame))
        around = 1 + 2 * (1.03 * a.radius + 0.03)
        dx, dy = (((q - p + around / 2) % around) - around / 2 for p, q in ((a.x, b.x), (a.y, b.y)))
        if (a.x, a.y) != (b.x, b.y):
            found.append((frame, dx, dy))
    return found


def direction(clip: Clip, index: int) -> str:
    steps = changes(clip, index)
    dx, dy = sum(step[1] for step in steps), sum(step[2] for step in steps)
    assert min(abs(dx), abs(dy)) < 1e-9
    return ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")


@pytest.mark.parametrize("knobs", ["", "repeats=true", "events=3,frames=16", "motions=move"])
def test_answers_agree_with_what_moves_in_the_frames(knobs):
    world = open_world(f"video=true,questions=order+direction,each=9,{knobs}")
    given: dict[str, Counter] = defaultdict(Counter)
    for index in range(150):
        clip, asked = world.item(index), world.read(index, ["questions"])["questions"]
        named = {name: i for i, name in telling.singled(clip.middle).items()}
        for question in asked:
            text, (answer,) = question["question"], question["answers"]
            assert answer in world.answers
            if found := re.fullmatch(r"In which direction does the (.+) move\?", text):
                assert answer == direction(clip, named[found[1]])
            elif found := re.fullmatch(r"Which (?:move|change)s first, the (.+) or the (.+)\?", text):
                first = min(found.groups(), key=lambda name: changes(clip, named[name])[0])
                assert answer == clip.middle.objects[named[first]].category
            else:
                found = re.fullmatch(r"Does the (.+) (?:move|change) before the (.+)\?", text)
                a, b = ([frame for frame, _, _ in changes(clip, named[name])] for name in found.groups())
                assert (answer == "yes") == (a[0] < b[0])
                assert a[-1] <= b[0] if answer == "yes" else b[-1] <= a[0]  # one step may see the end and the start
            given[question["type"]][answer] += 1
    assert set(given["direction"]) == set(DIRECTIONS)
    assert max(given["direction"].values()) < 0.35 * given["direction"].total()
    assert 0.4 < given["order"]["yes"] / (given["order"]["yes"] + given["order"]["no"]) < 0.6


def test_a_clip_backwards_has_the_same_frames_and_the_same_questions_with_the_reverse_answers():
    world = open_world("video=true,repeats=true", "gallery")
    asked = 0
    for index in range(0, 60, 2):
        clip, back = world.item(index), world.item(index + 1)
        assert back == clip.backwards
        assert back.backwards.scenes == clip.scenes != back.scenes
        forth, other = options(clip), options(back)
        assert set(forth) == set(other)
        for question, answer in forth.items():
            asked += 1
            opposite = TURNED | {"yes": "no", "no": "yes"}
            assert other[question] == opposite.get(answer, other[question]) != answer
        frames = [[frame.tobytes() for frame in world.read(i, ["video"])["video"]] for i in (index, index + 1)]
        assert frames[0] == frames[1][::-1]
        texts = [world.read(i, ["text", "negatives"]) for i in (index, index + 1)]
        assert texts[0]["text"] in texts[1]["negatives"]  # the `reversed` foil of each is the other's caption
        assert texts[1]["text"] in texts[0]["negatives"]
    assert asked > 100


@pytest.mark.parametrize("frame", [0, 2, 4, 7])
def test_a_place_in_a_single_frame_tells_nothing_about_the_direction(frame):
    """The best threshold on the place of what moves, in one frame whose time is known."""
    world = open_world("video=true,motions=move,events=1")
    places, rightwards = [], []
    for index in range(600):
        clip = world.item(index)
        (event,) = clip.events
        thing = clip.scenes[frame].objects[event.object]
        edge = 1.03 * thing.radius + 0.03
        place = thing.x if event.direction in ("left", "right") else thing.y
        places.append((place + edge) / (1 + 2 * edge))
        rightwards.append(event.direction in ("right", "down"))
    right = np.array(rightwards)[np.argsort(places)]
    correct = np.concatenate([[0], np.cumsum(np.where(right, -1, 1))]) + right.sum()  # below left, above right
    assert abs(correct / 600 - 0.5).max() < 0.07  # chance and three standard deviations


def test_captions_and_foils():
    world = open_world("video=true,say=colour")
    kinds = Counter()
    for index in range(150):
        clip, sample = world.item(index), world.read(index, ["text", "texts", "negatives", "spans", "scene", "moments"])
        names = [f"{t.colour} {t.category}" for t in (clip.middle.objects[event.object] for event in clip.events)]
        first, second = (f"the {name} {telling.verb(event)}" for name, event in zip(names, clip.events, strict=True))
        assert sample.text == f"first {first}, then {second}"
        assert sample.texts == [sample.text, f"{second} after {first}"]
        assert [sample.text[a:b] for a, b, _ in sample.spans] == names
        assert [box for _, _, box in sample.spans] == [event.object for event in clip.events]
        assert [text for _, _, text in sample.moments] == [first, second]
        assert sample.moments[0][1] < sample.moments[1][0] < sample.moments[1][1] < 2
        assert sample.text not in sample.negatives
        false = dict(zip(sample.scene["negatives"], sample.negatives, strict=True))
        assert len(set(false.values())) == len(false)
        if "order" in false:
            assert false["order"] == f"first {second}, then {first}"
        if "direction" in false:
            words = [text.replace(",", "").split() for text in (sample.text, false["direction"])]
            ((a, b),) = [(a, b) for a, b in zip(*words, strict=True) if a != b]
            assert {a, b} in ({"left", "right"}, {"up", "down"}, {"top", "bottom"})
        kinds.update(list(false))
    assert set(kinds) == {"direction", "order", "objects", "reversed"}
    assert kinds["order"] + kinds["reversed"] > 150


def test_what_an_object_passes_on_its_way_is_told():
    ball = Object("circle", "red", z=0.9, x=0.1, radius=0.1)
    still = Scene((ball, Object("house", "blue", z=0.2, x=0.5, radius=0.15)))
    scenes = tuple(replace(still, objects=(replace(ball, x=x), still.objects[1])) for x in (0.1, 0.3, 0.5, 0.7, 0.9))
    clip = Clip(scenes, (Event(0, "move", "right", 0.0, 1.0),))
    assert telling.sentences(clip, {0: "red circle"}) == ["The red circle moves right, passing behind the house."]
    assert clip.backwards.passed(clip.backwards.events[0]) == [("behind", 1)]
    short = Clip(scenes[:3], clip.events)  # it ends behind the house: that is no passing
    assert telling.sentences(short, {0: "red circle"}) == ["The red circle moves right."]


def test_frames_are_drawn_when_they_are_asked_for_and_the_background_once(monkeypatch):
    import importlib

    module = importlib.import_module("diptych.world.draw")
    calls = Counter()
    for name in ("_background", "_shape"):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, name=name, plain=plain: (calls.update([name]), plain(*args))[1])
    world = open_world("video=true,objects=5,motions=bounce")
    video = world.read(3, ["video", "text", "questions"])["video"]
    assert not calls
    assert len(video) == 8
    assert len(video[2:7:2]) == 3
    assert video.fps == 4
    video[1]
    assert calls == {"_background": 1, "_shape": 5}
    frames = list(video)
    assert calls["_background"] == 1
    assert calls["_shape"] <= 3 + 2 * 8  # what stands still is painted once
    monkeypatch.undo()
    for frame, scene in zip(frames, world.item(3).scenes, strict=True):
        assert frame.tobytes() == draw(scene, 64).image.tobytes()
    assert video[-1].tobytes() == frames[7].tobytes()
    assert video[2:7:2][1].tobytes() == frames[4].tobytes()
    with pytest.raises(IndexError):
        video[8]


def test_every_field_of_a_clip():
    world = open_world("video=true,train=50")
    assert world.has <= set(FIELDS)
    sample = world.read(np.int64(7), world.has)
    clip = world.item(7)
    assert sample.tracks.shape == (8, len(clip.middle.objects), 4)
    np.testing.assert_array_equal(sample.tracks[4], sample.boxes)
    assert sample.image.tobytes() == sample.video[4].tobytes()
    assert {name for name, on in zip(world.classes, sample.labels, strict=True) if on} == set(
        map(telling.verb, clip.events)
    )
    assert len(world.classes) == len(set(world.classes)) == 18
    assert {question["type"] for question in sample.questions} <= {
        "exist", "count", "colour", "compare", "order", "direction"
    }  # fmt: skip
    assert json.loads(json.dumps(sample.scene)) == sample.scene
    one = open_world("video=true,events=1,train=50").read(3, ["category", "label", "text"])
    assert one.text.endswith(one.category)
    assert not one.text.startswith("first")
    assert "category" not in world.has


def test_clips_are_the_same_in_any_order_and_process():
    world, again = (open_world("video=true") for _ in range(2))
    for index in (9, 2, 9):
        world.read(index, ["video"])["video"][3]
    copy = pickle.loads(pickle.dumps(world))
    for fields in (sorted(world.has - {"video", "image", "masks", "boxes", "tracks", "labels"}), ["text"]):
        assert dict(world.read(5, fields)) == dict(copy.read(5, fields)) == dict(again.read(5, fields))
    assert pickle.loads(pickle.dumps(again.read(5, ["video"])))["video"][6] == world.read(5, ["video"])["video"][6]
    assert open_world("video=true", "val").item(0) != world.item(0)
    assert (np.sort(open_world("video=true,hard=4,train=8").order(0, 1, True).reshape(-1, 2) % 2) == [0, 1]).all()


def test_held_out_pairs_move_in_composition_and_nowhere_else():
    for split, unseen in (("composition", True), ("val", False)):
        world = open_world("video=true", split)
        for index in range(30):
            clip = world.item(index)
            things = [clip.middle.objects[event.object] for event in clip.events]
            assert all(((t.category, t.colour) in world.words.held_out) == unseen for t in things)


def test_clips_of_cut_outs():
    rng = np.random.default_rng(0)
    pixels = rng.integers(100, 256, (12, 12, 4), dtype=np.uint8)
    world = Clips(knobs=Knobs(video=True), sprites=[
        Sprite(f"thing {i}", pixels) for i in range(8)
    ])  # fmt: skip
    for index in range(10):
        sample = world.read(index, ["video", "text", "tracks"])
        assert len({frame.tobytes() for frame in sample.video}) > 2
        assert sample.text.count("thing") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frames=7", "2 events need at least 8 frames, not 7"),
        ("events=9,frames=99", "9 events need as many objects"),
        ("motions=jump", "motion"),
        ("pairs=true", "clips, pairs, clouds or texts"),
        ("questions=relation", "relation, cell, place, presence, company are asked of pictures"),
    ],
)
def test_knobs_of_clips(text, message):
    with pytest.raises(ValueError, match=message):
        open_world(f"video=true,{text}")


# --- what is over in two or three frames ------------------------------------------------------------------------------


@pytest.mark.parametrize("motion", ["flash", "hop", "dash"])
def test_brief_events_are_over_in_two_or_three_frames(motion):
    world = open_world(f"video=true,frames=16,events=2,motions={motion}")
    lengths, places = Counter(), Counter()
    for index in range(60):
        clip = world.item(index)
        assert clip.backwards.backwards.scenes == clip.scenes
        for event in clip.events:
            thing = [made.objects[event.object] for made in clip.scenes]
            rest = [(one.x, one.y) == (thing[0].x, thing[0].y) for one in thing]
            busy = [
                frame for frame in range(16) if not (rest[frame] or (thing[frame] == thing[-1] and motion == "dash"))
            ]
            assert busy == list(range(busy[0], busy[-1] + 1))
            assert thing[0] == thing[-1] or motion == "dash"
            assert (thing[0].x == thing[0].y == -1) == (motion == "flash")
            lengths[len(busy)] += 1
            places[busy[0]] += 1
            assert telling.verb(event) == {"flash": "flashes"}.get(
                motion, f"{motion}{'e' * (motion == 'dash')}s {event.direction}"
            )
    assert set(lengths) == {2, 3}
    assert len(places) > 8


def test_what_dashes_is_fast_and_what_moves_is_slow():
    world = open_world("video=true,frames=16,motions=move+dash,questions=speed,each=9")
    given = Counter()
    for index in range(100):
        clip, asked = world.item(index), world.read(index, ["questions"])["questions"]
        named = {name: i for i, name in telling.singled(clip.middle).items()}
        for question in asked:
            found = re.fullmatch(r"Does the (.+) move fast or slowly\?", question["question"])
            frames = len(changes(clip, named[found[1]]))
            assert question["answers"] == ["fast" if frames <= 4 else "slowly"]
            assert not 4 < frames < 6
            given[question["answers"][0]] += 1
    assert 0.4 < given["fast"] / given.total() < 0.6
    assert set(world.answers) == {"fast", "slowly"}


def test_a_direction_that_few_frames_show_is_asked_for():
    world = open_world("video=true,frames=16,events=1,motions=hop,questions=direction")
    for index in range(20):
        (question,) = world.read(index, ["questions"])["questions"]
        assert question["answers"] == [world.item(index).events[0].direction]
