"""From the chosen stack to the frames that are read: copies dropped, a picture over time picked, options checked."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from pathlib import Path

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers.dicom import geometry
from medseg_cli.readers.dicom.files import Source
from medseg_cli.readers.dicom.frames import Frame
from medseg_cli.readers.dicom.series import Stack
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.values import pick_volume


def without_copies(stack: Stack) -> tuple[Stack, list[str]]:
    """The stack without files that are byte for byte copies of another one of it: dropping those is no guess."""
    kept: list[Frame] = []
    first: dict[str, list[Frame]] = {}
    for frame in stack.frames:
        twins = first.setdefault(f"{frame.sop_uid} {frame.index}", [])
        if frame.sop_uid and any(same_bytes(frame.source, twin.source) for twin in twins):
            continue
        twins.append(frame)
        kept.append(frame)
    dropped = len(stack.frames) - len(kept)
    notes = [f"{dropped} identical copies of slices in other files were ignored"] if dropped else []
    return replace(stack, frames=tuple(kept)), notes


def same_bytes(one: Source, other: Source) -> bool:
    """Whether two files have the same content."""
    try:
        return filecmp.cmp(one.path, other.path, shallow=False)
    except OSError:
        return False


def refuse_spacing(path: Path, stack: Stack, options: ReadOptions) -> None:
    """A pixel size given by the user must not override the one in the file."""
    stated = stack.frames[0].pixel_spacing
    if options.spacing is not None and stated is not None:
        raise UsageError(
            f"--spacing is for images that state no pixel size, but {path} states {stated[0]:g} x {stated[1]:g} mm",
            "leave --spacing out",
        )


def is_cine(path: Path, stack: Stack, options: ReadOptions) -> bool:
    """Whether the whole stack is read as frames over time: its object says that it is that, or the user does.

    Raises:
        InputError: the user says so of a volume, or of pictures from several files.
    """
    placed = stack.frames[0].position is not None
    if len(stack.frames) == 1 or options.channel is not None or (placed and options.on_duplicate != "error"):
        return False
    if stack.kind == "cine" or not options.cine:
        return stack.kind == "cine"
    if stack.kind != "frames":
        raise InputError(
            f"{path}: its {len(stack.frames)} slices lie at different places: a volume, not 2-D over time",
            "leave --cine out",
        )
    if any(frame.clock is None for frame in stack.frames) or len({frame.source for frame in stack.frames}) > 1:
        raise InputError(
            f"{path}: {len(stack.frames)} pictures of several files, or with geometry of their own: --cine reads the "
            "frames of one multi-frame object",
            f"name a file, or pick one picture with --channel 0 to {len(stack.frames) - 1}",
        )
    return True


def pick_frame(path: Path, stack: Stack, options: ReadOptions) -> tuple[Stack, list[str]]:
    """Of pictures at one place (2-D over time) the one that `--channel` names; other stacks as they are."""
    placed = all(frame.position is not None and frame.orientation is not None for frame in stack.frames)
    partly = not placed and any(frame.position is not None for frame in stack.frames)
    if stack.kind not in ("frames", "cine", "localizer") or len(stack.frames) == 1 or partly:
        return stack, []
    if stack.kind == "localizer" and placed:
        return stack, []
    ordered = sorted(stack.frames, key=lambda frame: (frame.instance or 0, frame.name, frame.index))
    if len({(frame.sop_uid, frame.index) for frame in ordered}) == 1 and placed:
        return stack, []
    if options.channel is None:
        if placed and options.on_duplicate != "error":
            return stack, []
        where = "all at one position" if placed else "without positions"
        raise InputError(
            f"{path}: {len(ordered)} pictures {where} ({geometry.names(ordered, 2)}), 2-D over time and not a volume",
            f"pick one with --channel 0 to {len(ordered) - 1}"
            + (", or read all frames with --cine" if ordered[0].clock is not None else "")
            + (" or --on-duplicate first" if placed else ""),
        )
    chosen = pick_volume(path, len(ordered), options.channel)
    note = f"picture {chosen} of {len(ordered)} (2-D over time, --channel, counted from 0)"
    return replace(stack, frames=(ordered[chosen],)), [note]
