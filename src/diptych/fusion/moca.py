"""MoCa: in every layer of a language model, a scale and a shift of its own for the tokens that are seen.

Source: Huang et al., Deciphering Cross-Modal Alignment in Large Vision-Language Models with Modality Integration Rate,
arXiv 2410.07167, section 5.

Letters: B samples, T tokens, L layers, D width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MoCa(nn.Module):
    """h <- (1 - m) h + m (u_k h + v_k) behind layer k, in float32, m being 1 for visual tokens.

    It begins as the identity and has 2 D L parameters. Whoever runs the language model says first which tokens of the
    sequence are visual (`visual`); a single token, as when text is written, is left as it is.

    Args:
        layers: the L layers of the language model, which from now on return changed states.
        width: D.

    Attributes:
        scale: u (L, D).
        shift: v (L, D).
        visual: m (B, T) bool of the sequences that are run next; None: nothing is seen.
    """

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(len(layers), width))
        self.shift = nn.Parameter(torch.zeros(len(layers), width))
        self.visual: Tensor | None = None
        for index, layer in enumerate(layers):  # hooks that stay, as checkpointing runs layers again in the backward
            layer.register_forward_hook(partial(self._changed, index))

    def forward(self, states: Tensor, index: int) -> Tensor:
        """(B, T, D) behind layer `index` -> the same with its visual tokens scaled and shifted."""
        if self.visual is None or states.shape[1] == 1:
            return states
        rows = len(states) // len(self.visual)  # of beams, which repeat each sample
        visual = F.pad(self.visual, (0, states.shape[1] - self.visual.shape[1]))  # what was written since is words
        visual = visual.repeat_interleave(rows, 0)[..., None]
        changed = self.scale[index].float() * states.float() + self.shift[index].float()
        return torch.where(visual, changed.to(states.dtype), states)

    def _changed(self, index: int, layer: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return self(output, index)
        return (self(output[0], index), *output[1:])
