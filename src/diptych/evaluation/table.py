"""The table of tasks: what each asks of a method and of a data set, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from diptych.card import (
    AlignsWords,
    AnswersQuestions,
    Captions,
    EmbedsImages,
    EmbedsPairs,
    EmbedsTexts,
    FillsWords,
    Generates,
    Grounds,
    JudgesStatements,
    Locates,
    MatchesPairs,
    ProbesTokens,
    ScoresPairs,
    ShowsLayers,
)
from diptych.evaluation import panels
from diptych.evaluation.answering import video_qa, vqa
from diptych.evaluation.attribute_tokens import attribute_tokens
from diptych.evaluation.base_to_new import base_to_new
from diptych.evaluation.captioning import captioning
from diptych.evaluation.contrasts import foils, hard_gallery, pair_foils, pair_hard_gallery
from diptych.evaluation.embed import Bench, Space
from diptych.evaluation.forgetting import forgetting, tasks_retrieval
from diptych.evaluation.gap import gap
from diptych.evaluation.grounding import grounding, word_regions
from diptych.evaluation.hallucination import hallucination
from diptych.evaluation.masked_words import masked_words
from diptych.evaluation.measures import Result
from diptych.evaluation.mir import mir
from diptych.evaluation.multimodal import multimodal_retrieval
from diptych.evaluation.multiple_choice import multiple_choice
from diptych.evaluation.naming import naming
from diptych.evaluation.pairs import pair_retrieval
from diptych.evaluation.picture_use import picture_use
from diptych.evaluation.pointing import pointing
from diptych.evaluation.probe import knn, linear_probe, token_probe
from diptych.evaluation.reading import own_fields
from diptych.evaluation.retrieval import retrieval
from diptych.evaluation.shots import vqa_shots
from diptych.evaluation.statements import statements
from diptych.evaluation.yes_no import yes_no
from diptych.evaluation.zero_shot import zero_shot


@dataclass(frozen=True)
class Task:
    """One evaluation: what it asks of a method and of a data set, and the function that does it.

    What a method sees with (pictures, regions, clips) is named by its card; `needs` are the fields beside it.
    """

    about: str
    protocols: tuple[type | UnionType, ...]
    needs: tuple[str, ...]
    function: Callable[[Bench], Result]
    uses: tuple[str, ...] = ()
    """fields that it takes where they are there"""
    draw: Callable[[Bench, Result, Path], None] | None = None
    """writes pictures into a folder"""
    trains: bool = False
    """learns from a training set that is given beside the evaluated one"""
    sides: bool = False
    """looks at the two sides of a sample, which then need not have what the method sees with itself"""
    parts: bool = False
    """compares the parts of a mixture"""
    history: bool = False
    """looks back at what was found after each task of a stream"""
    gallery: bool = False
    """compares with the split `gallery` of the data, where that is given as what is learned from"""

    @property
    def asks(self) -> tuple[str, ...]:
        """The protocols by name, `A or B` where one of two is enough."""
        return tuple(_named(protocol) for protocol in self.protocols)

    @property
    def encodes(self) -> bool:
        """Whether it starts from what fusion starts from."""
        return any(hasattr(one, "encode_image") for protocol in self.protocols for one in _either(protocol))

    def spaces(self, method: Any) -> set[Space]:
        """What samples are encoded for; re-ranking chooses candidates in the joint space, where there is one."""
        able = [next((one for one in _either(p) if isinstance(method, one)), object) for p in self.protocols]
        encodes = any(hasattr(one, "encode_image") for one in able)
        found: set[Space] = {"sides" if self.sides else "fusion"} if encodes else set()
        if EmbedsImages in able or (MatchesPairs in self.protocols and isinstance(method, ScoresPairs)):
            found.add("joint")
        return found

    def unable(self, method: Any) -> str:
        """Why a method cannot be asked, to follow its name; empty if it can."""
        lacking = [protocol for protocol in self.protocols if not isinstance(method, protocol)]
        if lacking:
            return f"does not implement {', '.join(map(_named, lacking))}"
        if self.encodes and not own_fields(method.card.needs):
            return f"sees nothing: it is made of {', '.join(method.card.needs)} alone"
        untrained: Mapping[str, str] = getattr(method, "lacks", {})
        for protocol in self.protocols:
            able = [one.__name__ for one in _either(protocol) if isinstance(method, one)]
            if all(one in untrained for one in able):
                return f"cannot do it, {untrained[able[0]]}"
        return ""


def _either(protocol: type | UnionType) -> tuple[type, ...]:
    """The protocols of which one is enough."""
    return get_args(protocol) or (protocol,)  # type: ignore[return-value]


def _named(protocol: type | UnionType) -> str:
    return " or ".join(one.__name__ for one in _either(protocol))


_PAIRS = (EmbedsImages, EmbedsTexts, ScoresPairs)
_SAID = (AnswersQuestions | Generates,)

TASKS: dict[str, Task] = {
    "retrieval": Task(
        "R@1, R@5, R@10 and median rank, picture to caption and back",
        _PAIRS,
        ("text",),
        retrieval,
        draw=panels.draw_retrieval,
    ),
    "tasks_retrieval": Task(
        "R@1 and the mean recall of both directions over several tasks together, and R@1 of each",
        _PAIRS,
        ("text",),
        tasks_retrieval,
        parts=True,
    ),
    "forgetting": Task(
        "what was retrieved right after each task of a stream and is not at its end",
        _PAIRS,
        ("text",),
        forgetting,
        draw=panels.draw_forgetting,
        parts=True,
        history=True,
    ),
    "multimodal_retrieval": Task(
        "mAP@1, mAP@5 and mAP@10: pictures with their captions find others of their category",
        (EmbedsPairs | EmbedsImages, EmbedsPairs | EmbedsTexts),
        ("text", "category"),
        multimodal_retrieval,
        gallery=True,
    ),
    "pair_retrieval": Task(
        "the same, each pair fused", (MatchesPairs,), ("text",), pair_retrieval, draw=panels.draw_pair_retrieval
    ),
    "hard_gallery": Task("R@1 among look-alikes", _PAIRS, ("text", "scene"), hard_gallery),
    "pair_hard_gallery": Task("the same, each pair fused", (MatchesPairs,), ("text", "scene"), pair_hard_gallery),
    "foils": Task("true caption against almost right ones", _PAIRS, ("text", "negatives"), foils),
    "pair_foils": Task("the same, each pair fused", (MatchesPairs,), ("text", "negatives"), pair_foils),
    "zero_shot": Task(
        "classification by the names of the classes", _PAIRS, ("category",), zero_shot, draw=panels.draw_confusion
    ),
    "base_to_new": Task(
        "the same, each half of the classes by itself, for models that learned the first half",
        _PAIRS,
        ("category",),
        base_to_new,
    ),
    "knn": Task("classification by the nearest training pictures", (EmbedsImages,), ("category",), knn, trains=True),
    "linear_probe": Task(
        "a linear classifier on frozen features", (EmbedsImages,), ("category",), linear_probe, trains=True
    ),
    "pointing": Task(
        "does a word find its place in the picture",
        (EmbedsImages, EmbedsTexts, Grounds),
        ("text", "boxes", "spans"),
        pointing,
        uses=("attributes", "scene"),
        draw=panels.draw_heat,
    ),
    "vqa": Task(
        "answers to questions, by ten people's where there are",
        _SAID,
        ("questions",),
        vqa,
        draw=panels.draw_answers,
    ),
    "video_qa": Task(
        "answers to questions about clips: order, direction, count and so on",
        _SAID,
        ("video", "questions"),
        video_qa,
        draw=partial(panels.draw_answers, name="video_answers", title="Questions about clips"),
    ),
    "vqa_shots": Task(
        "written answers after 0, 1, 2 and 4 solved questions",
        (Generates,),
        ("questions",),
        vqa_shots,
        draw=partial(panels.draw_answers, name="shots", title="Questions after four solved ones"),
    ),
    "multiple_choice": Task(
        "the right one of several answers, by its likelihood and by its letter",
        (Generates,),
        ("questions",),
        multiple_choice,
        draw=partial(panels.draw_answers, name="choices", title="The likeliest of several answers"),
    ),
    "yes_no": Task(
        "is an object there, asked of what is there and of what is not (POPE)",
        (Generates,),
        ("tags",),
        yes_no,
        draw=partial(panels.draw_answers, name="yes_no", title="Is it there?"),
    ),
    "masked_words": Task(
        "words of the caption that are masked, guessed with the picture",
        (FillsWords,),
        ("text", "spans", "attributes"),
        masked_words,
    ),
    "statements": Task(
        "is a statement about two pictures true",
        (JudgesStatements,),
        ("sides", "text", "category"),
        statements,
        uses=("group",),
        draw=panels.draw_statements,
        sides=True,
    ),
    "grounding": Task(
        "boxes for phrases of captions and for referring expressions",
        (Locates,),
        ("boxes",),
        grounding,
        uses=("text", "spans", "expressions"),
        draw=panels.draw_boxes,
    ),
    "word_regions": Task(
        "does a word belong to the region of its object", (AlignsWords,), ("text", "boxes", "spans"), word_regions
    ),
    "token_probe": Task(
        "a linear classifier of objects on fused tokens",
        (ProbesTokens,),
        ("text", "boxes"),
        token_probe,
        uses=("attributes", "scene"),
        trains=True,
    ),
    "captioning": Task(
        "written captions against those of people", (Captions,), ("text",), captioning, draw=panels.draw_captions
    ),
    "hallucination": Task(
        "objects that written captions speak of and that are not there (CHAIR)",
        (Captions,),
        ("tags",),
        hallucination,
        draw=partial(panels.draw_answers, name="hallucination", title="What captions speak of and is not there"),
    ),
    "attribute_tokens": Task(
        "words of the caption that only the picture fixes, foreseen one by one",
        (Generates,),
        ("text", "spans", "attributes"),
        attribute_tokens,
        draw=panels.draw_told,
    ),
    "naming": Task(
        "the likeliest of all names in the place of one",
        (Generates,),
        (),
        naming,
        uses=("text", "spans", "attributes", "category"),
        draw=partial(panels.draw_answers, name="names", title="The likeliest name"),
    ),
    "picture_use": Task(
        "how much likelier captions are with their picture than with none or a wrong one",
        (Generates,),
        ("text",),
        picture_use,
        draw=partial(panels.draw_answers, name="picture_use", title="Captions and their pictures"),
    ),
    "gap": Task("distance between the modalities", (EmbedsImages, EmbedsTexts), ("text",), gap),
    "mir": Task(
        "distance of what is seen from words, in the layers of a language model",
        (ShowsLayers,),
        ("text",),
        mir,
        draw=panels.draw_layers,
    ),
}
"""The one lookup table of evaluations: name -> task."""
