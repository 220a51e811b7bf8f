"""What is never compiled: not traced, the same values, and the compiler is not imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from diptych.compiling import never_compiled
from diptych.objectives.contrastive import info_nce


@never_compiled
def summed(x: torch.Tensor, tile: int) -> torch.Tensor:
    total = x.new_zeros(())
    for start in range(0, len(x), tile):
        total = total + (2 * x[start : start + tile]).sum()
    return total


def loss(x: torch.Tensor) -> torch.Tensor:
    return summed(x.exp(), tile=1) + 1


def graphs_of(function, *inputs) -> list[int]:
    """Sizes of the graphs into which a function is compiled; it is called three times."""
    sizes: list[int] = []

    def backend(module, example):
        sizes.append(len(list(module.graph.nodes)))
        return module

    torch.compiler.reset()
    compiled = torch.compile(function, backend=backend)
    for _ in range(3):
        found = compiled(*inputs)
    assert torch.allclose(found, function(*inputs))
    return sizes


@pytest.mark.slow
def test_a_loop_is_not_unrolled_into_the_graph() -> None:
    short, long = (graphs_of(loss, torch.ones(length, 2)) for length in (2, 100))
    assert short == long


@pytest.mark.slow
def test_a_compiled_loss_in_tiles_has_the_gradient_of_the_plain_one() -> None:
    image, text = (torch.randn(24, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    gradients = []
    for tile in (0, 8):
        pair = [side.clone().requires_grad_() for side in (image, text)]

        def contrastive(a, b, tile=tile):
            return info_nce(a.tanh(), b.tanh(), torch.tensor(5.0), tile=tile)

        function = torch.compile(contrastive, backend="aot_eager") if tile else contrastive
        function(*pair).backward()
        gradients.append([side.grad for side in pair])
    for plain, tiled in zip(*gradients, strict=True):
        assert torch.allclose(plain, tiled, atol=1e-6)


def test_training_imports_neither_the_compiler_nor_what_it_does_not_use() -> None:
    """The contrastive methods (others hold a BERT of theirs), the loop and the evaluations, in a fresh process."""
    heavy = ("torch._dynamo", "torch._inductor", "transformers", "timm", "open_clip", "tensorboard", "matplotlib")
    script = f"""
import sys
from diptych import methods
from diptych.app import api
models = [methods.build(name) for name in methods.IDS if methods.card(name).family == "contrastive"]
print(sorted(set({heavy!r}) & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
