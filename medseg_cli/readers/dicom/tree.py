"""Many DICOM files, from anywhere in a tree → the scans that they make, from their headers alone."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom import series
from medseg_cli.readers.dicom.files import Source, fault_of, head_of, looks_like_dicom
from medseg_cli.readers.dicom.frames import Frame, quiet_pydicom, read_dataset, read_frames
from medseg_cli.readers.dicom.series import Stack
from medseg_cli.readers.dicom.values import text
from medseg_cli.readers.in_threads import in_threads

Key = tuple[str, str]


@dataclass(frozen=True)
class Series:
    """One scan of a tree.

    Args:
        files: that hold it, sorted.
        number: SeriesNumber; None when it states none.
        description: SeriesDescription; can be empty.
        pick: what `ReadOptions.series` takes among the scans of `files`; None where they hold one alone.
        spaced: whether its headers state a pixel size.
        broken: (file, reason) of files that are this series's, or may be, and cannot be read.
    """

    files: tuple[Path, ...]
    number: int | None
    description: str
    pick: str | None = None
    spaced: bool = True
    broken: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Tree:
    """What many files hold.

    Args:
        series: scans, in the order of their first files.
        broken: (file, reason) of damaged files that are nobody's slice.
        left_out: what is no scan, in words → how many files.
    """

    series: tuple[Series, ...]
    broken: tuple[tuple[Path, str], ...]
    left_out: Counter[str]


@dataclass
class _Part:
    """Files of one SeriesInstanceUID; of one folder where they state none."""

    frames: list[Frame]
    broken: list[tuple[Path, str]]


def find_series(files: Sequence[Path]) -> Tree:
    """The scans that `files` make, however they lie in folders.

    A series is one SeriesInstanceUID, whatever folders its files lie in. Its parts that differ in plane, picture size
    or spacing are scans of their own; volumes on one grid (echoes, time points) stay together, and `channel` picks one.
    Pictures without a place (radiographs) are a scan each. A damaged file is its series's if it says which that is.
    Otherwise every volume in its folder may lack a slice, and carries it as broken.

    Args:
        files: DICOM by their content or by their suffix.
    """
    with quiet_pydicom():
        heads = in_threads(_head, files)
    parts: dict[Key, _Part] = defaultdict(lambda: _Part([], []))
    lost: list[tuple[Path, str]] = []
    for file, (key, frames, fault) in zip(files, heads, strict=True):
        if not fault:
            parts[key].frames.extend(frames)
        elif key[0]:
            parts[key].broken.append((file, fault))
        else:
            lost.append((file, fault))
    left_out: Counter[str] = Counter()
    found: list[Series] = []
    alone: list[tuple[Path, str]] = []
    for part in parts.values():
        mine = [each for frames in _apart(part.frames) for each in _of_frames(frames, left_out)]
        found += _with_own(mine, part.broken)
        alone += [] if mine else part.broken
    found, lost = _with_lost(found, lost)
    return Tree(tuple(sorted(found, key=lambda each: each.files)), tuple(sorted([*lost, *alone])), left_out)


def _head(file: Path) -> tuple[Key, list[Frame], str]:
    """(series, frames, fault): frames of a good file; of a damaged one what is wrong, and its series if it says."""
    nowhere = ("", str(file.parent))
    if not looks_like_dicom(head_of(file)):
        return nowhere, [], fault_of(file)
    source = Source(file, file.name)
    try:
        frames = read_frames(source)
    except InputError as error:
        try:
            header = read_dataset(file, file.name, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except InputError:
            header = {}
        uid = text(header, "SeriesInstanceUID")
        return (uid, "") if uid else nowhere, [], error.message.removeprefix(f"{file.name}: ")
    uid = frames[0].series_uid if frames else ""
    return ((uid, "") if uid else nowhere), frames, ""


def _apart(frames: list[Frame]) -> list[list[Frame]]:
    """Frames of one series UID by what they are of: another study, or another folder's copies, are other scans.

    A folder goes to the first set that has none of its pictures; so a series spread over folders is one set, and a copy
    of it elsewhere another.
    """
    folders: dict[tuple[str, Path], list[Frame]] = defaultdict(list)
    for frame in frames:
        folders[(frame.study_uid, frame.source.path.parent)].append(frame)
    sets: list[tuple[str, set[str], list[Frame]]] = []
    for (study, _), members in folders.items():
        pictures = {frame.sop_uid for frame in members if frame.sop_uid}
        home = next((each for each in sets if each[0] == study and not each[1] & pictures), None)
        if home is None:
            sets.append((study, set(pictures), list(members)))
        else:
            home[1].update(pictures)
            home[2].extend(members)
    return [members for _, _, members in sets]


def _of_frames(frames: list[Frame], left_out: Counter[str]) -> list[Series]:
    """The scans of one series; what is none is counted into `left_out`."""
    scans: list[Stack] = []
    for stack in series.group(frames):
        what = stack.frames[0].refusal or ("localizer (scout)" if stack.frames[0].localizer else "")
        if what:
            left_out[what.split(":")[0]] += len(_files((stack,)))
        else:
            scans.append(stack)
    volumes = tuple(stack for stack in scans if stack.by_tag)
    together = [(stack,) for stack in scans if not stack.by_tag] + ([volumes] if volumes else [])
    return [each for stacks in together for each in _series(stacks, frames)]


def _with_own(found: list[Series], broken: list[tuple[Path, str]]) -> list[Series]:
    """The scans of a series with its damaged files: those of the same folder, else all volumes, else all."""
    folders = {file.parent for file, _ in broken}
    holders = [each for each in found if folders & {file.parent for file in each.files}] or found
    holders = [each for each in holders if len(each.files) > 1] or holders
    return [replace(each, broken=tuple(broken)) if broken and each in holders else each for each in found]


def _series(stacks: tuple[Stack, ...], among: list[Frame]) -> list[Series]:
    """One scan; or one per file where pictures have no place."""
    first = stacks[0].frames[0]
    files, spaced = _files(stacks), first.pixel_spacing is not None
    if stacks[0].kind == "frames" and first.position is None and len(files) == len(stacks[0].frames):
        return [Series((file,), first.series_number, first.description, spaced=spaced) for file in files]
    return [Series(files, first.series_number, first.description, _pick(stacks, files, among), spaced)]


def _pick(stacks: tuple[Stack, ...], files: tuple[Path, ...], among: list[Frame]) -> str | None:
    """How the reader tells this scan from others in the same files."""
    held = set(files)
    listed = series.group(frame for frame in among if frame.source.path in held)
    scans = [stack for stack in listed if not stack.frames[0].refusal and not stack.frames[0].localizer]
    if len(stacks) > 1 or len(scans) == 1:
        return None
    mine = set(map(id, stacks[0].frames))
    return next((str(n) for n, stack in enumerate(listed, 1) if mine == set(map(id, stack.frames))), None)


def _files(stacks: Sequence[Stack]) -> tuple[Path, ...]:
    return tuple(sorted({frame.source.path for stack in stacks for frame in stack.frames}))


def _with_lost(found: list[Series], lost: list[tuple[Path, str]]) -> tuple[list[Series], list[tuple[Path, str]]]:
    """Volumes with the damaged files of their folders, which may be their slices; and those that can be nobody's."""
    folders = [{file.parent for file in each.files} if len(each.files) > 1 else set() for each in found]
    taken = {file for file, _ in lost if any(file.parent in mine for mine in folders)}
    with_them = [
        replace(each, broken=(*each.broken, *(one for one in lost if one[0].parent in mine)))
        for each, mine in zip(found, folders, strict=True)
    ]
    return with_them, [one for one in lost if one[0] not in taken]


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that holds all of them."""
    return Path(os.path.commonpath([file.parent for file in files]))
