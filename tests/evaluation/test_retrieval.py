from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_fakes import MemoryData, TableMethod, TokenMethod
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.batch import Features
from diptych.evaluation.contrasts import foils, hard_gallery
from diptych.evaluation.embed import Bench, CannotEvaluate, judging, tile_side
from diptych.evaluation.retrieval import TIE, caption_pairs, rank_of_best_positive, retrieval


def features(pooled: torch.Tensor, tokens: int = 0) -> Features:
    return Features(torch.zeros(len(pooled), tokens, pooled.shape[1]), pooled, torch.ones(len(pooled), tokens).bool())


def cosine(image: Features, text: Features) -> tuple[torch.Tensor, torch.Tensor]:
    scores = image.pooled @ text.pooled.T
    return scores, scores


def scored(to_text, to_image=None):
    """A similarity that reads two given matrices; features are one-hot, so that they name their rows."""
    first = torch.as_tensor(to_text, dtype=torch.float32)
    second = first if to_image is None else torch.as_tensor(to_image, dtype=torch.float32)

    def similarity(image: Features, text: Features):
        rows, columns = image.pooled.argmax(1), text.pooled.argmax(1)
        return first[rows][:, columns], second[rows][:, columns]

    return similarity, features(torch.eye(first.shape[0])), features(torch.eye(first.shape[1]))


def ranks(to_text, pairs, to_image=None, **how):
    similarity, image, text = scored(to_text, to_image)
    by_image, by_text = rank_of_best_positive(similarity, image, text, np.array(pairs), **how)
    return by_image.tolist(), by_text.tolist()


DIAGONAL = [(0, 0), (1, 1), (2, 2)]


def test_perfect_scores_rank_first() -> None:
    assert ranks(np.eye(3), DIAGONAL) == ([1, 1, 1], [1, 1, 1])


def test_ranks_by_hand() -> None:
    scores = [[0.5, 0.9, 0.1], [0.2, 0.3, 0.7], [0.8, 0.4, 0.6]]
    # rows: .9 beats .5; .7 beats .3; .8 beats .6.  columns: .8 beats .5; .9, .4 beat .3; .7 beats .6
    assert ranks(scores, DIAGONAL) == ([2, 2, 2], [2, 3, 2])


def test_each_direction_has_its_own_matrix() -> None:
    worst = 1 - np.eye(3)
    assert ranks(np.eye(3), DIAGONAL, to_image=worst) == ([1, 1, 1], [3, 3, 3])
    assert ranks(worst, DIAGONAL, to_image=np.eye(3)) == ([3, 3, 3], [1, 1, 1])


def test_the_best_of_several_right_answers_counts_and_the_others_are_not_in_its_way() -> None:
    scores = [[0.9, 0.8, 0.7, 0.6]]
    assert ranks(scores, [(0, 0), (0, 1)])[0] == [1]
    assert ranks(scores, [(0, 1), (0, 2)])[0] == [2]  # only 0.9 is wrong and above 0.8
    assert ranks(scores, [(0, 2), (0, 3)])[0] == [3]


def test_ties_lose() -> None:
    assert ranks(np.ones((3, 3)), DIAGONAL) == ([3, 3, 3], [3, 3, 3])
    nearly = np.ones((3, 3)) - 1e-8 * np.eye(3)
    assert ranks(nearly, DIAGONAL) == ([3, 3, 3], [3, 3, 3])


def test_what_is_not_a_number_ranks_last() -> None:
    assert ranks(np.full((3, 3), np.nan), DIAGONAL) == ([3, 3, 3], [3, 3, 3])
    scores = np.eye(3)
    scores[0, 2] = np.nan  # one wrong answer of picture 0, and of text 2, cannot be compared
    assert ranks(scores, DIAGONAL) == ([2, 1, 1], [1, 1, 2])


def test_without_a_right_answer_there_is_no_rank() -> None:
    assert ranks(np.eye(3), [(0, 0), (2, 2)]) == ([1, 0, 1], [1, 0, 1])


@pytest.mark.parametrize("side", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_tiled_equals_plain(side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    to_text, to_image = rng.integers(0, 6, (2, 23, 31)).astype(np.float32)  # few values: many ties
    pairs = np.unique(np.stack([rng.integers(0, 23, 40), rng.integers(0, 31, 40)], axis=1), axis=0)
    right = np.zeros((23, 31), dtype=bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    expected = []
    for scores, mask in ((to_text, right), (to_image.T, right.T)):
        best = np.where(mask, scores, -np.inf).max(1, keepdims=True)
        expected.append(np.where(mask.any(1), ((scores >= best) & ~mask).sum(1) + 1, 0).tolist())
    assert list(ranks(to_text, rng.permutation(pairs), to_image, side=side)) == expected


def bench_of(method, data, *notes: str) -> Bench:
    return Bench(method, data, ("text", *notes))


def values(result) -> dict[str, float]:
    return {measure.metric: measure.estimate.value for measure in result.measures}


def chances(result) -> dict[str, float]:
    return {measure.metric: measure.chance for measure in result.measures}


def measured(task, method, data, *notes: str):
    with judging(method, "cpu"):
        return task(bench_of(method, data, *notes))


def test_retrieval_of_a_perfect_method() -> None:
    n = 24
    data = MemoryData([{"text": f"thing {i}"} for i in range(n)])
    method = TableMethod(torch.eye(n), {f"thing {i}": torch.eye(n)[i] for i in range(n)})
    result = measured(retrieval, method, data)
    for direction in ("image_to_text", "text_to_image"):
        assert [values(result)[f"{direction}_r{k}"] for k in (1, 5, 10)] == [1, 1, 1]
        assert values(result)[f"{direction}_median_rank"] == 1
        assert [chances(result)[f"{direction}_r{k}"] for k in (1, 5, 10)] == pytest.approx([1 / n, 5 / n, 10 / n])
        assert chances(result)[f"{direction}_median_rank"] == n / 2


def test_retrieval_of_a_method_that_guesses_is_at_chance() -> None:
    rng = torch.Generator().manual_seed(2)
    n = 300
    data = MemoryData([{"texts": [f"{i} a", f"{i} b"], "text": f"{i} a"} for i in range(n)])
    table = {f"{i} {letter}": torch.randn(16, generator=rng) for i in range(n) for letter in "ab"}
    result = measured(retrieval, TableMethod(torch.randn(n, 16, generator=rng), table), data)
    for measure in result.measures:
        assert measure.estimate.low <= measure.chance <= measure.estimate.high, measure
        assert measure.estimate.n == (n if measure.metric.startswith("image") else 2 * n)


def test_equal_captions_are_right_for_all_their_pictures() -> None:
    captions = [["cat", "pet"], ["cat"], ["dog", "pet", "dog"], [" "]]
    data = MemoryData([{"texts": texts, "text": texts[0]} for texts in captions])
    east, north = [1.0, 0.0], [0.0, 1.0]
    method = TableMethod([north, east, north, north], {"cat": east, "dog": north, "pet": [1.0, 1.0]})
    texts, pairs = caption_pairs(bench_of(method.eval(), data))
    assert texts == ["cat", "pet", "dog"]
    assert pairs.tolist() == [[0, 0], [0, 1], [1, 0], [2, 2], [2, 1]]
    result = measured(retrieval, method, data)
    # picture 0 (north): dog before pet; 1 (east): cat first; 2 (north): dog first; 3 has no caption, but distracts
    assert [r for r in result.samples["image_to_text_median_rank"] if r is not None] == [2, 1, 1]
    # cat: picture 1 first. pet: 0 and 2 tie with 1 and 3. dog: 2 ties with 0 and 3
    assert [r for r in result.samples["text_to_image_median_rank"] if r is not None] == [1, 3, 3]
    assert [text for text in result.samples["text"] if text is not None] == texts


def test_columns_of_the_samples_are_what_the_figures_are_means_of() -> None:
    rng = torch.Generator().manual_seed(1)
    data = MemoryData([{"text": f"thing {i}"} for i in range(30)])
    method = TableMethod(
        torch.randn(30, 4, generator=rng), {f"thing {i}": torch.randn(4, generator=rng) for i in range(30)}
    )
    result = measured(retrieval, method, data)
    for name, value in values(result).items():
        column = [one for one in result.samples[name] if one is not None]
        assert value == pytest.approx(sorted(column)[14] if "median" in name else np.mean(column))


def test_late_interaction_uses_the_two_matrices_in_their_directions() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.9, 0.1]]])  # two pictures of two patches
    words = {"both": [[1.0, 0.0], [0.0, 1.0]], "east": [1.0, 0.0]}
    texts = {word: torch.tensor(row).reshape(-1, 2).mean(0) for word, row in words.items()}
    method = TokenMethod(tokens, texts)
    data = MemoryData([{"text": "both"}, {"text": "east"}])
    with judging(method, "cpu"):
        bench = bench_of(method, data)
        image, text = bench.images, bench.texts(["both", "east"])
        to_text, to_image = method.similarity(image, text)
        result = retrieval(bench)
    assert not torch.equal(to_text, to_image)
    assert image.tokens.shape[1] == 2  # they were kept, as the similarity reads them
    expected = [(to_text[0] >= to_text[0, 0]).sum(), (to_text[1] >= to_text[1, 1]).sum()]
    assert list(result.samples["image_to_text_median_rank"][:2]) == [int(rank) for rank in expected]
    expected = [(to_image[:, 0] >= to_image[0, 0]).sum(), (to_image[:, 1] >= to_image[1, 1]).sum()]
    assert list(result.samples["text_to_image_median_rank"][2:]) == [int(rank) for rank in expected]


@pytest.mark.parametrize("side", [None, 2])
def test_texts_of_all_lengths_are_ranked_in_their_own_order(side) -> None:
    """Tiles are formed by length; ranks come back in the order of the texts."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 9, (17,), generator=generator)
    mask = torch.arange(9)[None] < lengths[:, None]
    text = Features(torch.randn(17, 9, 4, generator=generator), torch.zeros(17, 4), mask)
    image = Features(torch.randn(11, 5, 4, generator=generator), torch.zeros(11, 4), torch.ones(11, 5).bool())

    def similarity(image: Features, text: Features):
        pairs = torch.einsum("ipd,jtd->ijpt", image.tokens, text.tokens).masked_fill(~text.mask[None, :, None], -9.0)
        words = (pairs.amax(2) * text.mask).sum(2) / text.mask.sum(1)
        return pairs.amax(3).mean(2), words

    pairs = np.array([(i % 11, i) for i in range(17)])
    to_text, to_image = (matrix.numpy() for matrix in similarity(image, text))
    by_image, by_text = rank_of_best_positive(similarity, image, text, pairs, side=side)
    assert list(by_text) == [int((to_image[:, t] >= to_image[i, t]).sum()) for i, t in pairs]
    right = np.zeros((11, 17), dtype=bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    best = np.where(right, to_text, -np.inf).max(1, keepdims=True)
    assert list(by_image) == (((to_text >= best) & ~right).sum(1) + 1).tolist()


class Scaled(TableMethod):
    """Its similarity is no inner product, and yet ranks as one does."""

    def similarity(self, image: Features, text: Features):
        scores = 0.5 * image.pooled @ text.pooled.T
        return scores, scores


@pytest.mark.parametrize("copies", [1, 4])
def test_products_rank_as_tiles_of_the_similarity_do(copies) -> None:
    """The fast way, which is found out, gives what the general way gives, copies of pictures and captions included."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(30, 16, generator=generator).repeat(copies, 1)
    words = [f"thing {i}" for i in range(45)]
    table = dict(zip(words, torch.randn(15, 16, generator=generator).repeat(3, 1), strict=True))
    captions = [words[i % 45 : i % 45 + 2] for i in range(30 * copies)]
    data = MemoryData([{"texts": texts, "text": texts[0]} for texts in captions])
    found = []
    for kind in (TableMethod, Scaled):
        method = kind(images, table)
        with judging(method, "cpu"):
            bench = bench_of(method, data)
            assert bench.multiplies == (kind is TableMethod)
            result = retrieval(bench)
        found.append({name: list(column) for name, column in result.samples.items()})
    assert found[0] == found[1]


def test_comparing_tokens_is_no_product() -> None:
    method = TokenMethod(torch.randn(3, 2, 4), {"a": torch.randn(4), "b": torch.randn(4)})
    with judging(method, "cpu"):
        assert not bench_of(method, MemoryData([{"text": "a"}, {"text": "b"}, {"text": "b"}])).multiplies


def test_tokens_are_not_kept_for_a_method_that_compares_pooled_vectors() -> None:
    method = TableMethod(torch.randn(3, 5, 4))
    with judging(method, "cpu"):
        bench = bench_of(method, MemoryData([{"text": "a"}] * 3))
        assert bench.images.tokens.shape == (3, 0, 4)
        assert bench.texts(["x", "y"]).tokens.shape == (2, 0, 4)
        assert bench.images.pooled.shape == (3, 4)


def test_one_caption_for_all_is_no_retrieval() -> None:
    method = TableMethod(torch.eye(3))
    with pytest.raises(CannotEvaluate, match="at least two different captions; memory has 1"):
        measured(retrieval, method, MemoryData([{"text": "a"}] * 3))


def test_tiles_grow_smaller_with_the_number_of_tokens() -> None:
    pooled = torch.zeros(10, 4)
    assert tile_side(features(pooled), features(pooled)) == 2048
    side = tile_side(features(pooled, tokens=49), features(pooled, tokens=77))
    assert side**2 * 49 * 77 <= 2**22 < (side + 1) ** 2 * 49 * 77


class Alive(TorchDispatchMode):
    """Counts the bytes of tensor storages that operations made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return out

    def note(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or address in self.seen:
            return
        self.seen.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.gone, address, size)

    def gone(self, address: int, size: int) -> None:
        self.seen.discard(address)
        self.now -= size


def test_twenty_thousand_against_twenty_thousand_in_little_memory() -> None:
    """The whole matrix would be 1.6 GB; the tiles that are alive at any time stay below 60 MB."""
    n, width = 20_000, 16
    generator = torch.Generator().manual_seed(2)
    image = F.normalize(torch.randn(n, width, generator=generator), dim=-1)
    text = F.normalize(image + 0.15 * torch.randn(n, width, generator=generator), dim=-1)
    pairs = np.stack([np.arange(n), np.arange(n)], axis=1)
    with Alive() as alive:
        by_image, by_text = rank_of_best_positive(cosine, features(image), features(text), pairs)
    assert 2048 * 2048 * 4 <= alive.peak < 60e6
    some = torch.arange(0, n, 1000)
    scores = image[some] @ text.T
    best = scores[torch.arange(len(some)), some, None]
    expected = ((scores >= best - TIE).sum(1)).numpy()
    assert np.abs(by_image[some.numpy()] - expected).max() <= 1  # rounding may part two that nearly tie
    assert np.mean(by_image == 1) > 0.3
    assert np.mean(by_text == 1) > 0.3


# -- galleries of look-alikes, and foils -----------------------------------------------------------------------------


def test_hard_gallery_ranks_within_the_group_only() -> None:
    # two groups of two; across groups everything is confused, within the second group as well
    east, north = [1.0, 0.0], [0.0, 1.0]
    samples = [{"text": text, "scene": {"group": group}} for text, group in (("a", 0), ("b", 0), ("c", 1), ("d", 1))]
    method = TableMethod([east, north, east, north], {"a": east, "b": north, "c": north, "d": east})
    result = measured(hard_gallery, method, MemoryData(samples), "scene")
    assert values(result) == {"image_to_text_r1": 0.5, "text_to_image_r1": 0.5}
    assert list(result.samples["image_to_text_r1"]) == [1, 1, 0, 0]
    assert chances(result) == {"image_to_text_r1": 0.5, "text_to_image_r1": 0.5}


def test_hard_gallery_with_a_shared_caption() -> None:
    """Three pictures, two of which carry one caption: each is right for it, and chance says so."""
    scenes = [{"text": text, "scene": {"group": "g"}} for text in ("a", "a", "b")]
    alone = [{"text": "c", "scene": {"group": "h"}}, {"text": "d", "scene": {}}]  # no group of two captions: left out
    method = TableMethod(
        [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    )
    result = measured(hard_gallery, method, MemoryData(scenes + alone), "scene")
    assert list(result.samples["image_to_text_r1"]) == [1, 0, 1]
    assert list(result.samples["text_to_image_r1"]) == [1, 1, 0]  # b: pictures 1 and 2 tie
    assert chances(result) == pytest.approx({"image_to_text_r1": 1 / 2, "text_to_image_r1": (2 + 2 + 1) / 9})


def test_hard_gallery_without_groups_says_so() -> None:
    data = MemoryData([{"text": "a", "scene": {}}, {"text": "b", "scene": {}}])
    with pytest.raises(CannotEvaluate, match="groups"):
        measured(hard_gallery, TableMethod(torch.eye(2)), data, "scene")


def test_foils_by_hand() -> None:
    table = {"a": [1.0, 0.0], "b": [0.9, 0.5], "c": [0.0, 1.0]}
    samples = [
        {"text": "a", "negatives": ["b", "c"]},  # right
        {"text": "b", "negatives": ["a"]},  # wrong
        {"text": "a", "negatives": ["a"]},  # a tie loses
        {"text": "a", "negatives": [""]},  # nothing to be told from: not counted
        {"text": "b", "negatives": ["a", "c"]},  # above one of two
    ]
    method = TableMethod([[1.0, 0.0]] * 5, table)
    result = measured(foils, method, MemoryData(samples), "negatives")
    assert result.samples["accuracy"] == (1, 0, 0, 0)
    assert result.samples["pairwise"] == (1, 0, 0, 0.5)
    assert values(result) == {"accuracy": 1 / 4, "pairwise": 1.5 / 4}
    assert chances(result) == {"accuracy": pytest.approx((1 / 3 + 1 / 2 + 1 / 2 + 1 / 3) / 4), "pairwise": 0.5}


def test_foils_of_a_broken_method_are_not_right() -> None:
    data = MemoryData([{"text": "a", "negatives": ["b"]}])
    result = measured(foils, TableMethod([[math.nan, math.nan]]), data, "negatives")
    assert values(result) == {"accuracy": 0, "pairwise": 0}
