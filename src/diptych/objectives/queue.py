"""Contrast with a queue of features of earlier batches (MoCo; ALBEF, FIBER, HiTeA).

    keys = image.detach(), text.detach()                          # FIBER; ALBEF takes them from momentum towers
    loss = queue_info_nce(image, text, scale, keys, (self.images.filled, self.texts.filled), step.gather)
    self.images.push(keys[0], step.gather)
    self.texts.push(keys[1], step.gather)

Letters: B pairs of this process, C = world * B, Q rows of the queue that are filled, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Batch, Features, Gather
from diptych.objectives.contrastive import ALONE, exact, info_nce_from_logits, precise


class Queue(nn.Module):
    """The last `size` rows that were pushed, in buffers that are saved with the weights; no gradient flows into them.

    Rows that were never filled are never handed out, so a young queue is a short one. With several processes all hold
    the same rows, as each pushes those of all. Queues that are pushed together stay in step, row by row.

    Args:
        size: rows that are kept.
        shape: of one row: a width, or none for ids.
        dtype: of the rows.
    """

    rows: Tensor
    pushed: Tensor

    def __init__(self, size: int, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, *shape, dtype=dtype))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> Tensor:
        """(Q, ...), a copy of the rows that are filled, so that a later push does not disturb a backward pass."""
        return self.rows[: int(self.pushed)].clone()

    @torch.no_grad()
    def push(self, x: Tensor, gather: Gather = ALONE) -> None:
        """Puts (B, ...) of each process in place of the oldest rows; of more rows than there is room for, the last.

        Call it in training only, after `filled` was read for the loss.
        """
        x = gather(x.detach()).to(self.rows.dtype)
        start = int(self.pushed) + max(0, len(x) - len(self.rows))
        x = x[-len(self.rows) :]
        where = (start + torch.arange(len(x), device=x.device)) % len(self.rows)
        self.rows[where] = x
        self.pushed.fill_(start + len(x))


class PairQueue(nn.Module):
    """Features of earlier pairs of images and texts, and the newest of these pairs themselves.

    Hard negatives are drawn by the features, and then have to be encoded with their partner, so what they are made of
    is needed: FIBER keeps that of all 4,096 pairs, 7 GB of pictures of 384 pixels; here only `kept` are.

    Args:
        size: pairs whose features are kept.
        width: of the features.
        kept: pairs that are kept themselves, at most `size`.
        side: of their pictures, in pixels.
        context: longest text.
        noise: the features begin as noise of norm sqrt(width) that counts, as in FIBER's code; else as an empty queue.
    """

    def __init__(self, size: int, width: int, kept: int, side: int, context: int, noise: bool = False) -> None:
        super().__init__()
        kept = min(kept, size)
        self.image, self.text = Queue(size, width), Queue(size, width)
        self.pictures = Queue(kept, 3, side, side, dtype=torch.uint8)
        self.ids = Queue(kept, context, dtype=torch.int64)
        self.masks = Queue(kept, context, dtype=torch.bool)
        for queue in (self.image, self.text) if noise else ():
            queue.rows.normal_()
            queue.pushed.fill_(size)

    def push(self, image: Tensor, text: Tensor, batch: Batch, gather: Gather = ALONE) -> None:
        """Takes in the features (B, D) of a batch, and its `image`, `text` and `text_mask`."""
        self.image.push(image, gather)
        self.text.push(text, gather)
        room = self.ids.rows.shape[1] - batch.text.shape[1]  # texts of all processes have one length
        rows = (batch.image, F.pad(batch.text, (0, room)), F.pad(batch.text_mask, (0, room)))
        for queue, row in zip((self.pictures, self.ids, self.masks), rows, strict=True):
            if len(queue.rows):
                queue.push(row, gather)

    def at_hand(self, logits: Tensor, gather: Gather = ALONE) -> Tensor:
        """(B, C + Q) logits -> (B, B + S): of this process's own pairs, and of those that are kept."""
        return torch.cat([own_columns(logits, gather), logits[:, gather.world * len(logits) + self.columns()]], dim=1)

    def columns(self) -> Tensor:
        """(S,) int64, at which rows of the features those of the S pairs are that are kept."""
        kept, pushed = len(self.pictures.rows), int(self.pictures.pushed)
        rows = torch.arange(min(kept, pushed), device=self.pictures.rows.device)
        return (pushed - 1 - (pushed - 1 - rows) % max(kept, 1)) % len(self.image.rows)

    def take(self, own: Features, rows: Tensor, encode: Callable[[Batch], Features]) -> Features:
        """Rows of a batch's features; those from B on are kept pairs, by their index, which `encode` is called for."""
        size = len(own.tokens)
        old = rows >= size
        if not bool(old.any()):
            return own.take(rows)
        kept = (self.pictures, self.ids, self.masks)
        named = zip(("image", "text", "text_mask"), kept, strict=True)
        more = encode(Batch({name: queue.rows[rows[old] - size] for name, queue in named}))
        length = max(own.tokens.shape[1], more.tokens.shape[1])
        tokens = [F.pad(one.tokens, (0, 0, 0, length - one.tokens.shape[1])) for one in (own, more)]
        mask = [F.pad(one.mask, (0, length - one.mask.shape[1])) for one in (own, more)]
        both = Features(torch.cat(tokens), torch.cat([own.pooled, more.pooled]), torch.cat(mask))
        return both.take(torch.where(old, size - 1 + old.cumsum(0), rows))


def own_columns(logits: Tensor, gather: Gather = ALONE) -> Tensor:
    """(B, C + Q) logits -> (B, B): of the keys of this process."""
    return logits[:, gather.rank * len(logits) :][:, : len(logits)]


def queue_info_nce(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    keys: tuple[Tensor, Tensor],
    queues: tuple[Tensor, Tensor],
    gather: Gather = ALONE,
    targets: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Symmetric InfoNCE of this process's images and texts against the keys of all processes and a queue.

    With keys that are the features themselves and an empty queue it is `contrastive.info_nce`; with keys that are
    detached it is so in value, and half of the gradient is gone (FIBER).

    Args:
        image: (B, D), L2-normalised.
        text: (B, D), L2-normalised.
        scale: scalar by which cosines are multiplied, 1 / tau.
        keys: images and texts (B, D) to be compared with: detached features, or those of momentum towers.
        queues: images and texts (Q, D), `Queue.filled`; (0, D) at first.
        gather: brings the keys of all processes.
        targets: how much each image is to match each text, (B, C + Q), and each text each image (ALBEF's soft targets);
            None: the key of the same index, and no others.

    Returns:
        Scalar, in nats.
    """
    logits = queue_logits(image, text, scale, keys, queues, gather)
    return info_nce_from_logits(*logits, targets, gather.rank * len(image))


def queue_logits(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    keys: tuple[Tensor, Tensor],
    queues: tuple[Tensor, Tensor],
    gather: Gather = ALONE,
) -> tuple[Tensor, Tensor]:
    """Images against texts and texts against images, two of (B, C + Q), own keys at columns rank * B and on.

    For arguments see `queue_info_nce`. `matching.hard_pairs` draws its negatives from these.
    """
    with precise(image):
        images, texts = (
            torch.cat([gather(exact(key)), exact(queue)]) for key, queue in zip(keys, queues, strict=True)
        )  # (C + Q, D)
        return scale * exact(image) @ texts.T, scale * exact(text) @ images.T
