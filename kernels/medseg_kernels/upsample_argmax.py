"""Label map of upsampled logits: argmax over the classes of their trilinear interpolation (align_corners=False).

    labels[p] = the lowest class c with the largest  Σ over the 8 neighbours o of p in the small grid  w[p, o] x[c, o]

The interpolated logits, four bytes per class and voxel, never exist: a running maximum goes over the classes. The
Triton kernel (`upsample_argmax_triton`) keeps it in registers. Elsewhere it is kept for one block of voxels at a time,
and most classes are not even interpolated there: a mean of neighbours lies between the smallest and the largest of
them, so a class whose largest value around the block is below the smallest of another class cannot win in it. Inside
an organ and outside the body one class is left, and nothing is computed.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import use_reference, use_triton

Shape = tuple[int, int, int]

BLOCK = (32, 64, 64)
"""Voxels of one block: half a megabyte per number that is kept for each."""
SLACK = 1e-5
"""Rounding, relative to the largest logit around a block, by which a class may miss and still be interpolated."""
LARGEST = 2**31
"""Offsets are 32-bit numbers in the kernel."""


def upsample_argmax(logits: Tensor, shape: Shape) -> Tensor:
    """Classes of the voxels of a finer (or any other) grid over the same box.

    Args:
        logits: (C, D, H, W) floating-point, finite (not checked).
        shape: (I, J, K) voxels of the result.

    Returns:
        (I, J, K) uint8, int16 from 257 classes on. Of equal logits the lowest class wins, as in `torch.argmax`. Sums
        are in float32, for float64 in float64, so voxels where two classes differ by less than that may get either.

    Raises:
        ValueError: sizes or dtype that mean nothing.
    """
    if logits.ndim != 4 or not logits.numel() or not logits.is_floating_point():
        raise ValueError(f"logits must be (C, D, H, W) numbers, got {tuple(logits.shape)} of {logits.dtype}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{tuple(shape)} is no shape of a volume")
    if len(logits) > torch.iinfo(torch.int16).max + 1:
        raise ValueError(f"{len(logits)} classes do not fit into 16 bits")
    logits = logits.detach()
    if use_reference():
        return upsample_argmax_reference(logits, shape)
    if use_triton(logits) and max(logits.numel(), prod(shape)) < LARGEST:
        from medseg_kernels import upsample_argmax_triton

        return upsample_argmax_triton.labels_of(logits.contiguous(), list(shape))
    with torch.autocast(logits.device.type, enabled=False):
        return _by_blocks(logits, shape)


def upsample_argmax_reference(logits: Tensor, shape: Shape) -> Tensor:
    """The formula in plain PyTorch: all classes are interpolated, then compared. Arguments as `upsample_argmax`."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    wide = F.interpolate(exact[None], size=shape, mode="trilinear", align_corners=False)[0]
    return wide.argmax(0).to(label_dtype(len(logits)))


def label_dtype(classes: int) -> torch.dtype:
    """The smallest of the two dtypes that numbers so many classes."""
    return torch.uint8 if classes <= 256 else torch.int16


def taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each of `target` places: the lower neighbour among `source` places, and the weight (float64) of the upper one.

    The upper neighbour is the next place, or the same at the end. Where a place falls, target places are counted by
    their middles: (i + 1/2) source / target - 1/2, not before the first.
    """
    place = ((torch.arange(target, dtype=torch.float64, device=device) + 0.5) * (source / target) - 0.5).clamp(min=0)
    lower = place.floor().clamp(max=source - 1)
    return lower.long(), place - lower


class _Piece(NamedTuple):
    """A run of places along one axis.

    Args:
        write: which places of the result.
        read: the neighbours that they need.
        weights: (places, neighbours), two in each row.
    """

    write: slice
    read: slice
    weights: Tensor


def _pieces(source: int, target: int, edge: int, like: Tensor) -> list[_Piece]:
    lower, weight = taps(source, target, torch.device("cpu"))
    upper = (lower + 1).clamp(max=source - 1)
    found = []
    for start in range(0, target, edge):
        write = slice(start, min(start + edge, target))
        first, last = int(lower[write][0]), int(upper[write][-1])
        weights = torch.zeros(write.stop - start, last + 1 - first, dtype=torch.float64)
        weights.scatter_add_(1, lower[write, None] - first, 1 - weight[write, None])
        weights.scatter_add_(1, upper[write, None] - first, weight[write, None])
        found.append(_Piece(write, slice(first, last + 1), weights.to(like.device, like.dtype)))
    return found


def _by_blocks(logits: Tensor, shape: Shape) -> Tensor:
    """As `upsample_argmax`, in PyTorch, block by block of the result."""
    work = torch.float64 if logits.dtype == torch.float64 else torch.float32
    like = logits.new_empty(0, dtype=work)
    labels = torch.empty(shape, dtype=label_dtype(len(logits)), device=logits.device)
    axes = [_pieces(*sizes, like) for sizes in zip(logits.shape[1:], shape, BLOCK, strict=True)]
    for pieces in product(*axes):
        part = logits[:, pieces[0].read, pieces[1].read, pieces[2].read].to(work)
        block = labels[pieces[0].write, pieces[1].write, pieces[2].write]
        first, *others = _candidates(part)
        block.fill_(first)
        if not others:
            continue
        best = _interpolated(part[first], pieces)
        for candidate in others:
            value = _interpolated(part[candidate], pieces)
            block.masked_fill_(value > best, candidate)
            torch.maximum(best, value, out=best)
    return labels


def _candidates(part: Tensor) -> list[int]:
    """Classes of (C, d, h, w) that can be the largest somewhere between its points, in order."""
    low, high = torch.aminmax(part.flatten(1), dim=1)
    slack = SLACK * torch.maximum(low.abs().max(), high.abs().max())
    found: list[int] = (high >= low.max() - slack).nonzero().flatten().tolist()
    return found


def _interpolated(cells: Tensor, pieces: tuple[_Piece, ...]) -> Tensor:
    """(d, h, w) → (i, j, k), axis by axis, as products with the weights."""
    first, second, third = (piece.weights for piece in pieces)
    wide = second @ (cells @ third.t())
    return (first @ wide.flatten(1)).unflatten(1, wide.shape[1:])
