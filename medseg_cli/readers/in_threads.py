"""Many small files at a time: threads wait for disks and network shares while others work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 8
PIECE = 64
"""Items that a thread takes at a time: handing over each alone would cost as much as looking at it."""


def in_threads(look: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `look` makes of each item, in their order; its first error is raised."""
    pieces = [items[start : start + PIECE] for start in range(0, len(items), PIECE)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [result for piece in pool.map(lambda piece: [look(item) for item in piece], pieces) for result in piece]
