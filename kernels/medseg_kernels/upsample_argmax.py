"""Label map of resampled logits: argmax over the classes of their trilinear interpolation on a parallel grid.

    labels[p] = the lowest class c with the largest  Σ over the 8 neighbours o of p in the logits' grid  w[p, o] x[c, o]

Where voxel p lies is said axis by axis: at index `origin + step p` of the logits, so that the result may be finer or
coarser, cut out, shifted, or flipped (a negative step). Permuted axes are a view of the result.

The interpolated logits, four bytes per class and voxel, never exist: a running maximum goes over the classes. The
Triton kernel (`upsample_argmax_triton`) keeps it in registers. Elsewhere it is kept for one block of voxels at a time,
and most classes are not even interpolated there: a mean of neighbours lies between the smallest and the largest of
them, so a class whose largest value around the block is below the smallest of another class cannot win in it. Inside
an organ and outside the body one class is left, and nothing is computed.
"""

from __future__ import annotations

from itertools import product
from math import isfinite, prod
from typing import NamedTuple

import torch
from torch import Tensor

from medseg_kernels.dispatch import use_reference, use_triton

Shape = tuple[int, int, int]
Along = tuple[float, float, float]

BLOCK = (32, 64, 64)
"""Voxels of one block: half a megabyte per number that is kept for each."""
SLACK = 1e-5
"""Rounding, relative to the largest logit around a block, by which a class may miss and still be interpolated."""
LARGEST = 2**31
"""Offsets are 32-bit numbers in the kernel."""


def upsample_argmax(logits: Tensor, shape: Shape, origin: Along | None = None, step: Along | None = None) -> Tensor:
    """Classes of the voxels of a grid whose axes are parallel to those of the logits.

    Args:
        logits: (C, D, H, W) floating-point, finite (not checked).
        shape: (I, J, K) voxels of the result.
        origin: continuous index of the logits, along each axis, at which the result's first voxel lies.
        step: of the logits' indices between two voxels of the result, along each axis, negative where the axis runs the
            other way. Without origin and step both grids fill the same box (align_corners=False).

    Returns:
        (I, J, K) uint8, int16 from 257 classes on. Voxels beyond the first or last place count as at it. Of equal
        logits the lowest class wins, as in `torch.argmax`. Sums are in float32, for float64 in float64, so voxels where
        two classes differ by less than that may get either.

    Raises:
        ValueError: sizes, dtype or places that mean nothing.
    """
    if logits.ndim != 4 or not logits.numel() or not logits.is_floating_point():
        raise ValueError(f"logits must be (C, D, H, W) numbers, got {tuple(logits.shape)} of {logits.dtype}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{tuple(shape)} is no shape of a volume")
    if len(logits) > torch.iinfo(torch.int16).max + 1:
        raise ValueError(f"{len(logits)} classes do not fit into 16 bits")
    origin, step = _placed(logits, shape, origin, step)
    logits = logits.detach()
    if use_reference():
        return upsample_argmax_reference(logits, shape, origin, step)
    if use_triton(logits) and max(logits.numel(), prod(shape)) < LARGEST:
        from medseg_kernels import upsample_argmax_triton

        return upsample_argmax_triton.labels_of(logits.contiguous(), list(shape), list(origin), list(step))
    with torch.autocast(logits.device.type, enabled=False):
        return _by_blocks(logits, shape, origin, step)


def upsample_argmax_reference(
    logits: Tensor, shape: Shape, origin: Along | None = None, step: Along | None = None
) -> Tensor:
    """The formula in plain PyTorch: all classes are interpolated, then compared. Arguments as `upsample_argmax`."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    places = zip(shape, *_placed(logits, shape, origin, step), strict=True)
    for axis, (target, first, apart) in enumerate(places, start=1):
        source = logits.shape[axis]
        lower, weight = taps(source, target, first, apart, logits.device)
        upper = (lower + 1).clamp(max=source - 1)
        weight = weight.to(wide.dtype).reshape([-1 if a == axis else 1 for a in range(4)])
        wide = (1 - weight) * wide.index_select(axis, lower) + weight * wide.index_select(axis, upper)
    return wide.argmax(0).to(label_dtype(len(logits)))


def _placed(logits: Tensor, shape: Shape, origin: Along | None, step: Along | None) -> tuple[Along, Along]:
    """Origin and step as given, or those of two grids that fill the same box."""
    if (origin is None) != (step is None):
        raise ValueError("origin and step are given together, or neither is")
    if origin is None or step is None:
        i, j, k = (source / target for source, target in zip(logits.shape[1:], shape, strict=True))
        return (i / 2 - 0.5, j / 2 - 0.5, k / 2 - 0.5), (i, j, k)
    if len(origin) != 3 or len(step) != 3 or not all(isfinite(value) for value in (*origin, *step)):
        raise ValueError(f"origin {tuple(origin)} and step {tuple(step)} are no places along three axes")
    return origin, step


def label_dtype(classes: int) -> torch.dtype:
    """The smallest of the two dtypes that numbers so many classes."""
    return torch.uint8 if classes <= 256 else torch.int16


def taps(source: int, target: int, origin: float, step: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each of `target` places: the lower neighbour among `source` places, and the weight (float64) of the upper one.

    The upper neighbour is the next place, or the same at the end. Place i falls at `origin + step i`, but not before
    the first nor after the last.
    """
    place = (origin + step * torch.arange(target, dtype=torch.float64, device=device)).clamp(0, source - 1)
    lower = place.floor()
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


def _pieces(source: int, target: int, origin: float, step: float, edge: int, like: Tensor) -> list[_Piece]:
    lower, weight = taps(source, target, origin, step, torch.device("cpu"))
    upper = (lower + 1).clamp(max=source - 1)
    found = []
    for start in range(0, target, edge):
        write = slice(start, min(start + edge, target))
        first, last = int(lower[write].min()), int(upper[write].max())
        weights = torch.zeros(write.stop - start, last + 1 - first, dtype=torch.float64)
        weights.scatter_add_(1, lower[write, None] - first, 1 - weight[write, None])
        weights.scatter_add_(1, upper[write, None] - first, weight[write, None])
        found.append(_Piece(write, slice(first, last + 1), weights.to(like.device, like.dtype)))
    return found


def _by_blocks(logits: Tensor, shape: Shape, origin: Along, step: Along) -> Tensor:
    """As `upsample_argmax`, in PyTorch, block by block of the result."""
    work = torch.float64 if logits.dtype == torch.float64 else torch.float32
    like = logits.new_empty(0, dtype=work)
    labels = torch.empty(shape, dtype=label_dtype(len(logits)), device=logits.device)
    axes = [_pieces(*along, like) for along in zip(logits.shape[1:], shape, origin, step, BLOCK, strict=True)]
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
