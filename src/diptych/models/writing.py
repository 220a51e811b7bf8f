"""Writing token by token, for a model that scores the next one: the best by beam search, or drawn at random.

Letters: B texts, K beams of each, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.captioning import best_captions


@dataclass(frozen=True)
class WritingConfig:
    """Options of writing."""

    beams: int = 5
    """captions that are followed at a time when one is written"""
    longest: int = 50
    """tokens of the longest caption that is written"""
    tries: int = 5
    """captions of each picture that are drawn and rewarded in the task cider"""


NextWord = Callable[[Tensor, Tensor], Tensor]
"""`next_word(ids, rows)`: tokens so far (N, T) and of which of the B texts they are (N,) -> logits (N, V)."""


def beam_search(next_word: NextWord, starts: Tensor, end: int, beams: int, longest: int) -> Tensor:
    """The likeliest text by the mean log probability of its tokens, of those that beams find.

    Args:
        next_word: as above.
        starts: (B,) first tokens.
        end: the token that ends a text; behind it there is nothing but it.
        beams: K.
        longest: T, the first token included.

    Returns:
        (B, T) ids.
    """
    size, device = len(starts), starts.device
    ids = starts[:, None, None].expand(size, beams, 1)
    scores = torch.zeros(size, beams, device=device)
    scores[:, 1:] = -torch.inf  # all beams begin alike: one of them goes on
    lengths = torch.zeros(size, beams, dtype=torch.long, device=device)
    over = torch.zeros(size, beams, dtype=torch.bool, device=device)
    rows = torch.arange(size, device=device)
    for _ in range(longest - 1):
        if bool(over.all()):
            break
        chances = next_word(ids.flatten(0, 1), rows.repeat_interleave(beams)).float().log_softmax(-1)
        chances = chances.view(size, beams, -1)
        still = torch.full_like(chances[0, 0], -torch.inf).index_fill(0, torch.tensor([end], device=device), 0.0)
        total = scores[..., None] + torch.where(over[..., None], still, chances)  # (B, K, V)
        grown = (lengths + ~over)[..., None]
        order = (total / grown.clamp(min=1)).flatten(1).topk(beams, dim=1).indices  # by means, as the last choice is
        beam, word = order // total.shape[-1], order % total.shape[-1]
        ids = torch.cat([ids.gather(1, beam[..., None].expand_as(ids)), word[..., None]], dim=-1)
        scores = total.flatten(1).gather(1, order)
        lengths = grown.squeeze(-1).gather(1, beam)
        over = over.gather(1, beam) | (word == end)
    return best_captions(F.pad(ids, (0, longest - ids.shape[-1]), value=end), scores, lengths)


def draw(next_word: NextWord, starts: Tensor, end: int, count: int, longest: int) -> Tensor:
    """`count` texts for each of B, each token drawn by its probability: (B * count, T), those of a text together."""
    rows = torch.arange(len(starts), device=starts.device).repeat_interleave(count)
    ids = starts[rows, None]
    over = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(longest - 1):
        if bool(over.all()):
            break
        word = torch.multinomial(next_word(ids, rows).float().softmax(-1), 1)[:, 0].masked_fill(over, end)
        ids = torch.cat([ids, word[:, None]], dim=1)
        over = over | (word == end)
    return ids


def until(ids: Tensor, end: int) -> Tensor:
    """(B, T) ids -> (B, T) bool: up to the first end token behind the first position, which counts."""
    ends = (ids == end) & (torch.arange(ids.shape[1], device=ids.device) > 0)
    return (ends.long().cumsum(1) - ends.long()) == 0
