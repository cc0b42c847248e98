"""Triton kernel of `upsample_argmax`; imported only where it runs.

One program makes the labels of a block of voxels: where their neighbours are and what they weigh is found once, then
eight values per class are read, and the running maximum and its class stay in registers. Neighbours of neighbouring
voxels are the same numbers, so that memory is read about once. Which neighbours and weights comes in tables, one entry
per place of an axis, computed in float64: positions counted in float32 would be off by their last digits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from medseg_kernels.upsample_argmax import label_dtype, taps

BLOCK = {"voxels": 512, "widest": 128, "warps": 4}
"""Voxels of a program, how many of them lie along the last axis at most, warps."""


@torch.library.custom_op("medseg::upsample_argmax", mutates_args=())
def labels_of(logits: Tensor, shape: list[int], origin: list[float], step: list[float]) -> Tensor:
    """As `upsample_argmax`; logits contiguous and not empty."""
    classes, *size = logits.shape
    labels = torch.empty(shape, dtype=label_dtype(classes), device=logits.device)
    tables = []
    for source, target, first, apart in zip(size, shape, origin, step, strict=True):
        lower, weight = taps(source, target, first, apart, logits.device)
        tables += [lower.int(), weight.float()]
    block = min(BLOCK["widest"], triton.next_power_of_2(shape[2]))
    rows = max(1, BLOCK["voxels"] // block)
    grid = (triton.cdiv(shape[0] * shape[1], rows), triton.cdiv(shape[2], block))
    argmax_kernel[grid](
        logits, *tables, labels, classes, *size, *shape, rows=rows, block=block, num_warps=BLOCK["warps"]
    )
    return labels


@labels_of.register_fake
def _(logits: Tensor, shape: list[int], origin: list[float], step: list[float]) -> Tensor:
    return logits.new_empty(shape, dtype=label_dtype(len(logits)))


@triton.jit
def line(start, near, far, weight, mask):
    """Two neighbours along the last axis, mixed: `start` (rows), the others (block) → (rows, block)."""
    left = tl.load(start[:, None] + near[None, :], mask=mask, other=0.0).to(tl.float32)
    right = tl.load(start[:, None] + far[None, :], mask=mask, other=0.0).to(tl.float32)
    return left + (right - left) * weight[None, :]


@triton.jit
def argmax_kernel(
    logits, lower_i, weight_i, lower_j, weight_j, lower_k, weight_k, labels, classes, d, h, w, i_size, j_size, k_size,
    rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """`rows` lines of `block` voxels."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    k = tl.program_id(1) * block + tl.arange(0, block)
    known = row < i_size * j_size
    i = row // j_size
    j = row % j_size
    near_i = tl.load(lower_i + i, mask=known, other=0)
    near_j = tl.load(lower_j + j, mask=known, other=0)
    near_k = tl.load(lower_k + k, mask=k < k_size, other=0)
    far_i = tl.minimum(near_i + 1, d - 1)
    far_j = tl.minimum(near_j + 1, h - 1)
    far_k = tl.minimum(near_k + 1, w - 1)
    at_i = tl.load(weight_i + i, mask=known, other=0.0)[:, None]
    at_j = tl.load(weight_j + j, mask=known, other=0.0)[:, None]
    at_k = tl.load(weight_k + k, mask=k < k_size, other=0.0)
    mask = known[:, None] & (k < k_size)[None, :]
    best = tl.full((rows, block), float("-inf"), tl.float32)
    label = tl.zeros((rows, block), tl.int32)
    for c in range(classes):
        plane = logits + c * d * h * w
        upper = line(plane + (near_i * h + near_j) * w, near_k, far_k, at_k, mask)
        lower = line(plane + (near_i * h + far_j) * w, near_k, far_k, at_k, mask)
        front = upper + (lower - upper) * at_j
        upper = line(plane + (far_i * h + near_j) * w, near_k, far_k, at_k, mask)
        lower = line(plane + (far_i * h + far_j) * w, near_k, far_k, at_k, mask)
        value = front + (upper + (lower - upper) * at_j - front) * at_i
        label = tl.where(value > best, c, label)
        best = tl.maximum(best, value)
    tl.store(labels + row[:, None] * k_size + k[None, :], label.to(labels.dtype.element_ty), mask=mask)
