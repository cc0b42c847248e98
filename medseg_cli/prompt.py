"""Prompts: what the user points at, in a stated frame, resolved to voxels of one scan.

`Click` and `Box` are what was typed (any frame), `Region` a coarse mask, `Text` words, `Target` one object with all its
prompts, `Prompt` all objects of one run. `locate` and `locate_box` are the only places where a typed coordinate becomes
a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.scan import Scan

Frame = Literal["ijk", "ras", "lps"]
FRAMES: tuple[Frame, ...] = ("ijk", "ras", "lps")


@dataclass(frozen=True)
class Click:
    """One click as typed.

    Args:
        position: (x, y, z) in `frame`: voxel index for "ijk", mm for "ras" and "lps". (x, y) means a place in a plane,
            which `slices.in_volume` completes.
        frame: coordinate frame of `position`.
        positive: True = inside the object, False = outside it.
    """

    position: tuple[float, ...]
    frame: Frame = "ijk"
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """One box as typed, its sides along the scan's voxel axes.

    Args:
        first, second: two opposite corners (x, y, z), or (x, y) in a plane. In "ijk" `first` is the smaller along every
            axis and both corner voxels are inside: 10 to 20 are eleven voxels. A box that is flat along one axis lies
            in one slice.
        frame: coordinate frame of both; in mm the corners are points in any order, because the scan's axes may run
            against the frame's or lie oblique in it.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]
    frame: Frame = "ijk"


@dataclass(frozen=True, eq=False)
class Region:
    """A coarse mask as prompt.

    Args:
        labels: (I, J, K) the file's values on the scan's own grid, shared by all its regions.
        path: the file it came from.
        sha256: of that file.
        value: which of the values it is; there is at least one voxel of it.
    """

    labels: NDArray[Any]
    path: Path
    sha256: str
    value: int

    @property
    def voxels(self) -> NDArray[np.bool_]:
        """(I, J, K) bool, computed anew: kept for a hundred organs, they would fill the memory."""
        inside: NDArray[np.bool_] = self.labels == self.value
        return inside


@dataclass(frozen=True)
class Text:
    """What an object is, in words.

    Args:
        positive: phrasings that mean it; several count as their mean.
        negative: what it could be taken for and is not.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """One object to segment: `id` keeps objects apart, `label` names it, the rest shows where or what it is.

    An `absent` one may have nothing but clicks outside it: evaluations ask whether the answer is an empty mask.
    """

    id: str
    label: str
    clicks: tuple[Click, ...] = ()
    boxes: tuple[Box, ...] = ()
    region: Region | None = None
    text: Text | None = None
    absent: bool = False


@dataclass(frozen=True)
class Prompt:
    """All objects of one run, in the order in which they get mask values 1, 2, 3..."""

    targets: tuple[Target, ...] = ()


def locate(click: Click, scan: Scan) -> tuple[float, float, float]:
    """Continuous voxel index ijk of a click in `scan`.

    Raises:
        InputError: outside the scan, with the valid range; a voxel reaches half a voxel round its centre.
    """
    return _voxel(click.position, click.frame, scan, f"click {_text(click.position)}")


def locate_box(box: Box, scan: Scan) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Smallest and largest continuous voxel index ijk of a box in `scan`, along each axis.

    In "ras" and "lps" the two corners are points; the box between them runs along the scan's own axes.

    Raises:
        InputError: a corner outside the scan, or in "ijk" corners that do not span a box: `first` must be smaller along
            every axis but one, along which both may be equal (one slice).
    """
    name = f"box {_text(box.first)} to {_text(box.second)}"
    against = [axis for axis, a, b in zip("xyz", box.first, box.second, strict=False) if a > b]
    flat = [axis for axis, a, b in zip("xyz", box.first, box.second, strict=False) if a == b]
    if box.frame == "ijk" and (against or len(flat) > 1):
        sides = zip("xyz", box.first, box.second, strict=False)
        pairs = ", ".join(f"{axis}0 {a:g}, {axis}1 {b:g}" for axis, a, b in sides)
        raise InputError(
            f"{name} ({box.frame}) is no box: {pairs}",
            "give the smaller corner first: x0 < x1 and y0 < y1 (z0 = z1 is a box in one slice)",
        )
    corners = np.array([_voxel(corner, box.frame, scan, name) for corner in (box.first, box.second)])
    low, high = corners.min(0).tolist(), corners.max(0).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _voxel(position: tuple[float, ...], frame: Frame, scan: Scan, name: str) -> tuple[float, float, float]:
    if len(position) != 3:
        raise InputError(
            f"{name} has {len(position)} coordinates, {scan.provenance.path} is a volume of {scan.shape} voxels",
            "give x,y,z, or x,y together with --slice",
        )
    ijk = scan.world_to_voxel(np.array([position]), frame)[0]
    size = np.array(scan.shape)
    if not np.all(np.isfinite(ijk)) or np.any(ijk < -0.5) or np.any(ijk > size - 0.5):
        corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * (size - 1)
        world = scan.voxel_to_world(corners, frame)
        span = ", ".join(
            f"{axis} {low:g}..{high:g}"
            for axis, low, high in zip(
                "ijk" if frame == "ijk" else "xyz", world.min(0).round(2), world.max(0).round(2), strict=True
            )
        )
        unit = f"{scan.cell}s" if frame == "ijk" else "mm"
        other = "" if frame == "ijk" else f", {scan.cell} {tuple(round(float(v), 1) for v in ijk)} of {scan.shape}"
        raise InputError(
            f"{name} ({frame}) lies outside {scan.provenance.path}{other}",
            f"valid range in {frame} {unit}: {span}; check --coords (ijk, ras or lps)",
        )
    i, j, k = np.clip(ijk, 0, size - 1)
    return (float(i), float(j), float(k))


def _text(position: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in position)
