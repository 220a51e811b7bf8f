"""Which samples the failure browser chooses."""

import pytest

from diptych.app.disagreement import Case, cases, most, read
from diptych.evaluation.measures import write_samples


def table(values, ranks=None, **more):
    found = {"key": ["a", "b", "c", "d"][: len(values)], "top1": values, **more}
    return found if ranks is None else {**found, "top1_median_rank": ranks}


def keys(found):
    return [case.key for case in found]


def test_the_largest_mean_difference_over_seeds_comes_first():
    first = [table([0, 1, 0, 0]), table([0, 1, 1, 0])]  # means 0, 1, 0.5, 0
    other = [table([0, 0, 1, 1]), table([1, 0, 1, 1])]  # means 0.5, 0, 1, 1
    found = cases([first, other], "top1")
    assert [case.gain(1) for case in found] == [0.5, -1.0, 0.5, 1.0]
    better, worse = most(found, 1)
    assert keys(better)[0] == "d"
    assert set(keys(better)) == {"a", "c", "d"}
    assert keys(worse) == ["b"]
    assert found[0].values == ((0, 0), (0, 1))


def test_equal_differences_are_ordered_by_how_far_the_ranks_lie_apart():
    first = [table([0, 0, 0], [7, 90, 8])]
    other = [table([1, 1, 1], [1, 1, 1])]
    found = cases([first, other], "top1")
    assert keys(most(found, 1)[0]) == ["b", "c", "a"]
    assert found[1].details == ((90,), (1,))
    assert found[1].ranks_apart(1) == 89


def test_no_more_than_asked_for_and_nothing_without_a_difference():
    found = cases([[table([0, 0, 0, 1])], [table([1, 1, 1, 1])]], "top1")
    better, worse = most(found, 1, at_most=2)
    assert len(better) == 2
    assert worse == []


def test_ties_fall_by_lot_but_the_same_way_every_time():
    names = [f"sample {number:03d}" for number in range(200)]
    tables = [[{"key": names, "top1": [value] * 200}] for value in (0, 1)]
    chosen = keys(most(cases(tables, "top1"), 1)[0])
    assert chosen == keys(most(cases(tables, "top1"), 1)[0])
    assert chosen != names[:12]


def test_only_rows_that_every_run_was_judged_on_and_that_have_a_value():
    first = [table([0, None, 0, float("nan")]), {"key": ["a", "c"], "top1": [0, 0]}]
    other = [table([1, 1, 1, 1]), table([1, 1, 1, 1])]
    assert keys(cases([first, other], "top1")) == ["a", "c"]


def test_rows_of_one_sample_are_told_apart_by_text_and_by_their_number():
    first = {"key": ["a", "a", "a", "a"], "text": ["dog", "cat", "dog", None], "top1": [0, 0, 1, 1]}
    other = {"key": ["a", "a", "a", "a"], "text": ["cat", "dog", "dog", None], "top1": [1, 0, 0, 0]}
    found = {(case.text, case.number): case.gain(1) for case in cases([[first], [other]], "top1")}
    assert found == {("dog", 0): 0, ("cat", 0): 1, ("dog", 1): -1, ("", 0): -1}


def test_a_sample_is_shown_once_by_the_largest_of_its_differences():
    texts = {"key": ["a", "a", "b"], "text": ["cat", "dog", "owl"]}
    found = cases([[{**texts, "top1": [0, 0, 0]}], [{**texts, "top1": [0.5, 1, 0.5]}]], "top1")
    assert [(case.key, case.text) for case in most(found, 1)[0]] == [("a", "dog"), ("b", "owl")]


def test_guesses_are_told_where_the_tables_have_them():
    first, other = table([0, 1], predicted=["cat", "dog"]), table([1, 1], predicted=["dog", "dog"])
    found = cases([[first], [other]], "top1")
    assert found[0].details == (("cat",), ("dog",))
    assert found[0].ranks_apart(1) == 0
    assert cases([[first], [table([1, 1])]], "top1")[0].details == ()


@pytest.mark.parametrize("tables", [[[{}], [{}]], [[], []], [[table([0])], [{}]]])
def test_missing_tables_leave_nothing_to_choose_from(tables):
    assert cases(tables, "top1") == []
    assert most([], 1) == ([], [])


def test_tables_are_read_as_they_were_written(tmp_path):
    write_samples({"key": ["a", "b"], "top1": [1.0, float("nan")]}, tmp_path / "samples" / "knn.parquet")
    assert read(tmp_path, "knn") == {"key": ["a", "b"], "top1": [1.0, None]}
    assert read(tmp_path, "zero_shot") == {}


def test_a_case_compares_means():
    assert Case("a", "", 0, ((0.0, 1.0), (1.0, 1.0))).gain(1) == 0.5
