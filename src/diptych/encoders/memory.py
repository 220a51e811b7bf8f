"""Features of a frozen tower, computed once for each different input.

A tower that does not train says the same of the same picture in every epoch and at every evaluation. Where pictures
are not augmented, remembering what it said makes an epoch cost no more than the parts that do train.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from diptych.batch import Features

FEWEST = 8  # rows in a call of a tower


# a tower's weights and its device -> what it said of which input
_shared: dict[tuple[bytes, torch.device], dict[bytes, tuple[Tensor, Tensor]]] = {}


class FeatureMemory:
    """What one frozen tower returned, by the bytes of the input; towers of equal weights share it within a process.

    New inputs go through the tower in groups of one shape, texts without padding, and never fewer than `FEWEST` at a
    time: libraries have other kernels for single rows, which round differently, and features must not depend on what
    shared a batch if a resumed run is to compute what the unbroken one did. Nothing more is kept once `megabytes` are
    full.
    """

    def __init__(self, megabytes: int) -> None:
        self.limit = megabytes * 2**20
        self.kept: dict[bytes, tuple[Tensor, Tensor]] | None = None  # of the tower as it was when last called
        self.device: torch.device | None = None  # on which that was

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureMemory:
        return FeatureMemory(self.limit // 2**20)  # which finds by the tower's weights what is kept

    def __call__(self, tower: nn.Module, inputs: Tensor, mask: Tensor | None = None) -> Features:
        """The tower's features of `inputs` (B, ...); rows of text are cut to their `mask` (B, T).

        A tower that trains is simply called, and what was remembered of it is forgotten.
        """
        if self._forgets(tower):
            return tower(inputs) if mask is None else tower(inputs, mask)
        if self.kept is None or self.device != inputs.device:
            self.kept, self.device = _shared.setdefault((fingerprint(tower), inputs.device), {}), inputs.device
        rows = [row if mask is None else row[: int(mask[i].sum())] for i, row in enumerate(inputs)]
        keys = [hashlib.blake2b(row.cpu().numpy().tobytes(), digest_size=16).digest() for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self.kept}
        found = {**{key: self.kept[key] for key in keys if key in self.kept}, **_compute(tower, new)}
        room = self.limit - sum(map(_size, self.kept.values())) if new else 0
        for key in new:
            room -= _size(found[key])
            if room >= 0:
                self.kept[key] = found[key]
        tokens = pad_sequence([found[key][0] for key in keys], batch_first=True)  # (B, T, D)
        pooled = torch.stack([found[key][1] for key in keys])  # (B, D)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Features(tokens, pooled, mask[:, : tokens.shape[1]])

    def pooled(self, tower: Any, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """The pooled vectors alone, (B, D), for which a tower that trains may compute less."""
        if self._forgets(tower):
            alone: Tensor = tower.pooled(inputs) if mask is None else tower.pooled(inputs, mask)
            return alone
        return self(tower, inputs, mask).pooled

    def _forgets(self, tower: nn.Module) -> bool:
        if self.limit and not any(parameter.requires_grad for parameter in tower.parameters()):
            return False
        self.kept = None
        return True


def fingerprint(tower: nn.Module) -> bytes:
    """A hash of all weights and statistics of a tower and of what kind of tower it is."""
    digest = hashlib.blake2b(repr(tower).encode(), digest_size=16)
    for name, value in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _size(value: tuple[Tensor, Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in value)


def _compute(tower: nn.Module, new: dict[bytes, Tensor]) -> dict[bytes, tuple[Tensor, Tensor]]:
    """Tokens (T, D) and pooled (D,) of each row."""
    groups: dict[torch.Size, list[bytes]] = {}
    for key, row in new.items():
        groups.setdefault(row.shape, []).append(key)
    found = {}
    for keys in groups.values():
        rows = [new[key] for key in keys]
        rows += rows[-1:] * (FEWEST - len(rows))
        with torch.no_grad():
            features = tower(torch.stack(rows))
        for key, tokens, pooled in zip(keys, features.tokens, features.pooled, strict=False):
            found[key] = tokens.clone(), pooled.clone()  # a view would keep the whole group in memory
    return found
