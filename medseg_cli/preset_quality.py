"""What a preset expects of scans and results: outside these limits a result is flagged, see `quality`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from medseg_cli.preset_section import Finite, Section, Text


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if low > high:
        raise PydanticCustomError("order", f"the first limit, {low:g}, must not be above the second, {high:g}")
    return limits


Limits = Annotated[tuple[Finite, Finite], AfterValidator(_ordered)]
"""Least and largest value that is not flagged."""
Share = Annotated[float, Field(ge=0, le=1)]


class ObjectLimits(Section):
    """What one label's mask is expected to be like; what is left out is not asked.

    Attributes:
        volume_ml: of a volume.
        area_mm2: of a picture whose pixel size is known.
        area_share: of a picture: pixels of the object divided by all.
        components: most parts (voxels that share a face, an edge or a corner are one).
        border: whether reaching the edge of the scan is worth a flag.
    """

    volume_ml: Limits | None = None
    area_mm2: Limits | None = None
    area_share: Limits | None = None
    components: Annotated[int, Field(ge=1)] | None = None
    border: bool = True


class IntensityLimits(Section):
    """Where the percentiles of a scan's values round the objects lie.

    Attributes:
        units: "scan": the scan's own (HU); "relative": 0 is the 1st percentile and 1 the 99th, for scans whose numbers
            mean nothing by themselves.
        percentiles: percentile (1 to 99) → limits.
    """

    units: Literal["scan", "relative"]
    percentiles: dict[Annotated[int, Field(ge=1, le=99)], Limits]


class Quality(Section):
    """Limits beyond which a result is flagged; what is left out is not asked.

    Attributes:
        labels: label value → what its mask is expected to be like.
        spacing_mm: voxel size from right to left, back to front and feet to head; of pictures along i and j.
        intensity: values of the scan.
        predicted_iou: least score that the network gives its own masks, 0 to 1.
        uncertainty: most doubt of a mask, see `medseg_cli.uncertainty`; 100 = a border of undecided pixels.
        agreement: least mean Dice of several answers with the mask, 0 to 1; asked with --uncertainty alone.
        presence: least probability that what was asked for is in the scan, 0 to 1.
        cases: how many the limits come from; None where they were not measured.
        source: data and command that gave them.
    """

    labels: dict[int, ObjectLimits] = Field(default_factory=dict)
    spacing_mm: Annotated[tuple[Limits, ...], Field(min_length=2, max_length=3)] | None = None
    intensity: IntensityLimits | None = None
    predicted_iou: Share | None = None
    uncertainty: Annotated[float, Field(ge=0)] | None = None
    agreement: Share | None = None
    presence: Share | None = None
    cases: Annotated[int, Field(ge=1)] | None = None
    source: Text | None = None
