"""A language model that reads captions without their pictures, to tell which of their tokens text alone predicts.

Letters: B captions, T tokens of a sequence with all that stands around a caption, N tokens of a caption.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.encoders.language import LanguageModel
from diptych.objectives.contrastive import exact
from diptych.views.conversations import IGNORE


def read_alone(language: LanguageModel, labels: Tensor) -> Tensor:
    """How likely each learned token is after the language model's first token and the learned ones before it alone.

    Args:
        language: the reference. One without a first token is given the one that ends a text.
        labels: (B, T) int64; IGNORE where a token stands that is not learned: padding, a picture, a prompt.

    Returns:
        (B, T) log probability of the token AT each place, 0 where none is learned.
    """
    tokenizer = language.tokenizer
    learned = labels != IGNORE
    count = learned.sum(1)
    order = (~learned).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(count.max())]  # (B, N), the learned first
    real = torch.arange(order.shape[1], device=labels.device) < count[:, None]
    said = labels.gather(1, order)
    first = tokenizer.end if tokenizer.begin is None else tokenizer.begin
    before = F.pad(said.masked_fill(~real, tokenizer.pad)[:, :-1], (1, 0), value=first)  # (B, N), ahead of each
    hidden = language.hidden(language.embed(before), real)
    losses = F.cross_entropy(exact(language.logits(hidden[real])), said[real], reduction="none")
    logs = losses.new_zeros(order.shape).masked_scatter(real, -losses)
    return losses.new_zeros(labels.shape).scatter(1, order, logs)


def scored(record: dict[str, Any], labels: Tensor, by: str) -> Tensor:
    """The chances that were written down for a caption, at the places of its tokens.

    Args:
        record: the field `chances` of a sample.
        labels: (T,) int64, IGNORE where a token is not learned.
        by: the model whose chances are wanted; any if empty.

    Returns:
        (T,) float32, 0 where no token is learned.

    Raises:
        ValueError: they are of another model, another tokenizer or another caption.
    """
    if by and record["by"] != by:
        raise ValueError(
            f"the captions were scored by the model {record['by']}, and the run takes those of {by}: annotate all data "
            "with one reference (`diptych annotate`), and begin the run anew."
        )
    learned = labels != IGNORE
    ids = labels[learned].tolist()
    for said, chances in zip(record["ids"], record["chances"], strict=True):
        if said[: len(ids)].tolist() == ids:
            found = torch.zeros(labels.shape)
            found[learned] = torch.from_numpy(chances[: len(ids)])
            return found
    raise ValueError(
        "a caption was scored with another tokenizer, or has changed since: annotate the data again, with a reference "
        "that has this model's tokenizer (`diptych annotate`)."
    )
