"""Features of a frozen tower, computed once for each different input.

A tower that does not train says the same of the same picture in every epoch and at every evaluation. Where pictures
are not augmented, remembering what it said makes an epoch cost no more than the parts that do train.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from diptych.batch import Features


class FeatureMemory:
    """What one frozen tower returned, by the bytes of the input.

    Each new input goes through the tower alone, so that its features do not depend on what shared its batch: a
    resumed run then computes what the unbroken one did. Nothing more is kept once `megabytes` are full.
    """

    def __init__(self, megabytes: int) -> None:
        self.limit = megabytes * 2**20
        self.used = 0
        self.kept: dict[bytes, tuple[Tensor, Tensor]] = {}

    def __call__(self, tower: nn.Module, inputs: Tensor, mask: Tensor | None = None) -> Features:
        """The tower's features of `inputs` (B, ...); rows of text are cut to their `mask` (B, T).

        A tower that trains is simply called, and what was remembered of it is forgotten.
        """
        if not self.limit or any(parameter.requires_grad for parameter in tower.parameters()):
            self.kept, self.used = {}, 0
            return tower(inputs) if mask is None else tower(inputs, mask)
        rows = [row if mask is None else row[: int(mask[i].sum())] for i, row in enumerate(inputs)]
        found = [self._recall(tower, row) for row in rows]
        tokens = pad_sequence([tokens for tokens, _ in found], batch_first=True)  # (B, T, D)
        pooled = torch.stack([pooled for _, pooled in found])  # (B, D)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Features(tokens, pooled, mask[:, : tokens.shape[1]])

    def _recall(self, tower: nn.Module, row: Tensor) -> tuple[Tensor, Tensor]:
        key = hashlib.blake2b(row.cpu().numpy().tobytes(), digest_size=16).digest()
        if key in self.kept:
            return self.kept[key]
        with torch.no_grad():
            features = tower(row[None])
        result = features.tokens[0].clone(), features.pooled[0].clone()
        size = sum(value.numel() * value.element_size() for value in result)
        if self.used + size <= self.limit:
            self.kept[key], self.used = result, self.used + size
        return result
