"""Search by inner product, held against the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diptych import neighbours
from diptych.neighbours import pair_scores, pairs_above, ranks, top_k

TIE = 1e-5


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def whole_matrix_ranks(queries, keys, pairs, tie=TIE):
    """Ranks from all products in double precision, a row of the definition a line."""
    right = np.zeros((len(queries), len(keys)), dtype=bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    scores = (queries.double() @ keys.double().T).numpy()
    found = []
    for matrix, mask in ((scores, right), (scores.T, right.T)):
        best = np.where(mask, matrix, -np.inf).max(1, keepdims=True)
        ahead = ~(matrix < best - tie) & ~mask
        found.append(np.where(mask.any(1), ahead.sum(1) + 1, 0))
    return found


def same(found, expected) -> bool:
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def several_right(queries: int, keys: int, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.integers(0, queries, count), rng.integers(0, keys, count)], axis=1)
    return rng.permutation(np.unique(drawn, axis=0))


def test_ranks_by_hand() -> None:
    east, north = [1.0, 0.0], [0.0, 1.0]
    queries, keys = torch.tensor([east, north]), torch.tensor([north, east, [0.6, 0.8]])
    # query 0 scores 0, 1, 0.6 and query 1 scores 1, 0, 0.8; key 2 belongs to both, key 0 to nobody
    by_query, by_key = ranks(queries, keys, np.array([[0, 2], [1, 2], [0, 1]]), tie=TIE)
    assert by_query.tolist() == [1, 2]
    assert by_key.tolist() == [0, 1, 1]


@pytest.mark.parametrize("side", [1, 3, 64, 1024])
@pytest.mark.parametrize("width", [1, 8, 300])
def test_ranks_equal_those_of_the_whole_matrix_whatever_the_tile(side, width) -> None:
    queries, keys = unit(50, width, 0), unit(70, width, 1)
    pairs = several_right(50, 70, 90, 2)
    assert same(ranks(queries, keys, pairs, tie=TIE, side=side), whole_matrix_ranks(queries, keys, pairs))


def test_ranks_with_copies_and_almost_copies() -> None:
    """Each vector several times: exact copies tie and lose, and so do those that rounding tells apart."""
    some = unit(40, 512, 3)
    queries = some.repeat(5, 1)
    almost = F.normalize(some + 3e-8 * torch.randn(40, 512, generator=torch.Generator().manual_seed(4)), dim=-1)
    keys = torch.cat([some, some, almost, unit(80, 512, 5)])
    pairs = np.stack([np.arange(200), np.arange(200)], axis=1)
    found = ranks(queries, keys, pairs, tie=TIE, side=48)
    assert same(found, whole_matrix_ranks(queries, keys, pairs))
    assert set(found[0][:120].tolist()) == {3}  # its own copy, after the two others


def test_scores_at_the_very_limit_are_told_in_double_precision() -> None:
    """Keys that score best - tie, give or take less than single precision tells: it would get half of them wrong."""
    rng = torch.Generator().manual_seed(6)
    query = unit(1, 512, 7)
    across = torch.randn(4000, 512, generator=rng)
    across = F.normalize(across - (across @ query.T) * query, dim=-1)
    wanted = 0.5 - TIE + 1e-7 * torch.randn(4000, 1, generator=rng)
    keys = torch.cat([0.5 * query, wanted * query + (1 - wanted**2).sqrt() * across])
    pairs = np.array([[0, 0]])
    expected = whole_matrix_ranks(query, keys, pairs)
    single = (keys @ query[0] >= (keys[0] @ query[0]) - TIE).sum()
    assert 1000 < expected[0][0] < 3000
    assert int(single) != expected[0][0]
    for side in (17, 512, 1024):
        assert same(ranks(query, keys, pairs, tie=TIE, side=side), expected)


def test_scores_that_are_all_alike_or_not_a_number_rank_last() -> None:
    pairs = np.stack([np.arange(6)] * 2, axis=1)
    alike = torch.ones(6, 4) / 2
    assert [rank.tolist() for rank in ranks(alike, alike, pairs, tie=TIE, side=4)] == [[6] * 6] * 2
    broken = torch.eye(6)
    broken[2] = torch.nan
    by_query, by_key = ranks(broken, torch.eye(6), pairs, tie=TIE, side=4)
    assert by_query.tolist() == [1, 1, 6, 1, 1, 1]  # all that query 2 scores is unknown
    assert by_key.tolist() == [2, 2, 6, 2, 2, 2]  # and it may be before every right one


def test_ranks_do_not_depend_on_the_length_of_the_vectors() -> None:
    queries, keys, pairs = unit(60, 64, 8), unit(60, 64, 9), several_right(60, 60, 60, 10)
    expected = whole_matrix_ranks(queries, keys, pairs, tie=0.25)
    scaled = ranks(1024 * queries, 8 * keys, pairs, tie=0.25 * 8192, side=16)
    assert same(scaled, expected)


def test_bfloat16_is_taken_for_what_it_is() -> None:
    queries, keys, pairs = unit(30, 16, 11).bfloat16(), unit(30, 16, 12).bfloat16(), several_right(30, 30, 40, 13)
    assert same(ranks(queries, keys, pairs, tie=TIE), whole_matrix_ranks(queries, keys, pairs))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_work_and_find_the_same(threads) -> None:
    """In any mode of autograd, with fewer queries than threads too; afterwards as many threads as before."""
    queries, keys, pairs = unit(130, 64, 14), unit(90, 64, 15).requires_grad_(), several_right(130, 90, 150, 16)
    expected = whole_matrix_ranks(queries, keys.detach(), pairs)
    some = pairs[pairs[:, 0] < 3]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            assert same(ranks(queries, keys, pairs, tie=TIE, side=32), expected)
        assert same(ranks(queries, keys, pairs, tie=TIE, side=32), expected)
        assert same(ranks(queries[:3], keys, some, tie=TIE), whole_matrix_ranks(queries[:3], keys.detach(), some))
        assert torch.equal(top_k(queries, keys, 7)[1], (queries @ keys.T).topk(7).indices)
        with pytest.raises(RuntimeError, match="shapes"):
            top_k(queries, keys[:, 1:], 7)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


# -- nearest neighbours ------------------------------------------------------------------------------------------------


def whole_numbers(rows: int, width: int, seed: int) -> torch.Tensor:
    """Vectors whose products single precision computes exactly, many of them alike."""
    return torch.randint(-2, 3, (rows, width), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("k", [1, 4, 90])
@pytest.mark.parametrize("side", [1, 7, 33, 1024])
def test_top_k_equals_a_stable_sort_of_the_whole_matrix(k, side) -> None:
    queries, keys = whole_numbers(40, 6, 0), whole_numbers(90, 6, 1)
    scores, index = top_k(queries, keys, k, side=side)
    whole = queries @ keys.T
    order = whole.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert torch.equal(index, order)
    assert torch.equal(scores, whole.gather(1, order))


def test_top_k_of_more_than_there_are_gives_all() -> None:
    scores, index = top_k(torch.eye(2), torch.eye(2), 5, side=1)
    assert scores.tolist() == [[1, 0], [1, 0]]
    assert index.tolist() == [[0, 1], [1, 0]]


def test_top_k_of_equal_keys_are_the_first() -> None:
    scores, index = top_k(torch.ones(3, 4), torch.ones(500, 4), 3, side=64)
    assert index.tolist() == [[0, 1, 2]] * 3
    assert scores.tolist() == [[4, 4, 4]] * 3


# -- near pairs --------------------------------------------------------------------------------------------------------


def gathered(found) -> tuple[list[tuple[int, int]], dict[tuple[int, int], float]]:
    scores = {
        (int(i), int(j)): float(score) for pairs, values in found for (i, j), score in zip(pairs, values, strict=True)
    }
    return sorted(scores), scores


@pytest.mark.parametrize("side", [1, 10, 1024])
def test_pairs_above_equal_those_of_the_whole_matrix(side) -> None:
    vectors, others = unit(60, 5, 0), unit(45, 5, 1)
    whole = vectors.double() @ vectors.double().T
    expected = (whole.triu(1) >= 0.6).nonzero().tolist()
    found, scores = gathered(pairs_above(vectors, None, 0.6, side=side))
    assert found == [tuple(pair) for pair in expected]
    assert all(scores[pair] == pytest.approx(float(whole[pair]), abs=1e-12) for pair in found)
    across = vectors.double() @ others.double().T
    found, _ = gathered(pairs_above(vectors, others, 0.6, side=side))
    assert found == [tuple(pair) for pair in (across >= 0.6).nonzero().tolist()]


def test_pairs_at_the_very_threshold_are_told_in_double_precision() -> None:
    vectors = unit(300, 512, 2)
    vectors = F.normalize(vectors + 3 * vectors[:1], dim=-1)
    threshold = float(pair_scores(vectors, vectors, torch.tensor([[5, 9]])))  # one pair reaches it exactly
    for side in (7, 100, 1024):
        found, _ = gathered(pairs_above(vectors, None, threshold, side=side))
        assert (5, 9) in found
    above, _ = gathered(pairs_above(vectors, None, np.nextafter(threshold, 2), side=100))
    assert set(found) - set(above) == {(5, 9)}


def test_no_vectors_have_no_neighbours() -> None:
    assert list(pairs_above(torch.zeros(0, 4), None, 0.5)) == []
    assert top_k(torch.zeros(0, 4), torch.eye(4), 2)[1].shape == (0, 2)
    assert [len(rank) for rank in ranks(torch.zeros(0, 4), torch.eye(4), np.zeros((0, 2), np.int64), tie=TIE)] == [0, 4]


def test_the_bound_of_rounding_holds_with_room() -> None:
    """On vectors that are alike, whose partial sums are the largest: the error of products against the bound."""
    for width in (1, 4, 64, 512, 4096):
        a = unit(200, width, width).abs()
        error = ((a @ a.T).double() - a.double() @ a.double().T).abs().max()
        assert float(error) < neighbours._slack(a, a)
