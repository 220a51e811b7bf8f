"""Parts of a data set by class."""

import numpy as np
import pytest
from loader_helpers import Numbers

from diptych.data.classes import OfClasses, few_shot, half, halves, labels

FIVE = ("a", "b", "c", "d", "e")


def test_halves_of_classes():
    assert halves(FIVE) == {"base": ("a", "b", "c"), "new": ("d", "e")}
    assert halves(FIVE[:4]) == {"base": ("a", "b"), "new": ("c", "d")}


def test_a_half_counts_its_own_classes():
    data = Numbers(23, classes=FIVE)
    base, new = half(data, "base"), half(data, "new")
    assert (base.classes, new.classes) == (("a", "b", "c"), ("d", "e"))
    assert (base.name, new.name) == ("numbers base", "numbers new")
    assert sorted([*base.indices, *new.indices]) == list(range(23))
    read = [new.read(index, ("number", "label")) for index in range(len(new))]
    assert all(sample.label == sample.number % 5 - 3 for sample in read)


def test_classes_in_another_order():
    part = OfClasses(Numbers(10, classes=FIVE), ("e", "a"), "two")
    assert [part.read(index, ("label",)).label for index in range(len(part))] == [1, 0, 1, 0]


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_so_many_of_each_class(shots):
    data = Numbers(23, classes=FIVE)  # 5 of a, b and c, 4 of d and e
    few = few_shot(data, shots, draw=3)
    assert np.bincount(labels(few), minlength=5).tolist() == [min(shots, have) for have in (5, 5, 5, 4, 4)]
    assert len(set(few.indices.tolist())) == len(few)
    assert few.indices.tolist() == few_shot(data, shots, draw=3).indices.tolist()


def test_fewer_are_among_more_and_draws_differ():
    data = Numbers(500, classes=FIVE)
    one, four, other = (set(few_shot(data, shots, draw).indices.tolist()) for shots, draw in ((1, 1), (4, 1), (4, 2)))
    assert one < four
    assert len(four & other) < 10


def test_broken_samples_are_left_out():
    data = Numbers(20, broken={0, 7}, classes=FIVE)
    assert (labels(data) == -1).nonzero()[0].tolist() == [0, 7]
    assert not {0, 7} & set(few_shot(data, 16).indices.tolist())


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="draw at least one"):
        few_shot(Numbers(5, classes=FIVE), 0)
    with pytest.raises(ValueError, match="has no classes: give each sample a `category`"):
        few_shot(Numbers(5, classes=("a",)), 1)
    with pytest.raises(ValueError, match="has no class 'z'"):
        OfClasses(Numbers(5, classes=FIVE), ("z",), "odd")
    with pytest.raises(ValueError, match="no sample of the classes of 'new'"):
        half(Numbers(3, classes=FIVE), "new")
