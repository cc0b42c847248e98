"""Prompts: what the user points at, in a stated frame, resolved to voxels of one scan.

`Click` is what was typed (any frame), `Target` one object with its clicks, `Prompt` all objects of one run.
`locate` is the only place where a typed coordinate becomes a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medseg_cli.errors import InputError
from medseg_cli.scan import Scan

Frame = Literal["ijk", "ras", "lps"]
FRAMES: tuple[Frame, ...] = ("ijk", "ras", "lps")


@dataclass(frozen=True)
class Click:
    """One click as typed.

    Args:
        position: (x, y, z) in `frame`: voxel index for "ijk", mm for "ras" and "lps".
        frame: coordinate frame of `position`.
        positive: True = inside the object, False = outside it.
    """

    position: tuple[float, float, float]
    frame: Frame = "ijk"
    positive: bool = True


@dataclass(frozen=True)
class Target:
    """One object to segment: `id` keeps objects apart, `label` names it, `clicks` show where it is."""

    id: str
    label: str
    clicks: tuple[Click, ...]


@dataclass(frozen=True)
class Prompt:
    """All objects of one run, in the order in which they get mask values 1, 2, 3..."""

    targets: tuple[Target, ...] = ()


def locate(click: Click, scan: Scan) -> tuple[float, float, float]:
    """Continuous voxel index ijk of a click in `scan`.

    Raises:
        InputError: outside the scan, with the valid range; a voxel reaches half a voxel round its centre.
    """
    ijk = scan.world_to_voxel(np.array([click.position]), click.frame)[0]
    size = np.array(scan.shape)
    if not np.all(np.isfinite(ijk)) or np.any(ijk < -0.5) or np.any(ijk > size - 0.5):
        corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * (size - 1)
        world = scan.voxel_to_world(corners, click.frame)
        span = ", ".join(
            f"{axis} {low:g}..{high:g}"
            for axis, low, high in zip(
                "ijk" if click.frame == "ijk" else "xyz", world.min(0).round(2), world.max(0).round(2), strict=True
            )
        )
        unit = "voxels" if click.frame == "ijk" else "mm"
        other = "" if click.frame == "ijk" else f", voxel {tuple(round(float(v), 1) for v in ijk)} of {scan.shape}"
        raise InputError(
            f"click {_text(click.position)} ({click.frame}) lies outside {scan.provenance.path}{other}",
            f"valid range in {click.frame} {unit}: {span}; check --coords (ijk, ras or lps)",
        )
    i, j, k = np.clip(ijk, 0, size - 1)
    return (float(i), float(j), float(k))


def _text(position: tuple[float, float, float]) -> str:
    return ",".join(f"{value:g}" for value in position)
