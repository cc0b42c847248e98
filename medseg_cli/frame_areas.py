"""How large an object is in each frame of a cine: areas that come and go, of which no volume can be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medseg_cli.scan import Scan

NO_VOLUME = "frames over time have areas and no volume"
NO_PLACE = "frames over time: the third axis is no place in the patient"
NO_SHAPE_OVER_TIME = "frames over time: an object has a shape in each of them and none over all"


@dataclass(frozen=True)
class FrameAreas:
    """One object of a cine.

    Args:
        pixels: (K,) in each frame, 0 where it is not.
        pixel_mm2: area of a pixel; None where the pixel size is unknown.
    """

    pixels: tuple[int, ...]
    pixel_mm2: float | None

    @property
    def shown(self) -> tuple[int, ...]:
        """Frames that have any of it, counted from 0."""
        return tuple(frame for frame, count in enumerate(self.pixels) if count)

    @property
    def mean_pixels(self) -> float:
        """Of the frames that show it; 0 where none does."""
        return sum(self.pixels) / max(1, len(self.shown))

    @property
    def mean_mm2(self) -> float | None:
        """The same in mm²; None where the pixel size is unknown."""
        return None if self.pixel_mm2 is None else self.mean_pixels * self.pixel_mm2


def frame_rate(seconds: Sequence[float] | None) -> float | None:
    """Frames per second, the mean over all; None where it is unknown."""
    if seconds is None or len(seconds) < 2 or seconds[-1] <= seconds[0]:
        return None
    return float(f"{(len(seconds) - 1) / (seconds[-1] - seconds[0]):.7g}")


def areas_of(counts: Sequence[int], first: int, scan: Scan) -> FrameAreas | None:
    """The areas of an object; None in a scan that is no cine.

    Args:
        counts: pixels of the object in frame `first` and those that follow; none elsewhere.
        first: counted from 0.
        scan: on whose grid it lies.
    """
    if not scan.cine:
        return None
    pixels = [0] * scan.shape[2]
    pixels[first : first + len(counts)] = [int(count) for count in counts]
    return FrameAreas(tuple(pixels), scan.spacing[0] * scan.spacing[1] if scan.spacing_known else None)


def report_of(areas: FrameAreas | None) -> dict[str, Any] | None:
    """`frames` of a label in the report: mean, least and most of the frames that show it, and the count in each."""
    if areas is None:
        return None
    shown = areas.shown
    least = min(shown, key=lambda frame: areas.pixels[frame], default=None)
    most = max(shown, key=lambda frame: areas.pixels[frame], default=None)
    told: dict[str, Any] = {
        "count": len(areas.pixels),
        "shown": len(shown),
        "first": shown[0] if shown else None,
        "last": shown[-1] if shown else None,
        "least_frame": least,
        "most_frame": most,
    }
    told |= {"pixels": None, "area_mm2": None}
    if least is not None and most is not None:
        told["pixels"] = {
            "mean": round(areas.mean_pixels, 3),
            "min": areas.pixels[least],
            "max": areas.pixels[most],
        }
        told["area_mm2"] = areas.pixel_mm2 and {
            key: round(value * areas.pixel_mm2, 3) for key, value in told["pixels"].items()
        }
    told["pixels_per_frame"] = list(areas.pixels)
    scale = areas.pixel_mm2
    return {**told, "area_mm2_per_frame": scale and [round(count * scale, 3) for count in areas.pixels]}
