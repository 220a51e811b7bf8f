"""Masking of words, regions and patches: which positions, what stands there instead, and the loss of guessing them.

Three steps, each a function of a batch, so that a method reads like its paper:

    free = candidates(ids, real, special)                      # neither padding nor special tokens
    chosen = choose(free, 0.15, units=word_units(continues))   # whole words
    words = replace_tokens(ids, chosen, mask_id, (0, size))    # 80 % mask, 10 % random, 10 % as it is
    loss = labelled_cross_entropy(logits, words.labels)

Random numbers come from `generator`, or without one from torch's own, which the trainer seeds for each step.

Letters: B batch, T positions (tokens, regions or patches), D width, V vocabulary, K spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.contrastive import exact

IGNORE = -100
"""The label of a position that is not to be guessed, torch's own."""

BERT = (0.8, 0.1)
"""BERT's shares of chosen positions that become a mask and something random; the rest stay as they are."""


class Masked(NamedTuple):
    """A batch with positions to be guessed.

    inputs: what the model sees, of the shape of what was given: ids (B, T) or features (B, T, D).
    chosen: (B, T) bool, True where something is to be guessed, whether or not it was changed.
    labels: what stood there: ids (B, T) int64 with IGNORE where nothing is chosen, or all features (B, T, D).
    """

    inputs: Tensor
    chosen: Tensor
    labels: Tensor


# ---- which positions may be chosen


def candidates(ids: Tensor, real: Tensor, special: Sequence[int] = ()) -> Tensor:
    """(B, T) ids, (B, T) real -> (B, T) bool: real tokens whose id is none of `special`."""
    return real & ~torch.isin(ids, torch.tensor(list(special), dtype=ids.dtype, device=ids.device))


def word_units(continues: Tensor) -> Tensor:
    """Whole words as units: positions of one word get one number.

    Args:
        continues: (B, T) bool, True where a token goes on with the word before it (`##ing`, or no space ahead of it).

    Returns:
        (B, T) int64, numbers that rise from left to right.
    """
    return (~continues).long().cumsum(1)


def span_units(spans: Tensor, length: int) -> Tensor:
    """Spans (entities, phrases) as units; every other position is a unit of its own (ARL).

    Args:
        spans: (B, K, 2) int64, first token of a span and the one after its last; a span of no length (padding, such
            as 0, 0 or -1, -1) is nothing. Where spans overlap, a position belongs to the last of them.
        length: T.

    Returns:
        (B, T) int64.
    """
    position = torch.arange(length, device=spans.device)
    units = position.expand(len(spans), length)
    for span in spans.unbind(1):
        start, stop = span[:, :1], span[:, 1:]
        units = torch.where((position >= start) & (position < stop), start, units)  # (B, T)
    return units


# ---- which are chosen


def choose(
    free: Tensor,
    share: float,
    generator: torch.Generator | None = None,
    units: Tensor | None = None,
    forced: Tensor | None = None,
    at_least: int = 0,
) -> Tensor:
    """Chooses each unit by a coin of its own, as BERT, UNITER, LXMERT and VALOR (share 0.6) do.

    Args:
        free: (B, T) bool, positions that may be chosen.
        share: probability with which a unit is chosen.
        generator: of random numbers.
        units: (B, T) int64, positions of the same number in a row are chosen together; None: each is its own.
        forced: (B, T) bool, positions that are chosen whatever the coin says, with their units, where free.
        at_least: units chosen in every row that has so many; at 1 a row never goes without.

    Returns:
        (B, T) bool.
    """
    drawn = _draws(free, generator, units, forced)
    chosen = drawn < share
    if at_least:
        order = drawn.sort(1).values  # units of several positions repeat; count each once
        first = torch.ones_like(order, dtype=torch.bool)
        first[:, 1:] = order[:, 1:] > order[:, :-1]
        enough = (first.cumsum(1) <= at_least) & (order <= 1)
        limit = order.masked_fill(~enough, -2.0).amax(1, keepdim=True)
        chosen |= drawn <= limit
    return chosen & free


def choose_exactly(
    free: Tensor,
    count: Tensor | int,
    generator: torch.Generator | None = None,
    units: Tensor | None = None,
    forced: Tensor | None = None,
) -> Tensor:
    """Chooses a given number of positions, as MAE and ARL do; units that are too long for what is left are skipped.

    Args:
        free: (B, T) bool, positions that may be chosen.
        count: (B,) int64 or a number for all rows: how many; a row with fewer free positions gives all of them.
        generator: of random numbers.
        units: as for `choose`. ARL takes whole units in random order while they fit.
        forced: (B, T) bool, units to be considered ahead of all others, where free.

    Returns:
        (B, T) bool.
    """
    drawn = _draws(free, generator, units, forced)
    left = torch.as_tensor(count, device=free.device).expand(len(free)).clone()  # (B,)
    if units is None:
        ranks = drawn.argsort(1).argsort(1)  # 0 for the smallest of a row
        return (ranks < left[:, None]) & free
    chosen = torch.zeros_like(free)
    for value in drawn.sort(1).values.unbind(1):  # (B,), ever the next unit of each row; a chosen one comes again
        unit = (drawn == value[:, None]) & free & ~chosen
        size = unit.sum(1)
        fits = size <= left
        chosen |= unit & fits[:, None]
        left -= size * fits
    return chosen


def conditional(
    text: Tensor, image: Tensor, generator: torch.Generator | None = None, share: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Masks only one modality of each sample, so that the other is whole (UNITER): a coin a sample says which.

    Args:
        text: (B, T) bool, chosen tokens.
        image: (B, R) bool, chosen regions or patches.
        generator: of random numbers.
        share: probability with which a sample keeps those of the text.

    Returns:
        Both masks, in each row of which one is empty.
    """
    keeps_text = torch.rand(len(text), 1, generator=generator, device=text.device) < share
    return text & keeps_text, image & ~keeps_text


# ---- what stands there instead


def replace_tokens(
    ids: Tensor,
    chosen: Tensor,
    mask_id: int,
    vocabulary: tuple[int, int],
    generator: torch.Generator | None = None,
    shares: tuple[float, float] = BERT,
) -> Masked:
    """Replaces chosen tokens by the mask, by a random token, or not at all ("BERT", Devlin et al. 2018, section 3.1).

    Args:
        ids: (B, T) int64.
        chosen: (B, T) bool.
        mask_id: id of the mask token.
        vocabulary: random ids are from the first of these to below the second.
        generator: of random numbers.
        shares: of chosen tokens that become the mask, and that become random; the rest stay.
    """
    coin = torch.rand(ids.shape, generator=generator, device=ids.device)
    other = torch.randint(*vocabulary, ids.shape, generator=generator, device=ids.device)
    masked, random = chosen & (coin < shares[0]), chosen & (coin >= shares[0]) & (coin < sum(shares))
    inputs = torch.where(random, other, ids.masked_fill(masked, mask_id))
    return Masked(inputs, chosen, ids.masked_fill(~chosen, IGNORE))


def replace_regions(
    features: Tensor,
    chosen: Tensor,
    real: Tensor,
    generator: torch.Generator | None = None,
    shares: tuple[float, float] = (1.0, 0.0),
) -> Masked:
    """Replaces the features of chosen regions or patches by zeros, by those of another image, or not at all.

    UNITER: zeros always (its learned mask vector is added by the model). LXMERT: `shares=BERT`. Boxes stay.

    Args:
        features: (B, R, D).
        chosen: (B, R) bool.
        real: (B, R) bool, True where a region is not padding.
        generator: of random numbers.
        shares: of chosen regions that become zero, and that become a random region of another image of the batch
            (zero where no other image has any); the rest stay.
    """
    size, regions = chosen.shape
    coin = torch.rand(chosen.shape, generator=generator, device=features.device)
    zero, random = chosen & (coin < shares[0]), chosen & (coin >= shares[0]) & (coin < sum(shares))
    inputs = features.masked_fill(zero[..., None], 0)
    if shares[1]:
        pool = (
            real[None].expand(size, size, regions) & ~torch.eye(size, dtype=torch.bool, device=real.device)[..., None]
        )
        pool = pool.flatten(1).float()  # (B, B * R): for each image the regions of all others
        some = pool.sum(1, keepdim=True) > 0
        index = torch.multinomial(torch.where(some, pool, 1.0), regions, replacement=True, generator=generator)
        other = features.flatten(0, 1)[index] * some[..., None]  # (B, R, D)
        inputs = torch.where(random[..., None], other, inputs)
    return Masked(inputs, chosen, features)


class Kept(NamedTuple):
    """What is left of the patches of pictures when some are taken away (MAE, He et al. 2021).

    tokens: (B, K, D), the patches that stay, in random order.
    chosen: (B, P) bool, True where a patch was taken away, in the order of the picture.
    restore: (B, P) int64: `torch.cat([tokens, fillers], 1).gather(1, restore)` is in the order of the picture.
    """

    tokens: Tensor
    chosen: Tensor
    restore: Tensor

    def fill(self, tokens: Tensor, filler: Tensor) -> Tensor:
        """(B, K, E) tokens made of those that stayed, and a filler (E,) -> (B, P, E), in the order of the picture."""
        lacking = self.restore.shape[1] - tokens.shape[1]
        whole = torch.cat([tokens, filler.to(tokens.dtype).expand(len(tokens), lacking, -1)], dim=1)
        return whole.gather(1, self.restore[..., None].expand(-1, -1, whole.shape[-1]))


def take_away(patches: Tensor, share: float, generator: torch.Generator | None = None) -> Kept:
    """Takes a share of the patches away: (B, P, D) -> int(P (1 - share)) random patches of each picture."""
    count = int(patches.shape[1] * (1 - share))
    shuffled = torch.rand(patches.shape[:2], generator=generator, device=patches.device).argsort(1)  # (B, P)
    restore = shuffled.argsort(1)
    tokens = patches.gather(1, shuffled[:, :count, None].expand(-1, -1, patches.shape[2]))
    return Kept(tokens, restore >= count, restore)


# ---- who sees whom, and the loss


def causal_mask(real: Tensor, prompt: Tensor | None = None) -> Tensor:
    """Which token may see which when masked words are guessed from those before them only (UniLM, VALOR's captions).

    Args:
        real: (B, T) bool, tokens that are not padding.
        prompt: (B, T) bool, tokens that all may see and that see only each other; None has none.

    Returns:
        (B, 1, T, T) bool, True where a query may see a key; padding sees itself.
    """
    length = real.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    seen = past & real[:, None, :]  # (B, T, T)
    if prompt is not None:
        prompt = prompt & real
        seen = torch.where(prompt[:, :, None], prompt[:, None, :], seen | prompt[:, None, :])
    return (seen | torch.eye(length, dtype=torch.bool, device=real.device))[:, None]


def labelled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the positions that have a label; 0, with zero gradients, where none has.

    Args:
        logits: (..., V), computed with in float32.
        labels: (...) int64, IGNORE where there is none.

    Returns:
        Scalar, in nats.
    """
    total = F.cross_entropy(exact(logits).flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def _draws(free: Tensor, generator: torch.Generator | None, units: Tensor | None, forced: Tensor | None) -> Tensor:
    """(B, T): a number a unit, in [0, 1), in [-2, -1) where it is forced, 2 where it is not free."""
    drawn = torch.rand(free.shape, generator=generator, device=free.device)
    forced = torch.zeros_like(free) if forced is None else forced & free
    if units is not None:
        together = units[:, :, None] == units[:, None, :]  # (B, T, T)
        drawn = drawn.gather(1, together.long().argmax(2))  # the number of the first of each unit
        forced = (together & forced[:, None, :]).any(2)
    return (drawn - 2.0 * forced).masked_fill(~free, 2.0)
