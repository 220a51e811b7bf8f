"""What models that write are asked, in batches of about equal length, and how what they write is read.

Every sample is encoded once (`Bench`); the same question about the same sample is put once, whoever asks. Prompts are
the method's own; what this project adds to them, and what reads the answers, has a version that stands in each result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.batch import Features
from diptych.card import Generates
from diptych.evaluation.embed import Bench, blocks, rows_on
from diptych.training import watchdog

T = TypeVar("T")

UNASKED = 200
"""questions or samples of a task that is done with all others: what a model writes takes long"""

Floats = NDArray[np.float64]
Tokens = list[tuple[int, int, float, bool]]
"""of each token: its characters (start, end), its log probability, and whether no other token is likelier"""


class Ask(NamedTuple):
    """A prompt about samples, the rows `seen`, in order; about none: the model is blind. `answer` is to be weighed."""

    seen: tuple[int, ...]
    prompt: str
    answer: str = ""


def written(bench: Bench, asks: Sequence[Ask], longest: int = 32, beams: int = 1) -> list[str]:
    """What the method writes after each prompt, of at most `longest` tokens."""
    found: dict[Ask, str] = {}
    for some, image in _batches(bench, asks):
        said = bench.method.respond(image, [ask.prompt for ask in some], longest, beams)
        found |= zip(some, said, strict=True)
    return [found[ask] for ask in asks]


def likelihoods(bench: Bench, asks: Sequence[Ask]) -> tuple[Floats, Floats]:
    """Log probability of each answer (n,), -inf where it is not a number, and how many tokens it has (n,)."""
    found: dict[Ask, tuple[float, float]] = {}
    for some, image in _batches(bench, asks):
        sums, tokens = bench.method.likelihood(image, [ask.prompt for ask in some], [ask.answer for ask in some])
        sums = sums.double().nan_to_num(nan=-torch.inf)
        found |= zip(some, zip(sums.tolist(), tokens.tolist(), strict=True), strict=True)
    values = np.array([found[ask] for ask in asks], np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def token_likelihoods(bench: Bench, asks: Sequence[Ask]) -> list[Tokens]:
    """How each token of each answer fares."""
    found: dict[Ask, Tokens] = {}
    for some, image in _batches(bench, asks):
        prompts, answers = [ask.prompt for ask in some], [ask.answer for ask in some]
        found |= zip(some, bench.method.token_likelihood(image, prompts, answers), strict=True)
    return [found[ask] for ask in asks]


def likeliest(bench: Bench, asks: Sequence[Sequence[Ask]]) -> list[int]:
    """For each list of asks, which of its answers is the likeliest, the first of equally likely ones."""
    values = likelihoods(bench, [ask for some in asks for ask in some])[0]
    ends = np.cumsum([len(some) for some in asks])[:-1]
    return [int(part.argmax()) for part in np.split(values, ends)] if asks else []


def _batches(bench: Bench, asks: Sequence[Ask]) -> Iterator[tuple[list[Ask], Features | None]]:
    """The different asks, the longest first, with the features of what each sees."""
    order = sorted(set(asks), key=lambda ask: (len(ask.seen), len(ask.prompt) + len(ask.answer), ask), reverse=True)
    for media, alike in groupby(order, key=lambda ask: len(ask.seen)):
        group = list(alike)
        for some in blocks(len(group), bench.batch):
            yield group[some], _seen(bench, np.array([ask.seen for ask in group[some]])) if media else None
            watchdog.now()


def _seen(bench: Bench, rows: NDArray[np.int64]) -> Features:
    """Features of samples (B, K) -> of B, the tokens of K samples one after the other."""
    parts = [rows_on(bench.encoded_images, column, bench.device) for column in rows.T]
    if len(parts) == 1:
        return parts[0]
    tokens, mask = torch.cat([part.tokens for part in parts], 1), torch.cat([part.mask for part in parts], 1)
    return Features(tokens, parts[-1].pooled, mask)


# -- reading what was written ------------------------------------------------------------------------------------

SHORT = "short/1"
"""name and version of `short`"""
YES_NO = "yes_no/1"
"""name and version of `yes_no`"""

_END = re.compile(r"\n|<image>|\bQ(?:uestion)?:|\.(?=\s|$)")
_WORD = re.compile(r"[^\W_]+")


def short(text: str) -> str:
    """An answer in a few words: what stands before the end of the first sentence, or before another question."""
    return _END.split(text.strip(), maxsplit=1)[0].strip()


def yes_no(text: str) -> str:
    """`yes` or `no`, as POPE reads answers (Li et al., 2023): the first sentence says no where it has `no` or `not`.

    Everything else is taken for yes, as there; but an empty answer is "", which is neither.
    """
    words = set(_WORD.findall(text.split(".")[0].lower().replace("n't", " not")))
    return ("no" if words & {"no", "not"} else "yes") if words else ""


def how(reader: str = "", **prompts: str) -> str:
    """What a result says of how it came about: `question='Q: {} A:' read by short/1`."""
    asked = " ".join(f"{name}={prompt!r}" for name, prompt in prompts.items())
    return f"{asked} read by {reader}" if reader else asked


def own_prompt(prompts: Mapping[str, str], task: str) -> str:
    """The method's prompt for a task; the bare question where it has none."""
    return prompts.get(task, "" if task == "caption" else "{}")


def caption_prompt(bench: Bench, reader: str = "") -> str:
    """`how` of captions that the method writes; nothing for one that is given no prompt."""
    if not isinstance(bench.method, Generates):
        return reader
    return how(reader, caption=own_prompt(bench.method.prompts, "caption"))


def spread(bench: Bench, items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spread; `UNASKED` where nobody asked for the task by name."""
    most = most if bench.asked else min(most, UNASKED)
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]
