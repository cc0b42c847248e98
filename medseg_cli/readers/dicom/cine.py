"""Multi-frame objects that are one picture over time: which ones they are, and when each frame began."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medseg_cli.errors import InputError
from medseg_cli.readers.cine import believable
from medseg_cli.readers.dicom.values import MALFORMED, number, text

_TIME, _VECTOR = 0x00181063, 0x00181065
_LOOPS = frozenset({
    "1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.3.1",  # ultrasound, retired and current
    "1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2",  # X-ray angiography and fluoroscopy
})  # fmt: skip
"""SOP classes whose frames are over time unless the object says otherwise."""
SAME_RATE = 0.05
"""Rates that differ by less than this part are one."""
EVEN = 0.01
"""Steps in time that differ from their mean by less than this part are even."""


@dataclass(frozen=True)
class Clock:
    """When the frames of an object were taken.

    Args:
        sure: whether the object itself says that its frames follow each other in time.
        seconds: (frames,) when each began, in s after the first; None where that is unknown or contradictory.
        note: what was chosen, or what is wrong; "" where there is nothing to say.
    """

    sure: bool = False
    seconds: tuple[float, ...] | None = None
    note: str = ""


def clock(header: Any, count: int, name: str) -> Clock:
    """The clock of a classic object of `count` frames.

    FrameTimeVector or FrameTime count, whichever FrameIncrementPointer names. Without them the rate at which the object
    wants to be shown does (CineRate, RecommendedDisplayFrameRate), and a note says so.

    Raises:
        InputError: an element is no number, naming the file.
    """
    pointers = _pointers(header)
    # Frames that also count detectors or phases are not over time alone.
    sure = pointers <= {_TIME, _VECTOR} and (bool(pointers) or text(header, "SOPClassUID") in _LOOPS)
    vector = _vector(header, name)
    step = number(header, "FrameTime", name)
    rates = {key: number(header, key, name) for key in ("CineRate", "RecommendedDisplayFrameRate")}
    stated = {key: rate for key, rate in rates.items() if rate is not None and rate > 0 and believable(1 / rate)}
    if vector is not None and (_VECTOR in pointers or _TIME not in pointers):
        return _by_vector(vector, count, sure)
    if step is not None and believable(step / 1000):
        differs = {key: rate for key, rate in stated.items() if abs(rate * step / 1000 - 1) > SAME_RATE}
        said = ", ".join(f"{key} {rate:g}" for key, rate in differs.items())
        note = f"frames are {step:g} ms apart (FrameTime), {1000 / step:.4g} per second; it says {said} too"
        return Clock(sure, _even(step / 1000, count), note if differs else "")
    for key, rate in stated.items():
        note = f"the time between frames is not stated: {rate:g} frames per second is the rate to show them at ({key})"
        return Clock(sure, _even(1 / rate, count), note)
    odd = f"FrameTime is {step:g} ms: it is not used" if step else "the time between frames is not stated"
    return Clock(sure, None, odd)


def _by_vector(vector: tuple[float, ...], count: int, sure: bool) -> Clock:
    """PS3.3 C.7.6.5: increments in ms from the frame before, that of the first frame being 0."""
    if len(vector) != count:
        return Clock(sure, None, f"FrameTimeVector holds {len(vector)} times for {count} frames: they are not used")
    steps = vector[1:]
    if not steps or min(steps) <= 0:
        return Clock(sure, None, "FrameTimeVector does not grow from frame to frame: its times are not used")
    if not (believable(min(steps) / 1000) and believable(max(steps) / 1000)):
        said = f"FrameTimeVector says that frames are {min(steps):g} to {max(steps):g} ms apart"
        return Clock(sure, None, f"{said}: its times are not used")
    starts = [0.0]
    for step in steps:
        starts.append(starts[-1] + step / 1000)
    mean = starts[-1] * 1000 / len(steps)
    uneven = max(abs(step / mean - 1) for step in steps) > EVEN
    note = f"frames are {min(steps):g} to {max(steps):g} ms apart (FrameTimeVector)" if uneven else ""
    return Clock(sure, tuple(round(start, 9) for start in starts), note)


def _even(step: float, count: int) -> tuple[float, ...]:
    return tuple(round(step * index, 9) for index in range(count))


def _pointers(header: Any) -> set[int]:
    """Tags that FrameIncrementPointer names."""
    try:
        value = header.get("FrameIncrementPointer")
        if value is None or value == "":
            return set()
        return {int(tag) for tag in (value if hasattr(value, "__iter__") else [value])}
    except MALFORMED:
        return set()


def _vector(header: Any, name: str) -> tuple[float, ...] | None:
    try:
        value = header.get("FrameTimeVector")
        if value is None or value == "":
            return None
        found = tuple(float(each) for each in (value if hasattr(value, "__iter__") else [value]))
    except MALFORMED as error:
        raise InputError(f"{name}: FrameTimeVector cannot be read as numbers ({error})") from error
    if not all(math.isfinite(each) for each in found):
        raise InputError(f"{name}: FrameTimeVector holds values that are not finite")
    return found or None
