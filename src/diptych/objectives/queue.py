"""Contrast with a queue of features of earlier batches (MoCo; ALBEF, FIBER, HiTeA).

    keys = image.detach(), text.detach()                          # FIBER; ALBEF takes them from momentum towers
    loss = queue_info_nce(image, text, scale, keys, (self.images.filled, self.texts.filled), step.gather)
    self.images.push(keys[0], step.gather)
    self.texts.push(keys[1], step.gather)

Letters: B pairs of this process, C = world * B, Q rows of the queue that are filled, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.batch import Gather
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
