"""What each layer of a language model makes of a sequence, kept while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def recorded(trunk: nn.Module, layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Within this context, the list holds the hidden states (B, T, D) behind each layer of the last run.

    The last ones are those that the trunk returns, after its final norm, as in the `hidden_states` of transformers
    without their first entry, the embeddings.

    Args:
        trunk: returns `last_hidden_state`, as base models of transformers do.
        layers: of it, in the order in which they run; each returns its states, alone or first in a tuple.
    """
    states: list[Tensor] = []

    def begin(module: nn.Module, args: Any) -> None:
        states.clear()

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        states.append(output if isinstance(output, Tensor) else output[0])

    def end(module: nn.Module, args: Any, output: Any) -> None:
        states[-1] = output.last_hidden_state

    hooks = [trunk.register_forward_pre_hook(begin), trunk.register_forward_hook(end)]
    hooks += [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
