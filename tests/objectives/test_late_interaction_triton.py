"""The Triton kernels of late interaction: on CUDA where there is a device, else through Triton's interpreter.

The interpreter is chosen when Triton is imported, so that the tests run in a process of their own, together with all
tests of the tiled form, in whose place the kernels then stand.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from objective_helpers import leaf, unit
from torch.testing import assert_close

from diptych.objectives import tiled

pytest.importorskip("triton", reason="triton is not installed (the extra [triton]; `make test-triton` does both)")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PLACE = "cuda" if torch.cuda.is_available() else "cpu"
here = pytest.mark.skipif(not INTERPRETED and PLACE == "cpu", reason="runs in the process of the interpreter")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="is running")
def test_the_tests_of_the_tiled_form_pass_with_the_kernels_in_its_place() -> None:
    folder = Path(__file__).parent
    files = [str(folder / "test_late_interaction.py"), __file__]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *files, "-m", "not slow", "-k", "not never_holds"],  # it copies buffers
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture
def kernels(monkeypatch):
    """The kernels, with a count of how often they are called."""
    from diptych.objectives import late_interaction_triton

    calls = []
    inner = late_interaction_triton.max_mean
    monkeypatch.setattr(late_interaction_triton, "max_mean", lambda *args: calls.append(1) or inner(*args))
    return calls


def both_ways(shape: tuple[int, ...], two_sided: bool, dtype=torch.float32, fused: bool = True) -> list[torch.Tensor]:
    """Results and gradients for Q samples of nq tokens and K of nk, of width D, with pads of weight 0."""
    queries, nq, keys, nk, width = shape
    query, key = (
        leaf(unit(count, tokens, width, seed=seed).to(PLACE, dtype))
        for count, tokens, seed in ((queries, nq, 1), (keys, nk, 2))
    )
    generator = torch.Generator().manual_seed(3)
    weights = [torch.rand(side.shape[:2], generator=generator).to(PLACE) for side in (query, key)]
    weights[0][:1, nq // 2 + 1 :] = 0
    given = query, weights[0], key, weights[1] if two_sided else None
    if fused:
        forth, back = tiled.max_mean(*given, tile=2)
    else:
        wide = [None if x is None else x.float() for x in given]
        forth, back = tiled._MaxMean.apply(*wide, 2)
    loss = (forth * torch.arange(1, forth.numel() + 1, device=PLACE).view_as(forth)).sum()
    results = [forth.detach()]
    if two_sided:
        loss, results = loss + back.sin().sum(), [*results, back.detach()]
    loss.backward()
    return [*results, query.grad, key.grad]


SHAPES = [
    (3, 5, 4, 8, 16),  # the shorter side first
    (4, 8, 3, 5, 16),
    (2, 130, 3, 17, 7),  # several blocks of tokens, the last one cut
    (2, 17, 2, 70, 65),  # a second block of the width of one number
    (3, 1, 2, 1, 1),
    (1, 64, 1, 64, 64),  # whole blocks
]


@here
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_the_tiled_form_at_any_size(shape, two_sided, kernels) -> None:
    for mine, expected in zip(both_ways(shape, two_sided), both_ways(shape, two_sided, fused=False), strict=True):
        assert_close(mine, expected, atol=2e-5, rtol=2e-5)
    assert kernels == [1]


@here
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_bf16_tokens_are_summed_in_float32(shape, kernels) -> None:
    mine, expected = (both_ways(shape, True, torch.bfloat16, fused=fused) for fused in (True, False))
    for one, other in zip(mine[:2], expected[:2], strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other)
    for one, other in zip(mine[2:], expected[2:], strict=True):
        assert one.dtype == torch.bfloat16
        assert_close(one, other)  # both rounded once, at the end
    assert kernels == [1]


@here
def test_of_equal_cosines_the_first_wins_as_in_the_tiled_form(kernels) -> None:
    query = torch.ones(1, 3, 4, device=PLACE).requires_grad_()
    key = torch.ones(1, 2, 4, device=PLACE).requires_grad_()
    weight = torch.ones(1, 3, device=PLACE)
    forth, _ = tiled.max_mean(query, weight, key, None, tile=1)
    forth.sum().backward()
    assert key.grad.sum(2).tolist() == [[12.0, 0.0]]


@here
@pytest.mark.parametrize("shape", [(2, 130, 2, 129, 4), (0, 3, 2, 3, 4)])
def test_what_does_not_fit_goes_to_the_tiled_form(shape, kernels) -> None:
    for mine, expected in zip(both_ways(shape, False), both_ways(shape, False, fused=False), strict=True):
        assert torch.equal(mine, expected)
    assert kernels == []


@here
def test_without_gradient_no_winners_are_kept(kernels) -> None:
    with torch.no_grad():
        query, key = unit(2, 3, 4, seed=1).to(PLACE), unit(3, 5, 4, seed=2).to(PLACE)
        forth, _ = tiled.max_mean(query, torch.ones(2, 3, device=PLACE), key, None, tile=1)
    assert_close(forth, torch.einsum("iqd,jkd->ijqk", query, key).amax(3).sum(2))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("tokens", ["*fp32", "*bf16"])
@pytest.mark.parametrize("shorter", [32, 128])
def test_kernels_compile_for_a_gpu_that_is_not_here(tokens, shorter) -> None:
    """Down to machine code for compute capability 8.0, and into the shared memory that every such device has."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from diptych.objectives import late_interaction_triton as kernels

    two, sizes, fixed = ("*fp32", "*fp32"), ("i32",) * 5, {"wanted": (True, True), "blocks": (64, shorter, 64)}
    more = {"winners": ("*i16", "*i16"), "weights": two, "grads": two, "sizes": sizes}
    for kernel, signature, constants in (
        (
            kernels._forward,
            {"tokens": (tokens, tokens), "weights": two, "sums": two, "winners": ("*i16", "*i16"), "sizes": sizes},
            {"wanted": (True, True), "keep": True, "blocks": fixed["blocks"]},
        ),
        (kernels._long_grad, {"into": tokens, "short": tokens, **more}, fixed),
        (kernels._short_grad, {"into": tokens, "long": tokens, **more}, fixed),
    ):
        names = [*signature, *constants]
        source = ASTSource(
            kernel,
            {**signature, **dict.fromkeys(constants, "constexpr")},
            constexprs={(names.index(name),): value for name, value in constants.items()},
        )
        compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
        assert compiled.asm["cubin"]
        assert compiled.metadata.shared <= 99 * 1024
