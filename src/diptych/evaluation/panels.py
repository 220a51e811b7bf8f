"""Chooses what the pictures of an evaluation show: samples drawn at random with a fixed seed, none hand-picked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.card import Grounds
from diptych.data.dataset import Subset
from diptych.data.mixture import parts_of
from diptych.evaluation import pictures
from diptych.evaluation.embed import Bench
from diptych.evaluation.forgetting import matrix
from diptych.evaluation.line_chart import line_chart
from diptych.evaluation.measures import Result
from diptych.evaluation.pairs import Fused
from diptych.evaluation.pointing import Query, heat_maps, queries
from diptych.evaluation.retrieval import TwoTowers, Way, caption_pairs
from diptych.evaluation.zero_shot import confusion
from diptych.text import readable

_QUERIES, _SHOWN, _CAPTIONED = 6, 5, 20
_PICTURES, _WORDS = 4, 5
_CLASSES = 25
_ANSWERS = 4


def draw_retrieval(bench: Bench, result: Result, folder: Path) -> None:
    """Writes text_to_image.png and image_to_text.png, and words.png for methods that say where words are."""
    _draw_text_to_image(bench, TwoTowers(bench), folder / "text_to_image.png")
    _draw_image_to_text(bench, TwoTowers(bench), folder / "image_to_text.png")
    if isinstance(bench.method, Grounds):
        _draw_words(bench, folder / "words.png")


def draw_pair_retrieval(bench: Bench, result: Result, folder: Path) -> None:
    """Writes pair_text_to_image.png and pair_image_to_text.png."""
    _draw_text_to_image(bench, Fused(bench), folder / "pair_text_to_image.png")
    _draw_image_to_text(bench, Fused(bench), folder / "pair_image_to_text.png")


def _draw_text_to_image(bench: Bench, way: Way, path: Path) -> None:
    """Six captions, each with the five pictures that it ranks first."""
    texts, pairs = caption_pairs(bench)
    asked = np.random.default_rng(0).permutation(len(texts))[:_QUERIES]
    found = []
    scores = way.matrices(way.images, way.texts(texts).take(torch.from_numpy(asked)))[1].T  # (queries, pictures)
    for query, row in zip(asked, scores, strict=True):
        right = pairs[pairs[:, 1] == query, 0]
        first, rank, best = _ranked(row, right)
        shown = [bench.picture(bench.samples[place].key) for place in first]
        answer = bench.picture(bench.samples[best].key)
        found.append(pictures.FoundPictures(texts[query], shown, np.isin(first, right).tolist(), rank, answer))
    title = f"Captions look for their picture among {len(bench.samples):,}"
    sheet = pictures.text_to_image_grid(found, title, _subtitle(bench, "captions drawn at random"))
    sheet.save(path, few_colours=True)


def _draw_image_to_text(bench: Bench, way: Way, path: Path) -> None:
    """Six pictures, each with the five captions that it ranks first."""
    texts, pairs = caption_pairs(bench)
    asked = np.random.default_rng(1).permutation(np.unique(pairs[:, 0]))[:_QUERIES]
    listed = []
    scores = way.matrices(way.images.take(torch.from_numpy(asked)), way.texts(texts))[0]  # (queries, captions)
    for query, row in zip(asked, scores, strict=True):
        right = pairs[pairs[:, 0] == query, 1]
        first, rank, best = _ranked(row, right)
        picture = bench.picture(bench.samples[query].key)
        shown_texts = [texts[place] for place in first]
        listed.append(pictures.FoundTexts(picture, shown_texts, np.isin(first, right).tolist(), rank, texts[best]))
    title = f"Pictures look for their caption among {len(texts):,}"
    pictures.image_to_text_grid(listed, title, _subtitle(bench, "pictures drawn at random")).save(
        path, few_colours=True
    )


def draw_answers(
    bench: Bench, result: Result, folder: Path, *, name: str = "answers", title: str = "Questions and answers"
) -> None:
    """Writes NAME.png: six samples, with up to four questions each, what was answered and what is true.

    The table of samples has `key`, `question`, `answer` and `truth`, and `right` or `accuracy`.
    """
    by_key: dict[str, list[pictures.Answer]] = {}
    table = result.samples
    scores = next((table[score] for score in ("right", "accuracy") if score in table), [1.0] * len(table["key"]))
    columns = [table[column] for column in ("key", "question", "answer", "truth")]
    for key, question, answer, truth, score in zip(*columns, scores, strict=True):
        by_key.setdefault(key, []).append(pictures.Answer(question, answer, truth, score > 0))
    _draw_answered(bench, by_key, title, folder / f"{name}.png")


def draw_statements(bench: Bench, result: Result, folder: Path) -> None:
    """Writes statements.png: six pairs of pictures, the statement about them, and what was made of it."""
    columns = [result.samples[name] for name in ("key", "text", "truth", "accuracy")]
    by_key = {
        key: [pictures.Answer(text, str(truth == bool(right)), str(truth), bool(right))]
        for key, text, truth, right in zip(*columns, strict=True)
    }
    _draw_answered(bench, by_key, "Statements about two pictures", folder / "statements.png", "sides")


def draw_captions(bench: Bench, result: Result, folder: Path) -> None:
    """Writes captions.png: twenty pictures, the caption that was written of each, and one of a person's."""
    rows = list(zip(*(result.samples[name] for name in ("key", "caption", "reference")), strict=True))
    drawn = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))[:_CAPTIONED]]
    shown = [pictures.Captioned(bench.picture(key), caption, person) for key, caption, person in drawn]
    about = "samples drawn at random; in grey a person's caption"
    pictures.captioned(shown, "Captions", _subtitle(bench, about)).save(folder / "captions.png")


def draw_told(bench: Bench, result: Result, folder: Path) -> None:
    """Writes attribute_tokens.png: six samples, and how likely the words of their captions were held to be."""
    told: dict[str, dict[bool, list[str]]] = {}
    columns = [result.samples[name] for name in ("key", "word", "accuracy", "nats")]
    for key, word, hit, nats in zip(*columns, strict=True):
        if hit == hit:  # a word of an attribute; the rest has no such value
            told.setdefault(key, {True: [], False: []})[bool(hit)].append(f"{word} {np.exp(-nats):.0%}")
    by_key = {
        key: [
            pictures.Answer("Foreseen" if hit else "Not foreseen", ", ".join(some), "", hit)
            for hit, some in words.items()
            if some
        ]
        for key, words in told.items()
    }
    _draw_answered(bench, by_key, "Words that only the picture fixes", folder / "attribute_tokens.png")


def _draw_answered(
    bench: Bench, by_key: Mapping[str, list[pictures.Answer]], title: str, path: Path, field: str = ""
) -> None:
    drawn = [list(by_key)[place] for place in np.random.default_rng(0).permutation(len(by_key))[:_QUERIES]]
    rows = [pictures.Answered(bench.picture(key, field), _spread(by_key[key])) for key in drawn]
    pictures.answers(rows, title, _subtitle(bench, "samples drawn at random")).save(path, few_colours=True)


def _spread(answers: Sequence[pictures.Answer]) -> list[pictures.Answer]:
    """Some of them, evenly spread: questions of one type follow each other."""
    places = np.unique(np.linspace(0, len(answers) - 1, min(_ANSWERS, len(answers))).astype(int))
    return [answers[place] for place in places.tolist()]


def draw_boxes(bench: Bench, result: Result, folder: Path) -> None:
    """Writes grounding.png: four pictures, and the first boxes that were found for up to five of their phrases."""
    columns = [result.samples[name] for name in ("key", "text", "first", "true")]
    by_key: dict[str, list[tuple[str, Any, Any]]] = {}
    for key, *found in zip(*columns, strict=True):
        by_key.setdefault(key, []).append(tuple(found))
    drawn = [list(by_key)[place] for place in np.random.default_rng(0).permutation(len(by_key))[:_PICTURES]]
    rows = [pictures.WordBoxes(bench.picture(key), *zip(*by_key[key][:_WORDS], strict=True)) for key in drawn]
    about = "pictures drawn at random. Dashed: what the words name; solid: the first box that was found"
    pictures.word_boxes(rows, "Where the words are", _subtitle(bench, about)).save(folder / "grounding.png")


# words that stand for nothing that could be seen at one place
_NOWHERE = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "and",
        "or",
        "with",
        "without",
        "to",
        "from",
        "for",
        "by",
        "is",
        "are",
        "it",
        "its",
        "this",
        "that",
    ]
)


def _draw_words(bench: Bench, path: Path) -> None:
    """Four pictures, and where the longest words of their captions look; a few are embedded again, with tokens."""
    asked: dict[int, list[tuple[int, int]]] = {}
    for row in np.random.default_rng(2).permutation(len(bench.samples)).tolist():
        found = [word for caption in bench.captions[row][:1] for word in re.finditer(r"\w+", caption)]
        words = {word.group().lower(): word.span() for word in reversed(found)}  # each word where it comes first
        words = {word: span for word, span in words.items() if word not in _NOWHERE}
        longest = sorted(words.values(), key=lambda span: span[0] - span[1])[:_WORDS]
        if len(words) > 1 and len(asked) < _PICTURES:
            asked[row] = sorted(longest)
    if not asked:
        return
    some = Subset(bench.data, [bench.index[bench.samples[row].key] for row in asked])
    near = Bench(bench.method, some, ("text",), device=bench.device, batch=_PICTURES, keep_tokens=True)
    questions = {
        row: [Query(row, near.captions[row][0], start, end, -1) for start, end in spans]
        for row, spans in enumerate(asked.values())
    }
    shown = [row for query in questions.values() for row in _heats(near, query)]
    if shown:
        about = "pictures drawn at random, the longest words of their captions. The dot is the strongest place"
        pictures.heat_map(shown, "Where words look", _subtitle(bench, about)).save(path)


def draw_heat(bench: Bench, result: Result, folder: Path) -> None:
    """Writes pointing.png: four pictures, and where up to five phrases of their captions point."""
    by_row: dict[int, list[Query]] = {}
    for query in queries(bench):
        by_row.setdefault(query.row, []).append(query)
    drawn = np.random.default_rng(0).permutation(sorted(by_row))[:_PICTURES].tolist()
    shown = [heat for row in drawn for heat in _heats(bench, by_row[row][:_WORDS])]
    if shown:
        about = (
            "pictures drawn at random. The dot is the strongest place, the dashed frame what the words name "
            "(green: hit, red: missed)"
        )
        pictures.heat_map(shown, "Where words point", _subtitle(bench, about)).save(folder / "pointing.png")


def _heats(bench: Bench, questions: Sequence[Query]) -> list[pictures.WordHeat]:
    """The heat of some queries about one picture, as a row of a sheet; no row where none has heat."""
    maps = heat_maps(bench, questions)
    kept = [(query, heat) for query, heat in zip(questions, maps, strict=True) if np.isfinite(heat).all()]
    if not kept:
        return []
    sample = bench.samples[kept[0][0].row]
    boxes = [sample["boxes"][query.box] if query.box >= 0 else None for query, _ in kept]
    words, heats = [query.phrase for query, _ in kept], [heat for _, heat in kept]
    return [pictures.WordHeat(bench.picture(sample.key), words, heats, boxes)]


def draw_confusion(bench: Bench, result: Result, folder: Path) -> None:
    """Writes confusion.png: true against predicted classes; beyond 25 the rarest are put together."""
    names = [readable(name) for name in bench.classes]
    counts, names, others = _largest(confusion(result, bench.classes), names)
    top1 = result.measures[0]
    about = f"{top1.estimate.value:.1%} of {top1.estimate.n:,} right, guessing gives {top1.chance:.1%}"
    title = "Which class is taken for which"
    sheet = pictures.confusion_matrix(counts, names, title, _subtitle(bench, about), others=others)
    sheet.save(folder / "confusion.png")


def draw_layers(bench: Bench, result: Result, folder: Path) -> None:
    """Writes mir.png: the distance of visual tokens from words behind each layer."""
    value = result.measures[0].estimate.value
    sheet = line_chart(
        list(result.samples["distance"]),
        "layer",
        "How far what is seen lies from what is read",
        _subtitle(bench, f"Fréchet distance of each layer; the logarithm of their sum is {value:.3f}"),
    )
    sheet.save(folder / "mir.png", few_colours=True)


def draw_forgetting(bench: Bench, result: Result, folder: Path) -> None:
    """Writes forgetting.png: how well each task is retrieved after each task that was learned."""
    values = matrix(bench.history)
    columns = [f"after {after}" for after in range(1, values.shape[1] + 1)]
    rows = [f"{number}  {readable(name)}" for number, name in enumerate(parts_of(bench.data)[0], start=1)]
    title, about = "What is retrieved after each task", "R@1 of both directions in per cent, among all tasks"
    sheet = pictures.shares(values, rows, columns, title, _subtitle(bench, about))
    sheet.save(folder / "forgetting.png", few_colours=True)


def _largest(counts: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str], bool]:
    """The matrix of the classes that occur most, the rest folded into a last one, and whether there is such a rest.

    Classes that are neither true nor predicted anywhere are left out.
    """
    order = np.argsort(-counts.sum(1), kind="stable")
    order = order[(counts.sum(0) + counts.sum(1))[order] > 0]
    if len(order) <= _CLASSES:
        order = np.sort(order)
        return counts[np.ix_(order, order)], [names[place] for place in order], False
    kept = np.sort(order[: _CLASSES - 1])
    fold = np.full(len(names), len(kept))
    fold[kept] = np.arange(len(kept))
    folded = np.zeros((_CLASSES, _CLASSES), dtype=np.int64)
    np.add.at(folded, (fold[:, None], fold[None, :]), counts)
    return folded, [*(names[place] for place in kept), f"{len(order) - len(kept)} other classes"], True


def _ranked(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The first places of a ranking, and the rank and the place of the best right answer."""
    order = np.argsort(-scores, kind="stable")
    best = int(np.flatnonzero(np.isin(order, right))[0])
    return order[:_SHOWN], best + 1, int(order[best])


def _subtitle(bench: Bench, about: str) -> str:
    source = f"{bench.data.name} ({bench.data.split})" if bench.data.split else bench.data.name
    return f"{bench.method.card.title} · {source} · {about}"
