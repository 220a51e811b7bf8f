"""Image-text matching (ITM): which pairs are scored, matched and not, and the loss of telling them apart.

A `Pairs` says which image goes with which text by their indices, so any fusion encoder can be run on it:

    pairs = hard_pairs(image_to_text, text_to_image)                # from the similarities of the contrastive loss
    fused = self.fuse(image.take(pairs.image), text.take(pairs.text))
    loss = matching_loss(self.match(fused.pooled), pairs.matched)

Negatives are drawn from what this process holds: its own batch, and queues, which are the same everywhere. Indices of
a queue's rows come after those of the batch. Random numbers come from `generator`, or without one from torch's own.

Letters: B pairs of this process, C = B + rows of a queue, N pairs to be scored, D width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.contrastive import exact


class Pairs(NamedTuple):
    """Pairs to be scored.

    image: (N,) int64, index of the image of each pair.
    text: (N,) int64, index of its text.
    matched: (N,) bool, True where they belong together.
    """

    image: Tensor
    text: Tensor
    matched: Tensor


Side = Literal["image", "text"]


def random_pairs(
    size: int,
    device: torch.device | str,
    replace: Side = "image",
    share: float = 0.5,
    balanced: bool = False,
    generator: torch.Generator | None = None,
) -> Pairs:
    """One pair a sample; in some, one side is that of another sample, drawn uniformly.

    UNITER and M3AE replace the image, LXMERT the sentence. With B = 2 the other sample is the only choice; with B = 1
    there is none, and the pair stays matched.

    Args:
        size: B.
        device: where the indices are to be.
        replace: the side that is replaced.
        share: probability with which it is.
        balanced: exactly floor(B (1 - share)) pairs stay matched, in random order (M3AE), instead of a coin a pair.
        generator: of random numbers.

    Returns:
        N = B pairs, pair i with the kept side of sample i.
    """
    own = torch.arange(size, device=device)
    drawn = torch.rand(size, generator=generator, device=device)
    step = torch.randint(1, max(size, 2), (size,), generator=generator, device=device)
    unmatched = drawn.argsort().argsort() >= int(size * (1 - share)) if balanced else drawn < share
    matched = ~unmatched | (size < 2)
    other = torch.where(matched, own, (own + step) % max(size, 1))
    return Pairs(other, own, matched) if replace == "image" else Pairs(own, other, matched)


def hard_pairs(
    image_to_text: Tensor,
    text_to_image: Tensor,
    positives: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Pairs:
    """The matched pairs, for each text a hard image and for each image a hard text (ALBEF, FIBER, ALPRO).

    A negative is drawn with the softmax of the similarity over all that is not a positive. No gradient flows.

    Args:
        image_to_text: (B, C) logits of each image of this process with its texts, queue rows last.
        text_to_image: (B, C') logits of each text with the images, queue rows last.
        positives: two bool matrices of these shapes, True where a pair belongs together and is no negative, such as
            other captions of the same picture; None: the same index, and no others.
        generator: of random numbers.

    Returns:
        N = 3B pairs: B matched, then B texts with another image, then B images with another text. An image or text
        that has no negative at all (B = 1 without a queue) gets none, and N is smaller.
    """
    own = torch.arange(len(image_to_text), device=image_to_text.device)
    image_positives, text_positives = (None, None) if positives is None else positives
    other_image, has_image = hard_negatives(text_to_image, text_positives, generator)
    other_text, has_text = hard_negatives(image_to_text, image_positives, generator)
    image = torch.cat([own, other_image[has_image], own[has_text]])
    text = torch.cat([own, own[has_image], other_text[has_text]])
    return Pairs(image, text, torch.arange(len(image), device=own.device) < len(own))


def hard_negatives(
    similarity: Tensor, positives: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """For each row a column that is no positive, drawn with the softmax of its similarity.

    Args:
        similarity: (B, C) logits, already scaled.
        positives: (B, C) bool, or None for the diagonal.
        generator: of random numbers.

    Returns:
        (B,) int64 columns, and (B,) bool, True where the row has any negative.
    """
    with torch.no_grad():
        if positives is None:
            positives = torch.eye(*similarity.shape, dtype=torch.bool, device=similarity.device)
        found = ~positives.all(1)
        logits = exact(similarity).masked_fill(positives & found[:, None], -torch.inf)
        return torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0], found


def given_pairs(present: Tensor, replace: Side = "text") -> Pairs:
    """The matched pairs, and each sample with a negative of its own that came with the data (a foiled caption, say).

    Args:
        present: (B,) bool, True where a sample has such a negative.
        replace: the side that the negatives are of. They are indexed as B + i: hand the fusion encoder the batch's
            texts with the B negatives behind them.

    Returns:
        N = B + present pairs, the matched ones first.
    """
    own = torch.arange(len(present), device=present.device)
    kept, other = torch.cat([own, own[present]]), torch.cat([own, own[present] + len(own)])
    matched = torch.arange(len(kept), device=own.device) < len(own)
    return Pairs(kept, other, matched) if replace == "text" else Pairs(other, kept, matched)


def random_others(
    size: int, count: int, device: torch.device | str, generator: torch.Generator | None = None
) -> Tensor:
    """For each sample other ones, each as likely as any and none twice.

    Args:
        size: B.
        count: N, how many; where a batch has fewer others, all of them.
        device: where the indices are to be.
        generator: of random numbers.

    Returns:
        (B, N) int64.
    """
    drawn = torch.rand(size, size, generator=generator, device=device).fill_diagonal_(2.0)
    return drawn.argsort(1)[:, : min(count, size - 1)]


def triplet_loss(matched: Tensor, others: Tensor, margin: float = 0.2) -> Tensor:
    """How much the scores of others come closer than a margin to the matched pair's; scores are sigmoids (UNITER).

    Args:
        matched: (B,) logits of the matched pairs.
        others: (B, N) logits of pairs with another image or another text.
        margin: in shares of 1.

    Returns:
        Scalar, mean over all others; 0 with zero gradients where there are none.
    """
    gap = margin + exact(others).sigmoid() - exact(matched).sigmoid()[:, None]
    return gap.clamp(min=0).sum() / max(gap.numel(), 1)


def matching_loss(logits: Tensor, matched: Tensor) -> Tensor:
    """Cross-entropy of two classes, the second of which is "matched", as in BERT-like models that are published.

    Args:
        logits: (N, 2).
        matched: (N,) bool.

    Returns:
        Scalar, in nats.
    """
    return F.cross_entropy(exact(logits), matched.long())


def matching_score(logits: Tensor) -> Tensor:
    """(..., 2) logits -> (...): log-odds that a pair is matched, by which pairs are ranked; it never saturates."""
    return logits[..., 1] - logits[..., 0]
