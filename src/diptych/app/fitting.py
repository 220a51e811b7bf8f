"""What a method's options take from the data: how wide region features are, which answers there are.

A method that needs to know such a thing has an option of that name, empty by default. It is filled before the method
is built, and stands in the run's description from then on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from diptych import methods
from diptych.batch import Sample
from diptych.data.dataset import Dataset
from diptych.data.decode import BrokenSample
from diptych.data.mixture import Mixture
from diptych.recipe import Recipe
from diptych.training import streams
from diptych.training.loop import data_of, fields_of
from diptych.views.answers import normalise

LOOK = 20_000
"""samples that are looked into, evenly spread over a data set"""


def fitted(id: str, config: Any, data: Dataset) -> Any:
    """The options of a method, with those that are empty and come from the data filled in.

    Args:
        id: of the method.
        config: its options.
        data: what it will be trained on.
    """
    empty = {one.name for one in fields(config) if one.name in _FROM_DATA and not getattr(config, one.name)}
    found = {name: _FROM_DATA[name](config, data) for name in sorted(empty)}
    return replace(config, **{name: value for name, value in found.items() if value})


def ready(id: str, config: Any, data: Dataset, recipe: Recipe) -> Any:
    """`fitted`, and a check that the data have what each of the method's stages reads.

    Raises:
        MissingField: a stage needs a field that its data lack.
        ValueError: a stage names a part that the data do not have.
    """
    config = fitted(id, config, data)
    with torch.device("meta"):
        method: Any = methods.build(id, config, weights=False)
    for stage in streams.stages(method.stages(recipe), recipe, data):
        fields_of(method, stage, data_of(stage, data))
    return config


def _spread(data: Dataset, name: str, count: int = LOOK) -> Iterable[Sample]:
    """About so many samples of those parts of the data that have a field, or whose sides may, with this field alone."""
    for part in data.parts if isinstance(data, Mixture) else [data]:
        field = name if name in part.has else "sides"
        indices = np.linspace(0, len(part) - 1, min(count, len(part))).astype(int) if field in part.has else ()
        for index in np.unique(indices).astype(int).tolist():
            try:
                sample = part.read(index, (field,))
            except BrokenSample:
                continue
            yield from [sample] if field == name else [side for side in sample.sides if name in side]


def _most_frequent(words: Iterable[str], most: int) -> tuple[str, ...]:
    """The most frequent words, the first of equal ones by the alphabet."""
    counts = Counter(words)
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most])


def _answers(config: Any, data: Dataset) -> tuple[str, ...]:
    said = (
        normalise(answer)
        for sample in _spread(data, "questions")
        for question in sample.questions
        for answer in question.get("answers", ())
    )
    return _most_frequent(said, config.most_answers)


def _entities(config: Any, data: Dataset) -> tuple[str, ...]:
    """Frequent words that stand where a noun would: behind an article or a number, or ahead of a verb or the end.

    Which words are nouns takes a tagger. Without one, a word counts that is the last of a run of words which begins
    with an article or a number and ends at another word that is none of a noun phrase's.
    """
    heads = (head for sample in _spread(data, "text") for head in nouns(sample.text))
    return _most_frequent(heads, config.most_entities)


_OPENS = re.compile(r"a|an|the|one|two|three|four|five|some|several|many|his|her|their|its|this|that|another")
_CLOSES = re.compile(
    r"is|are|was|were|be|with|of|in|on|at|by|to|from|and|or|but|which|who|while|as|for|near|next|under|over|above|below|"
    r"behind|between|beside|into|onto|through|has|have|had|do|does|left|right|front|moves|moving"
)


def nouns(caption: str) -> list[str]:
    """The last words of noun phrases of an English caption: `a red star left of two big dogs` -> star, dogs."""
    found = []
    for clause in re.split(r"[^\w\s'-]+", caption.lower()):
        inside: list[str] = []
        open_phrase = False
        for word in [*clause.split(), "is"]:
            opens = bool(_OPENS.fullmatch(word))
            if opens or _CLOSES.fullmatch(word):
                found += inside[-1:] if open_phrase else []
                inside, open_phrase = [], opens
            else:
                inside.append(word)
    return found


def _width(config: Any, data: Dataset) -> int:
    return max((sample.regions.shape[1] for sample in _spread(data, "regions", 1)), default=0)


def _classes(config: Any, data: Dataset) -> int:
    return max((sample.region_classes.shape[1] for sample in _spread(data, "region_classes", 1)), default=0)


def _labels(config: Any, data: Dataset) -> int:
    """As many as a detector's distribution is over, but the background; without one, as occur."""
    classes = _classes(config, data)
    return classes - 1 if classes else _most(data, "region_labels")


def _attributes(config: Any, data: Dataset) -> int:
    return _most(data, "region_attributes")


def _most(data: Dataset, name: str) -> int:
    """One more than the largest number of a field."""
    largest = (sample[name].max(initial=-1) for sample in _spread(data, name, 1000))
    return int(max(largest, default=-1)) + 1


def _named(config: Any, data: Dataset) -> int:
    """How many classes `label` counts."""
    parts = data.parts if isinstance(data, Mixture) else [data]
    return len(data.classes) if any("label" in part.has for part in parts) else 0


def _scored_by(config: Any, data: Dataset) -> str:
    """The model by which captions were scored; samples that another scored are refused when they are read."""
    return next((sample.chances["by"] for sample in _spread(data, "chances", 1)), "")


_FROM_DATA: dict[str, Callable[[Any, Dataset], Any]] = {
    "answers": _answers,
    "classes": _named,
    "classnames": lambda config, data: tuple(data.classes) if "category" in data.has else (),
    "scored_by": _scored_by,
    "entities": _entities,
    "region_width": _width,
    "region_classes": _classes,
    "region_labels": _labels,
    "region_attributes": _attributes,
}
"""The one lookup table: option -> how it is found."""
