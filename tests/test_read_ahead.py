"""Reading ahead: order, errors at their own case, how much is in memory, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from medseg_cli.read_ahead import read_ahead, read_ahead_in_groups

PATIENCE = 20.0
"""Seconds after which something that should happen has not."""


def _wait_for(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_results_come_with_their_items_in_order(depth: int) -> None:
    assert list(read_ahead(range(7), lambda item: item**2, depth)) == [(n, n * n) for n in range(7)]


@pytest.mark.parametrize("depth", [0, 2])
def test_nothing_to_read_is_nothing_read(depth: int) -> None:
    assert list(read_ahead([], lambda item: item, depth)) == []


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_an_error_is_met_at_its_own_case_and_the_next_cases_come(depth: int) -> None:
    def load(item: int) -> int:
        if item == 2:
            raise OSError(f"case {item}")
        return item

    found = list(read_ahead(range(4), load, depth))
    assert [item for item, _ in found] == [0, 1, 2, 3]
    assert isinstance(found[2][1], OSError)
    assert str(found[2][1]) == "case 2"
    assert [result for item, result in found if item != 2] == [0, 1, 3]


def test_an_error_of_the_items_comes_after_those_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    ahead = read_ahead(items(), str)
    assert next(ahead) == (1, "1")
    with pytest.raises(ValueError, match="no more"):
        next(ahead)


def test_the_next_case_is_loaded_while_the_caller_works() -> None:
    loaded: set[int] = set()
    for item, _ in read_ahead(range(3), loaded.add):
        # Nothing but a second thread can load it, since the caller waits here.
        _wait_for(lambda item=item: item == 2 or item + 1 in loaded)


@pytest.mark.parametrize("depth", [1, 2])
def test_no_more_is_loaded_than_was_allowed(depth: int) -> None:
    begun: list[int] = []
    ahead = read_ahead(range(9), begun.append, depth)
    for taken in range(1, 4):
        next(ahead)
        _wait_for(lambda taken=taken: len(begun) == taken + depth)
        time.sleep(0.05)
        assert len(begun) == taken + depth
    ahead.close()


def test_what_the_caller_has_let_go_is_freed() -> None:
    class Volume:
        pass

    alive: list[weakref.ref] = []

    def load(item: int) -> Volume:
        volume = Volume()
        alive.append(weakref.ref(volume))
        return volume

    ahead = read_ahead(range(3), load)
    for _ in range(3):
        found = next(ahead)
        del found
    assert next(ahead, None) is None
    _wait_for(lambda: all(each() is None for each in alive))


def test_a_caller_who_stops_ends_the_thread() -> None:
    before = threading.active_count()
    for _ in read_ahead(range(100), lambda item: item):
        break
    _wait_for(lambda: threading.active_count() == before)


def test_a_caller_who_takes_nothing_ends_the_thread_too() -> None:
    before = threading.active_count()
    ahead = read_ahead(range(100), lambda item: item)
    assert threading.active_count() == before + 1
    del ahead
    _wait_for(lambda: threading.active_count() == before)


def test_loading_begins_before_anything_is_taken() -> None:
    loaded = threading.Event()
    ahead = read_ahead([1], lambda item: loaded.set())
    assert loaded.wait(PATIENCE)
    assert next(ahead) == (1, None)


@pytest.mark.parametrize("where", ["while waiting for a case", "while computing"])
def test_ctrl_c_ends_at_once_even_while_a_case_is_read(where: str) -> None:
    lines = f"""
import sys, time
from medseg_cli.read_ahead import read_ahead, read_ahead_in_groups
def load(item):
    if item:
        print("ready", flush=True)
        time.sleep(60)
for item, _ in read_ahead(range(3), load):
    if {where == "while computing"}:
        time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, complaint = child.communicate(timeout=PATIENCE)
    assert child.returncode in (-signal.SIGINT, 130) or os.name == "nt"
    assert "KeyboardInterrupt" in complaint


def test_groups_hold_what_waits_and_no_more_than_they_may() -> None:
    groups = read_ahead_in_groups(range(10), lambda item: item**2, 3)
    found = []
    for group in groups:
        found.append(group)
        time.sleep(0.05)  # the others are loaded meanwhile
    assert [pair for group in found for pair in group] == [(n, n * n) for n in range(10)]
    assert max(len(group) for group in found) == 3
    assert min(len(group) for group in found) >= 1


def test_a_group_is_not_waited_for() -> None:
    slow = threading.Event()

    def load(item: int) -> int:
        if item == 1:
            slow.wait(PATIENCE)
        return item

    groups = read_ahead_in_groups(range(2), load, 8)
    assert next(groups) == [(0, 0)]
    slow.set()
    assert next(groups) == [(1, 1)]
    assert list(groups) == []


def test_an_error_of_the_items_comes_after_the_group_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no more")

    groups = read_ahead_in_groups(items(), str, 8)
    found = []
    with pytest.raises(ValueError, match="no more"):  # noqa: PT012
        for group in groups:
            found += group
            time.sleep(0.05)
    assert found == [(1, "1"), (2, "2")]
