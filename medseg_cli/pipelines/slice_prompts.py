"""From prompts in a volume to prompts in its slices: which slices an object's prompts lie in, in picture pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError, UsageError
from medseg_cli.preset import Preset
from medseg_cli.prompt import Box, Prompt, Target, locate, locate_box
from medseg_cli.scan import Scan
from medseg_cli.slices import Plane


@dataclass(frozen=True, eq=False)
class SlicePrompt:
    """All prompts of one object in one slice, in picture pixels, x across and y down.

    Args:
        boxes: (B, 4) first and last pixel x0, y0, x1, y1, both inside.
        inside: (P, 2) clicks inside the object.
        outside: (Q, 2) clicks outside it.
        region: (H, W) bool coarse mask, or None.
        text: (E,) what was said about the object, embedded; None where nothing was, or no network listens.
    """

    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    inside: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    outside: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    region: NDArray[np.bool_] | None = None
    text: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """Where one object is prompted.

    Args:
        slices: slice index → its prompt.
        outside: slice index → clicks (Q, 2) outside the object in slices that are not prompted otherwise.
        clicks: (N, 3) voxel ijk of the clicks inside.
        bounded: slices of prompts that state a range themselves (a box with a depth, a coarse mask of several slices):
            nothing beyond them is wanted.
        text: (E,) what was said about it, which goes into every slice; None for nothing.
    """

    slices: dict[int, SlicePrompt]
    outside: dict[int, NDArray[np.float64]]
    clicks: NDArray[np.float64]
    bounded: frozenset[int]
    text: NDArray[np.float32] | None = None


def whole_image(scan: Scan) -> Prompt:
    """The prompt of presets that need none: one object in a box over the whole scan, in every frame of a cine."""
    i, j, k = scan.shape
    return Prompt((Target("1", "", boxes=(Box((0.0, 0.0, 0.0), (i - 1.0, j - 1.0, k - 1.0)),)),))


def every_slice(plane: Plane) -> Plan:
    """The plan of networks that need no prompt: each slice is looked at by itself, and nothing is followed."""
    slices = range(plane.count)
    return Plan({index: SlicePrompt() for index in slices}, {}, np.zeros((0, 3)), frozenset(slices))


def plan_slices(
    prompt: Prompt, scan: Scan, plane: Plane, preset: Preset, texts: Sequence[NDArray[np.float32] | None] = ()
) -> list[Plan]:
    """One plan per target.

    Args:
        prompt, scan, plane, preset: what is asked, where and of whom.
        texts: per target the embedding (E,) of what is said about it; () = nobody listens. An object about which
            nothing else is known is looked for in every slice.

    Raises:
        InputError: a prompt outside the scan, or a box without extent in the plane.
        UsageError: no prompt, prompts that the preset does not take, or an object with nothing but minus clicks.
    """
    if not prompt.targets:
        hint = "give --box, --point or --mask-prompt" if plane.count > 1 else f"it takes: {_kinds(preset)}"
        raise UsageError(f"preset {preset.name} needs a prompt for {scan.provenance.path}", hint)
    for target in prompt.targets:
        _check_kinds(target, preset)
    heard = texts or [None] * len(prompt.targets)
    return [_plan(target, scan, plane, text) for target, text in zip(prompt.targets, heard, strict=True)]


def unused_minus(plans: list[Plan], asked: set[tuple[int, int]], prompt: Prompt) -> list[str]:
    """A note for each target with minus clicks in slices that are not among the (object, slice) `asked` about."""
    notes = []
    for number, (plan, target) in enumerate(zip(plans, prompt.targets, strict=True)):
        idle = sorted(index for index in plan.outside if (number, index) not in asked)
        if idle:
            where = ", ".join(map(str, idle))
            notes.append(
                f"minus clicks of object '{target.id}' in slice {where} changed nothing: it was not sought there"
            )
    return notes


def unused_regions(plans: list[Plan], prompt: Prompt) -> list[str]:
    """A note for each target with a box where its coarse mask lies, for networks that see no more of it than a box."""
    notes = []
    for plan, target in zip(plans, prompt.targets, strict=True):
        both = [index for index, each in plan.slices.items() if each.region is not None and len(each.boxes)]
        if both:
            where = ", ".join(map(str, both))
            notes.append(
                f"the coarse mask of object '{target.id}' changed nothing in slice {where}: the preset's model takes "
                "the box round a mask, and there is a box already"
            )
    return notes


def _kinds(preset: Preset) -> str:
    return ", ".join(preset.prompts.kinds)


def _check_kinds(target: Target, preset: Preset) -> None:
    used = {"point": bool(target.clicks), "box": bool(target.boxes), "mask": target.region is not None}
    used["text"] = target.text is not None
    refused = [kind for kind, given in used.items() if given and kind not in preset.prompts.kinds]
    if refused:
        raise UsageError(
            f"preset {preset.name} takes no {' and no '.join(refused)} prompts", f"it takes: {_kinds(preset)}"
        )
    if not preset.prompts.minus and not all(click.positive for click in target.clicks):
        raise UsageError(f"preset {preset.name} does not understand minus clicks", "leave them out")
    pointed = any(click.positive for click in target.clicks) or (target.absent and target.clicks)
    if not pointed and not target.boxes and target.region is None and target.text is None:
        raise UsageError(
            f"object '{target.id}' has no prompt that says where it is", "add a click inside it, a box or a mask"
        )


def _plan(target: Target, scan: Scan, plane: Plane, text: NDArray[np.float32] | None) -> Plan:
    boxes, bounded = _boxes(target, scan, plane)
    clicks = {
        sign: np.array([locate(each, scan) for each in target.clicks if each.positive is sign]).reshape(-1, 3)
        for sign in (True, False)
    }
    inside, outside = _by_slice(clicks[True], plane), _by_slice(clicks[False], plane)
    regions: dict[int, NDArray[np.bool_]] = {}
    if target.region is not None:
        voxels = target.region.voxels
        depth = np.flatnonzero(voxels.any(axis=tuple(a for a in range(3) if a != plane.through)))
        # Copies: a view would keep the whole volume alive.
        regions = {int(index): plane.take(voxels, int(index)).copy() for index in depth}
        bounded |= regions.keys() if len(regions) > 1 else set()
    nothing = np.zeros((0, 2))
    asked = boxes.keys() | inside.keys() | regions.keys() | (outside.keys() if target.absent else set())
    if not asked and text is not None:
        # Words do not say in which slice: each is looked at by itself.
        asked = set(range(plane.count))
        bounded |= asked
    slices = {
        index: SlicePrompt(
            np.array(boxes.get(index, [])).reshape(-1, 4),
            inside.get(index, nothing),
            outside.get(index, nothing),
            regions.get(index),
            text,
        )
        for index in sorted(asked)
    }
    alone = {index: points for index, points in outside.items() if index not in slices}
    return Plan(slices, alone, clicks[True], frozenset(bounded), text)


def _boxes(target: Target, scan: Scan, plane: Plane) -> tuple[dict[int, list[NDArray[np.float64]]], set[int]]:
    """Slice index → boxes (4,) in picture pixels; and the slices of those that span several."""
    found: dict[int, list[NDArray[np.float64]]] = {}
    bounded: set[int] = set()
    for box in target.boxes:
        corners = np.array(locate_box(box, scan))
        xy = plane.to_picture(corners)
        low, high = xy.min(0), xy.max(0)
        if np.any(low >= high):
            thin = "ijk"[(plane.columns, plane.rows)[int(np.argmax(low >= high))]]
            raise InputError(
                f"the box from {_text(corners[0])} to {_text(corners[1])} ({scan.cell} ijk) has no extent along {thin}",
                f"slices of {scan.provenance.path} are {plane.name}, across {plane.axis}: a box may be flat along "
                f"{plane.axis} only (--slices chooses another plane)"
                if plane.count > 1
                else "give x0 < x1 and y0 < y1",
            )
        depth = corners[:, plane.through]
        # Millimetres that mean one slice may straddle its edge: a box thinner than a slice lies in its middle's.
        first, last = (int(np.rint(value)) for value in (depth if np.ptp(depth) >= 0.999 else [depth.mean()] * 2))
        bounded |= set(range(first, last + 1)) if last > first else set()
        for index in range(first, last + 1):
            found.setdefault(index, []).append(np.concatenate([low, high]))
    return found, bounded


def _by_slice(ijk: NDArray[np.float64], plane: Plane) -> dict[int, NDArray[np.float64]]:
    """Clicks (N, 3) by the slice they lie in, as picture pixels (P, 2)."""
    depth = np.rint(ijk[:, plane.through]).astype(int)
    return {int(index): plane.to_picture(ijk[depth == index]) for index in np.unique(depth)}


def _text(ijk: NDArray[np.float64]) -> str:
    return ",".join(f"{value:g}" for value in ijk.round(2))
