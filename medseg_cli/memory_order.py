"""Copies between the order of files (first axis fastest) and that of our arrays (last axis fastest), block by block.

NumPy copies such arrays line by line, and a line of the one order is a stride through the whole of the other: each
value then costs a cache line of its own. In blocks that fit the cache, the copy of a CT takes a tenth of the time.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

RUN, ACROSS = 512, 32
"""A block: so many values along the axis that is fastest in the source, and in the copy. A run fills whole cache
lines of the source; as many lines as the copy's side has values are open at a time and stay in the first-level cache.
"""
BLOCK = RUN * ACROSS
"""Values in a block: the middle axis gets what the other two leave of it."""
LARGE = 1 << 24
"""Values from which two threads share the work; numpy lets them run side by side."""


def ordered_copy(values: NDArray[Any], dtype: DTypeLike, order: Literal["C", "F"]) -> NDArray[Any]:
    """What `numpy.array(values, dtype, order=order)` returns: a copy, with the same values to the bit.

    Args:
        values: any shape; blocks are made along the last three axes.
        dtype: of the copy.
        order: "C" for last axis fastest, "F" for first axis fastest.
    """
    copy = np.empty(values.shape, dtype, order=order)
    if values.size < LARGE or values.ndim < 3 or (os.cpu_count() or 1) < 2:
        copy_into(copy, values)
        return copy
    half = values.shape[-2] // 2
    parts = [(..., slice(0, half), slice(None)), (..., slice(half, None), slice(None))]
    with ThreadPoolExecutor(len(parts)) as pool:
        for done in [pool.submit(copy_into, copy[part], values[part]) for part in parts]:
            done.result()
    return copy


def copy_into(target: NDArray[Any], values: NDArray[Any]) -> None:
    """`target[...] = values`, block by block where the two lie in different orders.

    Args:
        target: any array of the same shape, or a view of one.
        values: blocks are made along the last three axes.
    """
    if values.ndim < 3 or _rising(target) == _rising(values):
        target[...] = values
        return
    i, j, k = values.shape[-3:]
    # The fastest axis of the values comes first here where it is the first one: such a block is long along it.
    a_step, c_step = (ACROSS, RUN) if _rising(values) else (RUN, ACROSS)
    b_step = max(BLOCK // (min(i, a_step) * min(k, c_step)), 1) if i and k else 1
    for a, b, c in product(range(0, i, a_step), range(0, j, b_step), range(0, k, c_step)):
        block = (..., slice(a, a + a_step), slice(b, b + b_step), slice(c, c + c_step))
        target[block] = values[block]


def _rising(values: NDArray[Any]) -> bool:
    """Whether the last axis is faster than the third from last, as it is in our arrays."""
    return abs(values.strides[-1]) <= abs(values.strides[-3])
