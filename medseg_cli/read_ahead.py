"""The next of anything is made in a second thread while the current one is used."""

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
    """Each item with what `load` makes of it, in order; a second thread loads, from now on, while the caller computes.

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
    return made_ahead(((item, _tried(load, item)) for item in items), depth)


def made_ahead(items: Iterable[Item], depth: int = 1) -> Iterator[Item]:
    """The same items, of which up to `depth` are made in advance in a second thread, from now on; 0 makes none so.

    Raises:
        Exception: whatever iterating `items` raises, after the items before it.
    """
    if depth < 0:
        raise ValueError(f"depth is {depth}, not 0 or more")
    if depth == 0:
        return iter(items)
    ahead = _Ahead(items, threading.Semaphore(depth), threading.Event(), SimpleQueue())
    # A daemon: Ctrl-C in the caller ends the program at once, not after the scan that is being read.
    threading.Thread(target=ahead.run, name="medseg-ahead", daemon=True).start()
    taken = _taken(ahead)
    next(taken)
    return taken


def read_ahead_in_groups(
    items: Iterable[Item], load: Callable[[Item], Result], most: int
) -> Iterator[list[tuple[Item, Result | Exception]]]:
    """As `read_ahead`, but all that is ready at a time, one at least and `most` at most; so many may wait.

    Raises:
        Exception: whatever iterating `items` raises, after the items before it.
    """
    if most < 1:
        raise ValueError(f"most is {most}, not 1 or more")
    loaded = ((item, _tried(load, item)) for item in items)
    ahead = _Ahead(loaded, threading.Semaphore(most), threading.Event(), SimpleQueue())
    threading.Thread(target=ahead.run, name="medseg-ahead", daemon=True).start()
    taken = _taken(ahead)
    next(taken)
    return _grouped(taken, ahead, most)


def _grouped(taken: Iterator[Item], ahead: _Ahead[Item], most: int) -> Iterator[list[Item]]:
    for first in taken:
        group = [first]
        del first
        while len(group) < most and not ahead.boxes.empty():
            try:
                group.append(next(taken))
            except StopIteration:
                break
            except Exception:
                yield group
                raise
        yield group
        del group


def _tried(load: Callable[[Item], Result], item: Item) -> Result | Exception:
    try:
        return load(item)
    except Exception as error:
        return error


@dataclass(frozen=True, eq=False)
class _Ahead(Generic[Item]):
    """What the two threads share: room for items, whether any are still wanted, and the items in boxes.

    A box is ("item", it), ("error", it) or ("end", None).
    """

    items: Iterable[Item]
    room: threading.Semaphore
    unwanted: threading.Event
    boxes: SimpleQueue[tuple[str, Item | BaseException | None]]

    def run(self) -> None:
        try:
            iterator = iter(self.items)
            while True:
                self.room.acquire()
                if self.unwanted.is_set():
                    return
                self.boxes.put(("item", next(iterator)))
        except StopIteration:
            self.boxes.put(("end", None))
        except BaseException as error:  # the caller waits for something in any case
            self.boxes.put(("error", error))


def _taken(ahead: _Ahead[Item]) -> Iterator[Item]:
    try:
        # Started, so that the block below is reached even if whoever asked for items drops this without taking any.
        yield None  # type: ignore[misc]
        while (box := ahead.boxes.get())[0] == "item":
            ahead.room.release()
            yield box[1]  # type: ignore[misc]  # an item, as the word beside it says
            # The caller is done with it: it must not stay in memory while the next is awaited.
            del box
        if isinstance(box[1], BaseException):
            raise box[1]
    finally:
        ahead.unwanted.set()
        ahead.room.release()
