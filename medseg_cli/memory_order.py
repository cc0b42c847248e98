"""Copies between the order of files (first axis fastest) and that of our arrays (last axis fastest), block by block.

NumPy copies such arrays line by line, and a line of the one order is a stride through the whole of the other: each
value then costs a cache line of its own. In blocks that fit the cache, the copy of a CT takes a tenth of the time.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

BLOCK = 32
"""Voxels along each edge of a block: 32³ values of both sides stay in a core's second-level cache."""


def ordered_copy(values: NDArray[Any], dtype: DTypeLike, order: Literal["C", "F"]) -> NDArray[Any]:
    """What `numpy.array(values, dtype, order=order)` returns: a copy, with the same values to the bit.

    Args:
        values: any shape; blocks are made along the last three axes.
        dtype: of the copy.
        order: "C" for last axis fastest, "F" for first axis fastest.
    """
    copy = np.empty(values.shape, dtype, order=order)
    there = values.flags.c_contiguous if order == "C" else values.flags.f_contiguous
    if there or values.ndim < 3:
        copy[...] = values
        return copy
    for a, b, c in product(*(range(0, size, BLOCK) for size in values.shape[-3:])):
        block = (..., slice(a, a + BLOCK), slice(b, b + BLOCK), slice(c, c + BLOCK))
        copy[block] = values[block]
    return copy
