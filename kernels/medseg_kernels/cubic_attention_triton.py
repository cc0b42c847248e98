"""`window_attention` in Triton as operators with gradients; imported only where they run.

PyTorch multiplies the queries with all rows of all tables, so that these gradients need no kernel. Everything else of
forward and backward pass is in `cubic_attention_kernels`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from medseg_kernels.cubic_attention_kernels import dkv_kernel, dq_kernel, forward_kernel
from medseg_kernels.dispatch import INTERPRETED

TILES = {
    "forward": {2: (64, 4), 4: (32, 8)},
    "dq": {2: (64, 8), 4: (32, 8)},
    "dkv": {2: (32, 4), 4: (32, 8)},
}
"""Kernel → bytes of a number → queries in a block, warps; keys in a block are one plane of a window.

For sm_90 none of these keeps registers in memory, for sm_80 one kernel does, some bytes (tests/compile_cubic.py).
Heads and edge are compile-time values because addresses then need far fewer registers.
"""
STAGES = 2


@torch.library.custom_op("medseg::window_attention", mutates_args=())
def forward(qkv: Tensor, products: Tensor, sides: Tensor | None, edge: int) -> tuple[Tensor, Tensor]:
    """Attention given the products with the tables.

    Args:
        qkv: (N, edge³, 3, heads, d), contiguous.
        products: (N, edge³, heads, 3 * (2 * edge - 1)) float32, contiguous: of each query with the rows of the three
            tables, each in reverse; row r is for keys r - (edge - 1) places further on the axis.
        sides: (N, edge³) whole numbers, contiguous, or None; tokens of different sides hardly see each other.
        edge: of a window in tokens.

    Returns:
        (N, edge³, heads, d) in qkv's dtype, and the logarithm of the softmax's sum, (N, edge³, heads) float32.
    """
    count, tokens, _, heads, d = qkv.shape
    out = torch.empty(count, tokens, heads, d, dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty(count, tokens, heads, dtype=torch.float32, device=qkv.device)
    grid, meta = launch("forward", qkv, edge)
    forward_kernel[grid](qkv, products, qkv if sides is None else sides, out, lse, masked=sides is not None, **meta)
    return out, lse


@forward.register_fake
def _(qkv: Tensor, products: Tensor, sides: Tensor | None, edge: int) -> tuple[Tensor, Tensor]:
    count, tokens, _, heads, d = qkv.shape
    return qkv.new_empty(count, tokens, heads, d), qkv.new_empty(count, tokens, heads, dtype=torch.float32)


@torch.library.custom_op("medseg::window_attention_backward", mutates_args=())
def backward(
    gradient: Tensor, qkv: Tensor, products: Tensor, sides: Tensor | None, lse: Tensor, delta: Tensor, edge: int
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv and products; `delta` is (N, edge³, heads), the scalar product of result and gradient."""
    dqkv = torch.empty_like(qkv)
    # Rows of a table that lead out of the window add to no logit.
    dproducts = torch.zeros_like(products)
    masked = sides is not None
    given = (gradient, qkv, products, sides if masked else qkv, lse, delta, dqkv)
    grid, meta = launch("dq", qkv, edge)
    dq_kernel[grid](*given, dproducts, masked=masked, **meta)
    grid, meta = launch("dkv", qkv, edge)
    dkv_kernel[grid](*given, masked=masked, **meta)
    return dqkv, dproducts


@backward.register_fake
def _(
    gradient: Tensor, qkv: Tensor, products: Tensor, sides: Tensor | None, lse: Tensor, delta: Tensor, edge: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(products)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, products, sides, ctx.edge = inputs
    ctx.save_for_backward(qkv, products, sides, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    qkv, products, sides, out, lse = ctx.saved_tensors
    gradient = gradient.contiguous()
    delta = (out.float() * gradient.float()).sum(-1)
    return *backward(gradient, qkv, products, sides, lse, delta, ctx.edge), None, None


forward.register_autograd(_backward, setup_context=_keep)


def launch(kernel: str, qkv: Tensor, edge: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """Grid and compile-time values of a kernel for windows of edge³ tokens."""
    count, tokens, _, heads, d = qkv.shape
    queries, warps = TILES[kernel][qkv.element_size()]
    # Head dimension 80 is 64 + 16: rounded up to 128, three of eight products would be wasted.
    first = max(16, triton.next_power_of_2(d + 1) // 2)
    rest = triton.next_power_of_2(d - first) if d > first else 0
    meta = {
        "heads": heads, "edge": edge, "d": d, "first": first, "rest": max(16, rest) if rest else 0, "queries": queries,
        "cols": max(4, triton.next_power_of_2(edge)), "scale": d**-0.5, "up": INTERPRETED,
        "num_warps": warps, "num_stages": STAGES,
    }  # fmt: skip
    return (edge if kernel == "dkv" else triton.cdiv(tokens, queries), count * heads), meta
