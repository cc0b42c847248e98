"""Measures of the ellipse of an object in a picture or in the frames of a cine, on the grid of its scan.

Of a fetal head the circumference is the head circumference (HC), the long axis the occipitofrontal diameter (OFD) and
the short axis the biparietal diameter (BPD), all from outer to outer border as HC18 has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg_cli.ellipse import Ellipse, Fitted, Points, fit
from medseg_cli.scan import Scan

Pair = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Biometry:
    """The ellipse of one object in one plane.

    Args:
        unit: "mm", or "px" where the picture does not state its pixel size.
        circumference, long_axis, short_axis: whole axes, in that unit.
        area: in its square.
        angle_deg: from the i axis (to the right in a picture) towards the j axis (down) to the long axis, 0 to 180.
        center_ijk: of the ellipse.
        long_axis_ijk, short_axis_ijk: voxel indices of both ends, where callipers would stand.
        overlap, seen, parts: as in `ellipse.Fitted`.
        frame: index along k.
        rim: by how much the ellipse is smaller all round than the one that fits the mask.
    """

    unit: Literal["mm", "px"]
    circumference: float
    long_axis: float
    short_axis: float
    area: float
    angle_deg: float
    center_ijk: tuple[float, float, float]
    long_axis_ijk: Pair
    short_axis_ijk: Pair
    overlap: float
    seen: float
    parts: int
    frame: int = 0
    rim: float = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What limits its meaning, one sentence each."""
        told = []
        if self.seen < 1:
            told.append(f"{1 - self.seen:.0%} of the ellipse lies beyond what the picture shows and is completed")
        if self.parts > 1:
            told.append(f"it is fitted to the largest of {self.parts} parts")
        if self.rim:
            text = f"it lies {self.rim:.3g} {self.unit} inside the mask's outline"
            told.append(f"{text}: so much wider are the masks that the preset learnt from")
        if self.unit == "px":
            told.append("the pixel size is unknown: lengths are in pixels, taken as square (--spacing states the size)")
        return tuple(told)


def plane(scan: Scan) -> Points:
    """(2, 2): column d is the step of voxel axis d (i, j) in mm, in coordinates of the plane that both span.

    Pixels of a scan that does not know their size have 1; "mm" means pixels then.
    """
    upper: Points = np.linalg.qr(scan.affine[:3, :2])[1]
    return upper if scan.spacing_known else np.eye(2)


def measures_ellipses(scan: Scan) -> bool:
    """Whether it is flat, or frames of something flat: an object of a volume has no ellipse."""
    return scan.shape[2] == 1 or scan.cine


def view(scan: Scan) -> tuple[slice, slice]:
    """The part (I, J) of its pictures that shows something: its `region`, or all."""
    x0, y0, x1, y1 = scan.region or (0, 0, scan.shape[0] - 1, scan.shape[1] - 1)
    return slice(x0, x1 + 1), slice(y0, y1 + 1)


def biometry_of(
    mask: NDArray[np.bool_], scan: Scan, rim: float = 0.0, frame: int = 0, tissue: NDArray[np.bool_] | None = None
) -> tuple[Biometry | None, str]:
    """The ellipse of an object, or why there is none.

    Args:
        mask: (I, J) the object in one frame, on all of the scan's plane.
        scan: for which `measures_ellipses` holds. What lies outside its `region` is not known to be empty.
        rim: by how much masks reach beyond what is measured, as a share of the picture's longer side.
        frame: index along k.
        tissue: (I, J) where the pipeline found that the picture shows tissue; None: it did not look.
    """
    steps, box = plane(scan), view(scan)
    found, why = fit(mask[box], steps, None if tissue is None else tissue[box])
    if found is None:
        return None, why
    longer = int(np.argmax(mask.shape))
    width = rim * mask.shape[longer] * float(np.linalg.norm(steps[:, longer]))
    if width >= found.ellipse.short:
        return None, "it is no larger than the rim that masks of its kind have"
    ellipse = replace(found.ellipse, long=found.ellipse.long - width, short=found.ellipse.short - width)
    told = _told(replace(found, ellipse=ellipse), steps, (box[0].start, box[1].start), frame, scan.spacing_known)
    return replace(told, rim=width), ""


def best(found: Sequence[Biometry | None]) -> Biometry | None:
    """The frame whose object is most nearly an ellipse, the first of equal ones; None where no frame has one."""
    return max((each for each in found if each is not None), key=lambda each: each.overlap, default=None)


def _told(found: Fitted, steps: Points, start: tuple[int, int], frame: int, known: bool) -> Biometry:
    ellipse, inverse = found.ellipse, np.linalg.inv(steps)

    def place(point: Points) -> tuple[float, float, float]:
        i, j = inverse @ point + start
        return float(i), float(j), float(frame)

    def ends(half: float, way: Points) -> Pair:
        return place(ellipse.center - half * way), place(ellipse.center + half * way)

    return Biometry(
        "mm" if known else "px",
        ellipse.circumference,
        2 * ellipse.long,
        2 * ellipse.short,
        ellipse.area,
        _angle(ellipse, steps),
        place(ellipse.center),
        ends(ellipse.long, ellipse.way),
        ends(ellipse.short, ellipse.across),
        found.overlap,
        found.seen,
        found.parts,
        frame,
    )


def _angle(ellipse: Ellipse, steps: Points) -> float:
    """Degrees from the i axis towards the j axis, 0 to 180; signs of the plane's coordinates are not fixed."""
    along = steps[:, 0] / np.linalg.norm(steps[:, 0])
    side = np.array([-along[1], along[0]]) * np.sign(np.linalg.det(steps))
    return float(np.degrees(np.arctan2(ellipse.way @ side, ellipse.way @ along)) % 180)


def to_json(found: Biometry) -> dict[str, Any]:
    """As the report has it: lengths under names that carry their unit, null in mm where only pixels are known."""
    lengths = {"circumference": found.circumference, "long_axis": found.long_axis, "short_axis": found.short_axis}
    known = found.unit == "mm"
    told: dict[str, Any] = {f"{name}_mm": _digits(value) if known else None for name, value in lengths.items()}
    told["area_mm2"] = _digits(found.area) if known else None
    if not known:
        told |= {f"{name}_px": _digits(value) for name, value in lengths.items()} | {"area_px": _digits(found.area)}
    places = {"center_ijk": [found.center_ijk], "long_axis_ijk": found.long_axis_ijk}
    places["short_axis_ijk"] = found.short_axis_ijk
    rounded = {name: [[round(x, 3) + 0.0 for x in point] for point in points] for name, points in places.items()}
    return {
        **told,
        "angle_deg": round(found.angle_deg, 2),
        **rounded,
        "center_ijk": rounded["center_ijk"][0],
        "overlap": round(found.overlap, 4),
        "seen": round(found.seen, 4),
        "parts": found.parts,
        "frame": found.frame,
        "notes": list(found.notes),
    }


def report_of(found: Sequence[Biometry | None]) -> dict[str, Any] | None:
    """What the report says of an object in all frames: its most elliptic frame, and beside it the course of a cine."""
    told = best(found)
    if told is None:
        return None
    unit, course = told.unit, {}
    if len(found) > 1:
        for name in ("circumference", "long_axis", "short_axis"):
            course[f"{name}_{unit}"] = [None if each is None else _digits(getattr(each, name)) for each in found]
    return {**to_json(told), **({"frames": course} if course else {})}


def _digits(value: float) -> float:
    return float(f"{value:.7g}")
