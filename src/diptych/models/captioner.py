"""What a model that scores the next word of a caption learns, and how it writes.

Letters: B pictures, K captions that are tried for each, P image tokens, T text tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from diptych.batch import Batch, Terms
from diptych.encoders.tokenizer import Tokenizer
from diptych.models.writing import beam_search, draw, until
from diptych.objectives.captioning import gold_loss, gold_weights, log_chances, next_words, reward_loss
from diptych.objectives.masked import IGNORE, labelled_cross_entropy
from diptych.views.captions import CiderD

LEARNED = 0.3
"""weight of people's own captions beside the reward (FIBER's CIDEr stage)"""
_END = " <eos>"  # a word at the end: a caption that breaks off lacks it


class Captioner(Protocol):
    """A model that writes. `config` has the options of `WritingConfig`."""

    config: Any
    tokenizer: Tokenizer

    def write(self, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Image tokens (B, P, C), texts (B, T), mask (B, T) -> logits (B, T, V) of what follows each token."""


def caption_loss(captioner: Captioner, seen: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of each next word of `text`, by image tokens (B, P, C)."""
    logits = captioner.write(seen, batch.text, batch.text_mask)
    return labelled_cross_entropy(logits, next_words(batch.text, batch.text_mask))


def weighed_loss(captioner: Captioner, seen: Tensor, before: Tensor, batch: Batch, official: bool = False) -> Tensor:
    """The same, weighed by the logits `before` (B, T, V) that an earlier copy gave (`gold_loss`)."""
    labels = next_words(batch.text, batch.text_mask)
    weights = gold_weights(log_chances(before, labels).exp(), labels != IGNORE)
    return gold_loss(captioner.write(seen, batch.text, batch.text_mask), labels, weights, official)


def rewarded_loss(captioner: Captioner, seen: Tensor, batch: Batch) -> Terms:
    """`caption` and `cider`: people's captions, and captions that are drawn, rewarded by CIDEr-D (`reward_loss`).

    Args:
        captioner: the model.
        seen: (B, P, C).
        batch: `text`, `text_mask`, and `references`, all captions of each picture.
    """
    tries = captioner.config.tries
    starts, end = ends(captioner, seen)
    with torch.no_grad():
        ids = draw(partial(next_word, captioner, seen), starts, end, tries, longest(captioner))
    mask = until(ids, end)
    rewards = cider_rewards(texts(captioner, ids), batch.references).to(seen.device)
    logits = captioner.write(seen.repeat_interleave(tries, 0), ids, mask)
    rewarded = reward_loss(logits, next_words(ids, mask), rewards)
    told = caption_loss(captioner, seen, batch)
    return Terms({"reward": rewards.mean()}, caption=LEARNED * told, cider=(1 - LEARNED) * rewarded)


def cider_rewards(tried: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
    """CIDEr-D of K captions of each of B pictures, side by side, against those of people: (B, K).

    How rare a run of words is is counted over the pictures of the batch, as the metric counts it over those of the set
    that it judges: nothing needs to be known of other batches, and small ones tell less. The end counts as a word.

    Raises:
        ValueError: there is one picture, among which no word is rare.
    """
    if len(references) < 2:
        raise ValueError("the task cider compares pictures of a batch, and this one has a single picture: take more.")
    people = [[caption + _END for caption in own] for own in references]
    cider = CiderD(people)
    tries = len(tried) // len(people)
    found = [cider(caption + _END, people[index // tries]) for index, caption in enumerate(tried)]
    return torch.tensor(found).view(len(people), tries)


def written(captioner: Captioner, seen: Tensor) -> list[str]:
    """The best of `beams` captions of each picture (B, P, C), by the mean log probability of its words."""
    starts, end = ends(captioner, seen)
    found = beam_search(partial(next_word, captioner, seen), starts, end, captioner.config.beams, longest(captioner))
    return texts(captioner, found)


def next_word(captioner: Captioner, seen: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Logits (N, V) of what follows texts (N, T), each about one of the pictures, by `rows` (N,)."""
    return captioner.write(seen[rows], ids, torch.ones_like(ids, dtype=torch.bool))[:, -1]


def ends(captioner: Captioner, seen: Tensor) -> tuple[Tensor, int]:
    """The first token of each picture's caption (B,), and the last of any."""
    ids, _ = captioner.tokenizer.encode([""])
    return ids[0, :1].expand(len(seen)).to(seen.device), int(ids[0, -1])


def longest(captioner: Captioner) -> int:
    """Tokens of the longest caption that can be written."""
    return min(captioner.config.longest, captioner.tokenizer.context)


def texts(captioner: Captioner, ids: Tensor) -> list[str]:
    """(N, T) -> what they say."""
    return [captioner.tokenizer.backend.decode(row).strip() for row in ids.tolist()]
