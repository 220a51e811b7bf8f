from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from loader_helpers import Numbers, numbers, views

from diptych.batch import MissingField, Sample
from diptych.data.dataset import Dataset, Subset
from diptych.data.decode import BrokenSample
from diptych.data.loader import Loader
from diptych.data.mixture import Mixture
from diptych.recipe import Stage
from diptych.training.loop import fields_of


def part_of(mixture, draws):
    return np.searchsorted(mixture.offsets, draws, "right") - 1


def stream(mixture, epochs, shuffle=True, seed=0):
    return np.concatenate([mixture.order(epoch, seed, shuffle) for epoch in range(epochs)])


def test_two_equal_parts_take_turns():
    mixture = Mixture([(Numbers(3), 1.0), (Numbers(3), 1.0)])
    parts = part_of(mixture, stream(mixture, 2))
    assert sorted(parts[:2]) == [0, 1]
    assert np.array_equal(parts, np.tile(parts[:2], 6))


def test_two_to_one():
    mixture = Mixture([(Numbers(4), 2.0), (Numbers(2), 1.0)])
    parts = part_of(mixture, stream(mixture, 3))
    assert all(sorted(triple) == [0, 0, 1] for triple in parts.reshape(-1, 3).tolist())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=12))
def test_every_prefix_has_the_right_shares(weights):
    mixture = Mixture([(Numbers(40, name=str(i)), weight) for i, weight in enumerate(weights)])
    parts = part_of(mixture, stream(mixture, 3, shuffle=False))
    drawn = np.cumsum(parts[:, None] == np.arange(len(weights)), axis=0)
    expected = np.arange(1, len(parts) + 1)[:, None] * np.array(mixture.weights)
    assert np.abs(drawn - expected).max() <= 2


def test_shares_stay_right_far_into_a_run():
    weights = (0.7, 0.2, 0.1)
    mixture = Mixture([(Numbers(1000, name=str(i)), weight) for i, weight in enumerate(weights)])
    epoch = 10**7  # 3 * 10^10 draws
    for which, places, turns in mixture._turns(epoch * len(mixture), len(mixture)):
        assert abs(turns[0] - weights[which] * (epoch * len(mixture) + places[0])) <= 2
        assert np.array_equal(np.diff(turns), np.ones(len(turns) - 1))


def test_each_part_goes_through_its_own_epochs_reshuffled():
    mixture = Mixture([(Numbers(10, name="a"), 3.0), (Numbers(14, name="b"), 1.0)])
    draws = stream(mixture, 8)
    for which, size in ((0, 10), (1, 14)):
        own = draws[part_of(mixture, draws) == which] - mixture.offsets[which]
        passes = own[: len(own) // size * size].reshape(-1, size)
        assert len(passes) >= 3
        assert all(sorted(one) == list(range(size)) for one in passes.tolist())
        assert len({tuple(one) for one in passes.tolist()}) == len(passes)


def test_parts_of_one_size_are_shuffled_differently():
    mixture = Mixture([(Numbers(30, name="a"), 1.0), (Numbers(30, name="b"), 1.0)])
    draws = mixture.order(0, 0, True)
    a, b = (draws[part_of(mixture, draws) == which] - 30 * which for which in (0, 1))
    assert not np.array_equal(a, b)


def test_without_shuffling_parts_come_in_their_own_order():
    mixture = Mixture([(Numbers(4, name="a"), 1.0), (Numbers(4, name="b"), 1.0)])
    draws = mixture.order(0, 0, False)
    assert sorted(draws) == list(range(8))
    assert np.array_equal(draws[draws < 4], np.arange(4))


def test_draws_depend_on_the_seed_and_repeat():
    mixture = Mixture([(Numbers(30), 1.0), (Numbers(20), 2.0)], names=("x", "y"))
    assert np.array_equal(mixture.order(3, 5, True), mixture.order(3, 5, True))
    assert not np.array_equal(mixture.order(3, 5, True), mixture.order(3, 6, True))


def test_samples_keep_their_part_in_their_key():
    mixture = Mixture([(Numbers(2, name="a"), 1.0), (Numbers(3, broken=[1], name="b"), 1.0)])
    assert isinstance(mixture, Dataset)
    assert (len(mixture), mixture.name, mixture.split) == (5, "a + b", "train")
    assert [mixture.key(i) for i in range(5)] == ["a/a_0", "a/a_1", "b/b_0", "b/b_1", "b/b_2"]
    assert mixture.read(4, ("number",)).key == "b/b_2"
    assert mixture.read(4, ("number",)).number == 2
    with pytest.raises(BrokenSample) as raised:
        mixture.read(3, ("number",))
    assert raised.value.key == "b/b_1"


def test_labels_count_the_united_classes():
    mixture = Mixture([(Numbers(4, classes=("dog", "ant")), 1.0), (Numbers(4, classes=("cat", "dog"), name="b"), 1.0)])
    assert mixture.classes == ("ant", "cat", "dog")
    names = [mixture.classes[mixture.read(i, ("label",)).label] for i in range(8)]
    assert names == ["dog", "ant", "dog", "ant", "cat", "dog", "cat", "dog"]
    alike = Mixture([(Numbers(4, classes=("z", "a")), 1.0), (Numbers(4, classes=("z", "a"), name="b"), 1.0)])
    assert alike.classes == ("z", "a")
    assert alike.read(5, ("label",)).label == 1


def test_it_has_what_all_parts_have():
    rich, poor = Numbers(2), Numbers(2, name="poor")
    rich.has = frozenset({"number", "label", "image"})
    assert Mixture([(rich, 1.0), (poor, 1.0)]).has == {"number", "label"}


def test_pictures_are_clips_of_one_frame_beside_videos():
    class Shown(Numbers):
        def __init__(self, name, field):
            super().__init__(3, name=name)
            self.has = frozenset({field, "text"})
            self.field = field

        def read(self, index, fields):
            assert set(fields) <= self.has
            return Sample(self.key(index), {name: [index, index] if name == "video" else index for name in fields})

    both = Mixture([(Shown("a", "image"), 1.0), (Shown("b", "video"), 1.0)])
    assert both.has == {"video", "text"}
    assert both.read(1, ("video", "text"))["video"] == [1]
    assert both.read(4, ("video",))["video"] == [1, 1]
    assert Mixture([(Shown("a", "image"), 1.0)]).has == {"image", "text"}


def test_parts_are_found_by_name():
    first, second = Numbers(2), Numbers(3)
    mixture = Mixture([(first, 1.0), (second, 1.0)])
    assert mixture.names == ("numbers", "numbers2")
    assert mixture.part("numbers2") is second
    with pytest.raises(KeyError, match="no part 'x'; it has numbers, numbers2"):
        mixture.part("x")


@pytest.mark.parametrize(
    ("parts", "names", "reason"),
    [
        ([], None, "at least one"),
        ([(Numbers(2), 0.0)], None, "must be above 0"),
        ([(Numbers(2), float("nan"))], None, "must be above 0"),
        ([(Numbers(2), float("inf"))], None, "must be above 0"),
        ([(Numbers(0), 1.0)], None, "has no samples"),
        ([(Numbers(2), 1.0), (Numbers(2), 1.0)], ("a", "a"), "different names"),
        ([(Numbers(2), 1.0)], ("a", "b"), "different names"),
    ],
)
def test_impossible_mixtures_are_refused(parts, names, reason):
    with pytest.raises(ValueError, match=reason):
        Mixture(parts, names)


def test_mixtures_nest_and_subsets_mix():
    inner = Mixture([(Numbers(4, name="a"), 1.0), (Numbers(4, name="b"), 3.0)])
    outer = Mixture([(inner, 1.0), (Subset(Numbers(8, name="c"), [1, 3, 5]), 1.0)], names=("in", "c"))
    assert outer.key(5) == "in/b/b_1"
    assert outer.key(9) == "c/c_3"
    assert len(stream(outer, 2)) == 2 * 11


def test_a_loader_goes_on_anywhere_in_a_mixture():
    def loader():
        parts = [(Numbers(13, name="a"), 1.0), (Numbers(7, name="b"), 2.5), (Numbers(3, name="c"), 0.1)]
        return Loader(Mixture(parts), views, ("number",), 5, 1)

    whole = numbers(loader().batches(0, 300))
    for start in (5, 20, 25, 115, 295):
        assert numbers(loader().batches(start, 300)) == whole[start // 5 :]


# --- parts with different fields --------------------------------------------------------------------------------------


class Told(Numbers):
    """Samples with two fields, and no others."""

    def __init__(self, size, name, *fields):
        super().__init__(size, name=name)
        self.has = frozenset(fields)

    def read(self, index, fields):
        assert set(fields) <= self.has
        return Sample(self.key(index), {name: f"{name} {index}" for name in fields})


def stage_fields(data, needs, uses=()):
    method = SimpleNamespace(card=SimpleNamespace(id="x", needs=("image",)))
    return fields_of(method, Stage(needs=needs, uses=uses), data)


def captions_and_questions():
    parts = [Told(2, "captions", "image", "texts"), Told(3, "asked", "image", "questions", "texts")]
    return Mixture([(part, 1.0) for part in [*parts, Told(2, "words", "texts")]])


def test_alternatives_are_read_of_each_part_as_it_has_them():
    mixture = captions_and_questions()
    fields = stage_fields(mixture, ("texts|questions",), ("image|video",))
    assert fields == ("texts", "questions", "image")
    read = [mixture.read(index, fields) for index in (0, 2, 5)]
    assert [set(sample) for sample in read] == [{"texts", "image"}, {"texts", "questions", "image"}, {"texts"}]
    assert [sample.lacks for sample in read] == [{"questions"}, set(), {"questions", "image"}]
    assert stage_fields(mixture, ("texts",), ("image",)) == ("texts",)
    assert stage_fields(mixture.part("asked"), ("texts|questions", "image")) == ("texts", "questions", "image")


def test_every_part_has_one_of_the_alternatives():
    with pytest.raises(MissingField, match=r"x in stage 'train' needs questions or video, which captions \(train\)"):
        stage_fields(captions_and_questions(), ("questions|video",))
    with pytest.raises(MissingField, match="needs image, which words"):
        stage_fields(captions_and_questions(), ("image",))


def test_what_no_part_has_is_never_read():
    with pytest.raises(AssertionError):
        captions_and_questions().read(0, ("depth",))
