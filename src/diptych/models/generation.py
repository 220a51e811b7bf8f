"""What a language model that sees writes after a prompt, and how likely it holds an answer to be.

A prompt is what a user says, `<image>` in it being a place for something seen, or a whole conversation. `few_shot`
makes one that shows by examples how to answer.

Letters: B prompts, T tokens, D width of the language model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from diptych.batch import Batch, Features
from diptych.card import TooLong
from diptych.encoders.hidden import recorded
from diptych.objectives.contrastive import exact
from diptych.views.conversations import IGNORE, MARKER, Turn

if TYPE_CHECKING:
    from diptych.models.generative import GenerativeVLM

Prompt = str | Sequence[Turn]


def answers_to(
    model: GenerativeVLM, image: Features | None, prompts: Sequence[Prompt], longest: int, **how: Any
) -> list[str]:
    """What is written after each prompt.

    Args:
        model: the method.
        image: what each prompt is about: tokens (B, M * P', C), of M media; None: nothing.
        prompts: B.
        longest: tokens that are written at most.
        how: as in transformers' `generate`: `num_beams`, `do_sample`, `top_p`, `temperature`, `streamer`, ...

    Raises:
        TooLong: a prompt leaves no room for an answer in what the language model reads.
    """
    visual = _places(model, image)
    embeds, batch = embedded(model, image, [_whole(model, prompt, visual) for prompt in prompts])
    room = (
        embeds.shape[1] - batch.length[:, None]
    )  # padding goes in front: the first word that is written follows the last
    place = torch.arange(embeds.shape[1], device=embeds.device)
    order = (place - room) % embeds.shape[1]
    model.mark(batch.visual.gather(1, order))
    tokenizer = model.language.tokenizer
    ids = model.language.model.generate(
        inputs_embeds=embeds.gather(1, order[..., None].expand_as(embeds)),
        attention_mask=(place >= room).long(),
        max_new_tokens=longest,
        pad_token_id=tokenizer.pad,
        eos_token_id=tokenizer.end,
        **{"do_sample": False, **how},
    )
    return [tokenizer.text(_before(row, tokenizer.end)) for row in ids.tolist()]


def chances(
    model: GenerativeVLM, image: Features | None, prompts: Sequence[Prompt], answers: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """How likely each token of each answer is, its end token included, given all that stands before it.

    Returns:
        (B, T) log probability of the token that comes next, 0 where it is none of the answer's; (B, T) bool, whether it
        is one; (B, T) bool, whether it is one and no other token is likelier.

    Raises:
        TooLong: as in `answers_to`.
    """
    visual = _places(model, image)
    said = zip(prompts, answers, strict=True)
    read = [model.read([*turns(prompt), Turn("assistant", answer)], visual) for prompt, answer in said]
    embeds, batch = embedded(model, image, read)
    real = there(batch.length, embeds.shape[1])
    # an earlier answer in a conversation is learned too, and is not asked for here
    starts = [len(_whole(model, prompt, visual)["ids"]) for prompt in prompts]
    labels = pad_sequence([one["labels"] for one in read], batch_first=True, padding_value=IGNORE)
    labels[there(torch.tensor(starts), labels.shape[1])] = IGNORE
    labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE).to(embeds.device)
    learned = labels != IGNORE
    logits = exact(model.language.logits(model.language.hidden(embeds, real)[learned]))
    logs = logits.new_zeros(labels.shape)
    logs[learned] = -F.cross_entropy(logits, labels[learned], reduction="none")
    best = learned.clone()
    best[learned] = logits.argmax(-1) == labels[learned]
    return logs, learned, best


def states(model: GenerativeVLM, image: Features, texts: Sequence[str]) -> tuple[list[Tensor], Tensor, Tensor]:
    """What `card.ShowsLayers` asks for: each text is the answer to what is seen, without a question."""
    visual = _places(model, image)
    embeds, batch = embedded(model, image, [model.read([Turn("assistant", text)], visual) for text in texts])
    real = there(batch.length, embeds.shape[1])
    with recorded(model.language.model.base_model, model.language.layers) as found:
        model.language.hidden(embeds, real)
    behind = batch.visual.cumsum(1) == batch.visual.sum(1, keepdim=True)
    return found, batch.visual, real & behind & ~batch.visual


def turns(prompt: Prompt) -> list[Turn]:
    """A prompt as a conversation; an empty one says nothing."""
    if isinstance(prompt, str):
        return [Turn("user", prompt)] if prompt else []
    return list(prompt)


def few_shot(examples: Sequence[tuple[str, str]], question: str) -> str:
    """Questions with their answers, and one without, each about a picture of its own (Flamingo, arXiv 2204.14198).

    The features to go with it are those of the examples' pictures and then the one that is asked about: `beside`.
    """
    lines = [f"{MARKER}{asked} {answer}" for asked, answer in (*examples, (question, ""))]
    return "\n".join(lines).strip()


def beside(*images: Features) -> Features:
    """Features of several media of each sample, (B, P', C) each, one after the other."""
    tokens, masks = (torch.cat([getattr(one, name) for one in images], 1) for name in ("tokens", "mask"))
    return Features(tokens, images[-1].pooled, masks)


def there(lengths: Tensor, width: int) -> Tensor:
    """(B,) lengths -> (B, width) bool, True where a sequence has a token."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def _whole(model: GenerativeVLM, prompt: Prompt, visual: Sequence[int]) -> dict[str, Any]:
    """A prompt up to where its answer begins. To be cut off is for what is learned: its end is what was asked."""
    read, context = model.read(turns(prompt), visual, open=True), model.language.context
    if len(read["ids"]) >= context or int(read["visual"].sum()) < sum(visual):
        raise TooLong(
            f"a prompt has no room in the {context} tokens that this run reads, of which {sum(visual)} are for what is "
            "seen: say or show less, or train with a larger context."
        )
    if not len(read["ids"]):  # nothing seen and nothing asked: what is written follows what texts begin with
        words = model.language.tokenizer
        opens = torch.tensor([words.end if words.begin is None else words.begin])
        alone = {"ids": opens, "labels": torch.full((1,), IGNORE), "visual": torch.tensor([False])}
        return {**read, **alone, "length": torch.tensor(1)}
    return read


def _places(model: GenerativeVLM, image: Features | None) -> list[int]:
    """Tokens of the language model for each medium that is seen."""
    media = 0 if image is None else image.tokens.shape[1] // model.connector.of
    return [model.connector.tokens] * media


def embedded(
    model: GenerativeVLM, image: Features | None, read: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, Batch]:
    """Sequences about what is seen -> (B, T, D), and the batch of them, both padded at the end."""
    columns = {
        name: pad_sequence([one[name] for one in read], batch_first=True)
        if value.ndim
        else torch.stack([one[name] for one in read])
        for name, value in read[0].items()
    }
    batch = Batch(columns).to(next(model.parameters()).device)
    tokens = None if image is None else model.connect(image, model.told(batch))
    return model.splice(batch.ids, batch.visual, tokens), batch


def _before(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
