"""The next cases are read while the current one is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Iterable[Item], load: Callable[[Item], Result], depth: int = 1
) -> Iterator[tuple[Item, Result | Exception]]:
    """Each item with what `load` makes of it, in order; a second thread loads while the caller computes.

    An error of `load` takes the place of its result, so that it is met at its own case and not before; the items after
    it are loaded all the same. Whoever wants the first error to end everything raises it.

    Args:
        items: what is loaded; it is iterated in the second thread.
        load: unpacking and hashing let the caller's thread run, Python code does not. It must not need the main thread.
        depth: results that may wait at a time; with the caller's own, `depth` + 1 are in memory. 0 loads in turn,
            in the caller's thread.

    Raises:
        Exception: whatever iterating `items` raises, after the items before it.
    """
    if depth < 0:
        raise ValueError(f"depth is {depth}, not 0 or more")
    if depth == 0:
        for item in items:
            yield item, _tried(load, item)
        return
    ahead = _Ahead(items, load, threading.Semaphore(depth), threading.Event(), SimpleQueue())
    # A daemon: Ctrl-C in the caller ends the program at once, not after the scan that is being read.
    threading.Thread(target=ahead.run, name="medseg-read-ahead", daemon=True).start()
    try:
        while (found := ahead.results.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            ahead.room.release()
            yield found
            # The caller is done with this result: it must not stay in memory while the next is awaited.
            del found
    finally:
        ahead.unwanted.set()
        ahead.room.release()


def _tried(load: Callable[[Item], Result], item: Item) -> Result | Exception:
    try:
        return load(item)
    except Exception as error:
        return error


@dataclass(frozen=True, eq=False)
class _Ahead(Generic[Item, Result]):
    """What the two threads share: room for results, whether any are still wanted, and the results, None at the end."""

    items: Iterable[Item]
    load: Callable[[Item], Result]
    room: threading.Semaphore
    unwanted: threading.Event
    results: SimpleQueue[tuple[Item, Result | Exception] | BaseException | None]

    def run(self) -> None:
        try:
            for item in self.items:
                self.room.acquire()
                if self.unwanted.is_set():
                    return
                self.results.put((item, _tried(self.load, item)))
            self.results.put(None)
        except BaseException as error:  # the caller waits for something in any case
            self.results.put(error)
