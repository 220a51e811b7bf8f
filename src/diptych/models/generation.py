"""What a language model that sees writes after a prompt, and how likely it holds an answer to be.

Letters: B prompts, T tokens, D width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from diptych.batch import Features
from diptych.objectives.contrastive import exact
from diptych.views.conversations import IGNORE, Turn

if TYPE_CHECKING:
    from diptych.models.generative import GenerativeVLM


def answers_to(
    model: GenerativeVLM, image: Features | None, prompts: Sequence[str], longest: int, beams: int, **sampling: Any
) -> list[str]:
    """What is written after each prompt; `sampling` as in transformers' `generate` (`do_sample`, `top_p`, ...)."""
    read = [
        model.read([Turn("user", prompt)] if prompt else [], _places(model, image), open=True) for prompt in prompts
    ]
    embeds = _embeds(model, image, read)
    lengths = torch.tensor([one["length"] for one in read], device=embeds.device)
    room = embeds.shape[1] - lengths  # padding goes in front, where the first word would else be
    order = (torch.arange(embeds.shape[1], device=embeds.device) - room[:, None]) % embeds.shape[1]
    embeds = embeds.gather(1, order[..., None].expand_as(embeds))
    real = torch.arange(embeds.shape[1], device=embeds.device) >= room[:, None]
    tokenizer = model.language.tokenizer
    ids = model.language.model.generate(
        inputs_embeds=embeds,
        attention_mask=real.long(),
        max_new_tokens=longest,
        num_beams=beams,
        pad_token_id=tokenizer.pad,
        eos_token_id=tokenizer.end,
        **{"do_sample": False, **sampling},
    )
    return [tokenizer.text(_before(row, tokenizer.end)) for row in ids.tolist()]


def chances(
    model: GenerativeVLM, image: Features | None, prompts: Sequence[str], answers: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Log probability of each token of each answer, 0 elsewhere, and the labels: both (B, T - 1)."""
    read = []
    for prompt, answer in zip(prompts, answers, strict=True):
        asked = [Turn("user", prompt)] if prompt else []
        read.append(model.read([*asked, Turn("assistant", answer)], _places(model, image)))
    embeds = _embeds(model, image, read)
    real = torch.arange(embeds.shape[1]) < torch.tensor([one["length"] for one in read])[:, None]
    hidden = model.language.hidden(embeds, real.to(embeds.device))[:, :-1]
    labels = _padded([one["labels"] for one in read], IGNORE)[:, 1:].to(embeds.device)
    learned = labels != IGNORE
    logits = exact(model.language.logits(hidden[learned]))
    logs = torch.zeros(labels.shape, dtype=logits.dtype, device=embeds.device)
    logs[learned] = -F.cross_entropy(logits, labels[learned], reduction="none")
    return logs, labels


def _places(model: GenerativeVLM, image: Features | None) -> list[int]:
    """Tokens of the language model for each medium that is seen."""
    media = 0 if image is None else image.tokens.shape[1] // model.connector.of
    return [model.connector.tokens] * media


def _embeds(model: GenerativeVLM, image: Features | None, read: Sequence[dict[str, Any]]) -> Tensor:
    """Sequences -> (B, T, D), padded at the end."""
    device = next(model.parameters()).device
    ids, visual = (_padded([one[name] for one in read], 0).to(device) for name in ("ids", "visual"))
    return model.splice(ids, visual, None if image is None else model.connect(image))


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


def _before(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
