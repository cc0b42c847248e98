"""Frames → stacks: which frames make one scan, how they are listed, and which one is meant."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.frames import Frame
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.values import pick_volume

SAME_DIRECTION = 2e-3
"""Direction cosines that differ by less (0.1 degree) are one orientation."""
SAME_PLACE = 0.01
"""Positions closer than this along the normal, in mm, are one place."""


@dataclass(frozen=True)
class SeriesInfo:
    """One line of a listing.

    Args:
        number: 1-based, what `--series` takes.
        uid: SeriesInstanceUID; several lines can share it.
        modality: DICOM code.
        description: SeriesDescription; can be empty.
        kind: "volume", "slice", "frames" (pictures at one place or none), "cine" (those of
            one object that says they are over time), "localizer", or "other".
        detail: what tells it from other stacks of the series, or why it is no scan.
        slices: pictures in it.
        size: (columns, rows).
    """

    number: int
    uid: str
    modality: str
    description: str
    kind: str
    detail: str
    slices: int
    size: tuple[int, int]

    def line(self) -> str:
        """Number, modality, kind, size, description, detail and UID on one line."""
        size = f"{self.size[0]}x{self.size[1]}x{self.slices}" if self.kind != "other" else f"{self.slices} object(s)"
        parts = [self.modality or "?", self.kind, size, self.description, self.detail, self.uid or "no series UID"]
        return f"{self.number}: " + ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Stack:
    """Frames that make one scan.

    Args:
        frames: in file order, not sorted yet.
        detail: what tells it from the other stacks of the same series.
        by_tag: it was told apart by a tag: the stacks are volumes on one grid (echoes, time points).
    """

    frames: tuple[Frame, ...]
    detail: str = ""
    by_tag: bool = False

    @property
    def kind(self) -> str:
        """See `SeriesInfo.kind`."""
        first = self.frames[0]
        if first.refusal:
            return "other"
        if first.localizer:
            return "localizer"
        if len(self.frames) == 1:
            return "slice"
        if first.clock is not None and first.clock.sure:
            return "cine"
        places = depths(self.frames)
        return "frames" if places is None or np.ptp(places) < SAME_PLACE else "volume"

    def info(self, number: int) -> SeriesInfo:
        """Its line in a listing."""
        first = self.frames[0]
        return SeriesInfo(
            number=number,
            uid=first.series_uid,
            modality=first.modality,
            description=first.description,
            kind=self.kind,
            detail=first.refusal or self.detail,
            slices=len(self.frames),
            size=first.size,
        )


def depths(frames: Iterable[Frame]) -> np.ndarray | None:
    """(N,) mm along the normal of the first frame; None unless every frame has a position and an orientation."""
    frames = tuple(frames)
    if any(frame.position is None or frame.orientation is None for frame in frames):
        return None
    orientation = np.asarray(frames[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray([frame.position for frame in frames]) @ normal


def group(frames: Iterable[Frame]) -> list[Stack]:
    """All stacks, images first, by series number.

    Frames are one stack when series, picture size, colour, pixel spacing and orientation agree; a cine is one object's.
    A stack that covers each place several times is split by the first tag that makes every part cover each place once.
    """
    series: dict[tuple[str, str, object], list[Frame]] = defaultdict(list)
    for frame in frames:
        series[(frame.refusal, frame.series_uid, None if frame.series_uid else frame.series_number)].append(frame)
    stacks = []
    for (refused, _, _), members in series.items():
        stacks += [Stack(tuple(members))] if refused else split_series(members)
    return sorted(stacks, key=rank)


def rank(stack: Stack) -> tuple[bool, float, str]:
    """Sort key of a listing: images first, then by series number and UID; ties keep their order."""
    first = stack.frames[0]
    number = float("inf") if first.series_number is None else first.series_number
    return (bool(first.refusal), number, first.series_uid)


def split_series(members: list[Frame]) -> list[Stack]:
    """The stacks of one series, each with what tells it from the others."""
    shapes: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame in members:
        spacing = None if frame.pixel_spacing is None else tuple(round(value, 4) for value in frame.pixel_spacing)
        loop = (frame.sop_uid or frame.source.name) if frame.clock is not None and frame.clock.sure else ""
        shapes[(frame.localizer, frame.size, frame.samples, spacing, frame.tags.get("StackID"), loop)].append(frame)
    planes = [plane for same in shapes.values() for plane in split_by_orientation(same)]
    stacks = []
    for plane in planes:
        detail = describe(plane[0]) if len(planes) > 1 else ""
        if len(planes) > 1 and Stack(tuple(plane)).kind == "cine":
            detail = f"{detail}, {plane[0].source.name}"
        stacks += [replace(part, detail=", ".join(filter(None, (detail, part.detail)))) for part in split_by_tag(plane)]
    return stacks


def describe(frame: Frame) -> str:
    """Plane and picture size of a stack."""
    size = f"{frame.size[0]}x{frame.size[1]}"
    if frame.orientation is None:
        return f"no orientation, {size}"
    orientation = np.asarray(frame.orientation)
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    plane = ("sagittal", "coronal", "axial")[int(np.argmax(normal))]
    oblique = "oblique " if normal.max() < 0.99 else ""
    spacing = "" if frame.pixel_spacing is None else " at {:.3g}x{:.3g} mm".format(*frame.pixel_spacing)
    stack = f", StackID {frame.tags['StackID']}" if "StackID" in frame.tags else ""
    return f"{oblique}{plane}, {size}{spacing}{stack}"


def split_by_orientation(frames: list[Frame]) -> list[list[Frame]]:
    """Frames by orientation; those without one stay with the largest part, where they are reported as missing."""
    parts: list[list[Frame]] = []
    without = [frame for frame in frames if frame.orientation is None]
    for frame in frames:
        if frame.orientation is None:
            continue
        for part in parts:
            if np.abs(np.asarray(part[0].orientation) - np.asarray(frame.orientation)).max() < SAME_DIRECTION:
                part.append(frame)
                break
        else:
            parts.append([frame])
    if not parts:
        return [without]
    max(parts, key=len).extend(without)
    return parts


def split_by_tag(frames: list[Frame]) -> list[Stack]:
    """Volumes that share their places, told apart by echo, time, type...; one stack when they cannot be."""
    whole = [Stack(tuple(frames))]
    places = depths(frames)
    if places is None or np.ptp(places) < SAME_PLACE:
        return whole
    keys = place_numbers(places)
    repeats = max(Counter(keys).values())
    if repeats == 1:
        return whole
    for tag in dict.fromkeys(tag for frame in frames for tag in frame.tags):
        parts: dict[str, list[int]] = defaultdict(list)
        for index, frame in enumerate(frames):
            parts[frame.tags.get(tag, "")].append(index)
        once = all(len({keys[index] for index in part}) == len(part) for part in parts.values())
        if len(parts) == repeats and once:
            ordered = sorted(parts.items(), key=lambda pair: natural(pair[0]))
            return [
                Stack(tuple(frames[i] for i in part), f"{tag} {value or '(none)'}", True) for value, part in ordered
            ]
    return whole


def place_numbers(places: np.ndarray) -> list[int]:
    """For each depth (N,) in mm the number of its place, counted along the normal."""
    order = np.argsort(places, kind="stable")
    numbers = np.zeros(len(places), dtype=np.int64)
    numbers[order[1:]] = np.cumsum(np.diff(places[order]) > SAME_PLACE)
    return numbers.tolist()


def natural(value: str) -> tuple[int, float, str]:
    """Sort key: numbers by size, before text."""
    try:
        return (0, float(value), value)
    except ValueError:
        return (1, 0.0, value)


def listing(stacks: list[Stack]) -> list[SeriesInfo]:
    """All stacks with their numbers."""
    return [stack.info(number) for number, stack in enumerate(stacks, start=1)]


def choose(path: Path, stacks: list[Stack], options: ReadOptions) -> Stack:
    """The stack the user means.

    Raises:
        InputError: no such series, no image at all, or several candidates: then they are listed in the hint.
    """
    lines = [info.line() for info in listing(stacks)]
    table = "\n".join(lines)
    candidates = stacks
    if options.series is not None:
        wanted = options.series.strip()
        if wanted.isdigit():
            candidates = stacks[int(wanted) - 1 : int(wanted)] if int(wanted) > 0 else []
        else:
            candidates = [stack for stack in stacks if stack.frames[0].series_uid == wanted]
        if not candidates:
            raise InputError(f"{path}: no series '{wanted}'", f"--series takes a number or UID of these:\n{table}")
    images = [stack for stack in candidates if not stack.frames[0].refusal]
    if not images:
        reasons = list(dict.fromkeys(stack.frames[0].refusal for stack in candidates))
        raise InputError(f"{path}: {'; '.join(reasons)}", "name an image series")
    scans = [stack for stack in images if not stack.frames[0].localizer] or images
    if len(scans) == 1:
        return scans[0]
    same_series = len({stack.frames[0].series_uid for stack in scans}) == 1
    if options.channel is not None and same_series and all(stack.by_tag for stack in scans):
        return scans[pick_volume(path, len(scans), options.channel)]
    what = f"one series holds {len(scans)} stacks" if same_series else f"{len(scans)} series"
    listed = "\n".join(line for line, stack in zip(lines, stacks, strict=True) if stack in scans)
    raise InputError(f"{path}: ambiguous, {what}", f"pick one with --series NUMBER:\n{listed}")
