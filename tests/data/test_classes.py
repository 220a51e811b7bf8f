"""Parts of a data set by class."""

import numpy as np
import pytest
from loader_helpers import Numbers

from diptych.data.classes import (
    OfClasses,
    few_shot,
    groups_by_name,
    groups_of_equal_size,
    half,
    halves,
    labels,
    tasks,
)

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


class Named(Numbers):
    """Its classes occur as often as `counts` says, in this order."""

    def __init__(self, counts):
        super().__init__(sum(counts.values()), classes=tuple(counts))
        self._of = np.repeat(np.arange(len(counts)), list(counts.values()))

    def read(self, index, fields):
        sample = super().read(index, fields)
        return type(sample)(sample.key, {**sample, "label": int(self._of[index])})


def test_classes_are_cut_where_the_samples_come_nearest_to_equal_shares():
    data = Named({"a": 3, "b": 1, "c": 4, "d": 2, "e": 2})  # 12: cuts at 4 and 8
    groups = groups_of_equal_size(data, 3)
    assert groups == {"task1": ("a", "b"), "task2": ("c",), "task3": ("d", "e")}
    mixed = tasks(data, groups)
    assert (mixed.names, [len(part) for part in mixed.parts]) == (
        ("numbers task1", "numbers task2", "numbers task3"),
        [4, 4, 4],
    )
    assert mixed.classes == ("a", "b", "c", "d", "e")
    assert [mixed.read(index, ("label",)).label for index in (0, 3, 4, 11)] == [0, 1, 2, 4]  # numbered as in the whole


def test_groups_by_name_keep_the_order_of_the_classes():
    data = Named({"z/b": 2, "a": 1, "z/a": 1})
    assert groups_by_name(data) == {"z": ("z/b", "z/a"), "a": ("a",)}
    assert tasks(data, groups_by_name(data)).weights == (0.75, 0.25)


@pytest.mark.parametrize(
    ("counts", "count"), [({"a": 9, "b": 1}, 3), ({"a": 1, "b": 1}, 1), ({"a": 98, "b": 1, "c": 1}, 3)]
)
def test_tasks_that_cannot_be_are_said(counts, count):
    with pytest.raises(ValueError, match=f"cannot be cut into {count} tasks"):
        groups_of_equal_size(Named(counts), count)


def test_tasks_without_groups_or_classes_or_samples_are_said():
    with pytest.raises(ValueError, match="no names such as GROUP/CLASS"):
        groups_by_name(Named({"a/b": 1, "a/c": 1}))
    with pytest.raises(ValueError, match="has no classes: give each sample a `category`"):
        groups_of_equal_size(Numbers(5, classes=("a",)), 2)
    with pytest.raises(ValueError, match="has no sample of the classes of 'second'"):
        tasks(Named({"a": 2, "b": 1, "c": 0}), {"first": ("a", "b"), "second": ("c",)})
