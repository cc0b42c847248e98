"""relpos_attention against segment_anything's own blocks, against its formula in float64, and in its gradients."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from medseg_kernels import relpos_attention
from medseg_kernels.relpos_attention import relpos_attention_reference
from segment_anything.modeling.image_encoder import Attention, window_partition, window_unpartition
from tolerances import TOLERANCE
from torch import Tensor

CASES = [
    # grid, window, head dimension
    ((16, 16), 14, 64),
    ((64, 64), 14, 12),
    ((28, 28), 14, 80),
    ((15, 9), 4, 12),
    ((3, 5), 7, 12),
    ((32, 32), 0, 64),
    ((16, 16), 0, 80),
    ((7, 11), 0, 12),
    ((1, 1), 0, 12),
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def upstream(grid: tuple[int, int], window: int, d: int, heads: int = 2) -> Attention:
    """segment_anything's attention with weights that make its softmax sharp and its biases matter."""
    size = (window, window) if window else grid
    attention = Attention(heads * d, heads, use_rel_pos=True, input_size=size).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=1.0 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5 * 2)
    attention.proj = torch.nn.Identity()
    return attention


def expected(attention: Attention, x: Tensor, window: int) -> Tensor:
    """What a block of segment_anything does between its first LayerNorm and the output projection."""
    if not window:
        return attention(x)
    windows, padded = window_partition(x, window)
    return window_unpartition(attention(windows), window, padded, (x.shape[1], x.shape[2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("grid", "window", "d"), CASES)
def test_the_op_is_what_segment_anything_computes(
    grid: tuple[int, int], window: int, d: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = upstream(grid, window, d)
    x = torch.randn(2, *grid, attention.qkv.in_features, dtype=torch.float64)
    with torch.inference_mode():
        qkv = attention.qkv(x).to(dtype)
        tables = (attention.rel_pos_h, attention.rel_pos_w)
        # Only what the op itself rounds is to be judged: both start from the same rounded q, k, v and padding.
        pad = attention.qkv.bias.to(dtype)
        exact = relpos_attention_reference(qkv.double(), tables, pad.double(), 2, window)
        if dtype == torch.float32:
            assert distance(exact, expected(attention, x, window)) < 2e-6
        tables = (tables[0].to(dtype).float(), tables[1].to(dtype).float())
        result = relpos_attention(qkv, tables, pad, 2, window)
        assert result.dtype == dtype
        assert distance(result, exact) < TOLERANCE[dtype][2]
        monkeypatch.setenv("MEDSEG_KERNELS", "reference")
        assert distance(relpos_attention(qkv, tables, pad, 2, window), exact) < TOLERANCE[dtype][2]


def distance(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("add_from", [0, 10**9])
@pytest.mark.parametrize("block_bytes", [1, 5000])
@pytest.mark.parametrize("case", [((15, 9), 4, 12), ((7, 11), 0, 12)])
def test_blocks_of_any_size_give_the_same(
    case: tuple[tuple[int, int], int, int], block_bytes: int, add_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, window, d = case
    module = import_module("medseg_kernels.relpos_windows")
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(module, "ADD_FROM", add_from)
    qkv, tables, pad = drawn(grid, window, d)
    exact = relpos_attention_reference(qkv, tables, pad, 2, window)
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            result = relpos_attention(qkv.to(dtype), tables, pad.to(dtype), 2, window)
            assert distance(result, exact) < 3 * TOLERANCE[dtype][2]  # the inputs are rounded too


@pytest.mark.parametrize("case", [((5, 6), 4, 12), ((8, 4), 4, 16), ((3, 5), 0, 12)])
def test_gradients_are_those_of_the_formula(case: tuple[tuple[int, int], int, int]) -> None:
    grid, window, d = case
    qkv, tables, pad = drawn(grid, window, d)
    inputs = [qkv, *tables, pad]
    weights = torch.randn(2, *grid, 2 * d, dtype=torch.float64)
    results = []
    for op, dtype in ((relpos_attention_reference, torch.float64), (relpos_attention, torch.float32)):
        leaves = [part.detach().clone().to(dtype).requires_grad_() for part in inputs]
        (op(leaves[0], (leaves[1], leaves[2]), leaves[3], 2, window) * weights.to(dtype)).sum().backward()
        results.append([leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves])
    for exact, gradient in zip(*results, strict=True):
        assert (gradient.double() - exact).norm() <= 1e-5 * exact.norm()


def test_the_formula_has_the_gradients_of_finite_differences() -> None:
    qkv = torch.randn(1, 3, 2, 12, dtype=torch.float64, requires_grad=True)
    tables = [torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    pad = torch.randn(12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b, c, e: relpos_attention_reference(a, (b, c), e, 2, 2), (qkv, *tables, pad)
    )


def test_padding_counts_also_where_the_projection_has_no_bias() -> None:
    qkv, tables, _ = drawn((5, 6), 4, 12)
    zeros = torch.zeros(qkv.shape[-1], dtype=torch.float64)
    exact = relpos_attention_reference(qkv, tables, zeros, 2, 4)
    assert torch.equal(relpos_attention(qkv, tables, None, 2, 4), exact)
    assert distance(relpos_attention(qkv.float(), tables, None, 2, 4), exact) < 2e-6


def test_an_empty_batch_is_no_error() -> None:
    qkv, tables, pad = drawn((5, 6), 4, 12)
    for window, fitting in ((4, tables), (0, drawn((5, 6), 0, 12)[1])):
        assert relpos_attention(qkv[:0].float(), fitting, pad.float(), 2, window).shape == (0, 5, 6, 24)


def test_misfits_are_refused_with_the_numbers() -> None:
    qkv, tables, pad = drawn((5, 6), 4, 12)
    with pytest.raises(ValueError, match=r"must have \[9, 11\] rows, got \[7, 7\]"):
        relpos_attention(qkv, tables, pad, 2, 0)
    with pytest.raises(ValueError, match="72 channels are not q, k and v of 5 heads"):
        relpos_attention(qkv, tables, pad, 5, 4)


@pytest.mark.parametrize(
    ("batch", "grid", "heads", "d", "window", "taken"),
    [
        (8, 64, 12, 64, 14, True),
        (8, 64, 16, 80, 0, True),
        (8, 64, 16, 96, 0, False),
        (8, 65, 16, 80, 0, False),
        (0, 64, 12, 64, 14, False),
        (227, 64, 12, 64, 0, True),
        (228, 64, 12, 64, 0, False),
        # Windows, times heads: 1365 * 4 * 12 are 65520.
        (1365, 16, 12, 64, 14, True),
        (1366, 16, 12, 64, 14, False),
        # 2**31 biases where qkv has 36 / 64 as many numbers.
        (2730, 64, 3, 12, 0, True),
        (2731, 64, 3, 12, 0, False),
    ],
)
def test_what_the_kernels_take(batch: int, grid: int, heads: int, d: int, window: int, taken: bool) -> None:
    module = import_module("medseg_kernels.relpos_attention")
    assert module.fits(torch.empty(batch, grid, grid, 3 * heads * d, device="meta"), heads, window) == taken


def drawn(grid: tuple[int, int], window: int, d: int) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """qkv of two images with two heads, tables and padding, in float64."""
    h, w = (window, window) if window else grid
    tables = [torch.randn(2 * size - 1, d, dtype=torch.float64) * 0.3 for size in (h, w)]
    pad = torch.randn(6 * d, dtype=torch.float64)
    return torch.randn(2, *grid, 6 * d, dtype=torch.float64), (tables[0], tables[1]), pad
