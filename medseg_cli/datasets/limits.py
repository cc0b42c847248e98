"""The limits of a preset's quality flags, measured on cases with known masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from medseg_cli.datasets.case import Case
from medseg_cli.datasets.pairs import load_pair
from medseg_cli.errors import InputError
from medseg_cli.measure import Measurement, measure
from medseg_cli.preset_format import Preset
from medseg_cli.preset_quality import IntensityLimits, ObjectLimits, Quality
from medseg_cli.quality import intensity_percentiles, patient_spacing
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation

Objects = Literal["together", "apart"]
Range = tuple[float, float]

SIZE = 1.25
"""Factor by which an object may be smaller or larger than any that was seen."""
SPACING = 1.5
"""Factor by which voxels may be finer or coarser than any that were seen."""
VALUES = 0.05
"""How far percentiles may lie beyond those seen, as share of the way from the least to the greatest of all."""
USUAL = 0.95
"""Share of the objects that are not split into more parts than the limit."""
CUT_OFF = 0.1
"""Where a larger share of the objects than this reaches the edge of the scan, that is no news."""
MOST = 300
"""Cases that are looked at, evenly spaced where there are more."""
DIGITS = 3


def quality_of(
    cases: Sequence[Case],
    preset: Preset,
    objects: Objects,
    source: str,
    tell: Callable[[Case], None] = lambda case: None,
) -> Quality:
    """What the masks and scans of cases are like, a little widened.

    Args:
        cases: those that a network was trained on.
        preset: whose labels and modality count; its scores' limits are kept.
        objects: of prompted presets: whether all label values of a case are one object.
        source: data and command, for the preset.
        tell: called before each case.

    Raises:
        InputError: no case, one cannot be read, or no mask has a value that the preset names.
    """
    chosen = [cases[index] for index in np.unique(np.linspace(0, len(cases) - 1, min(len(cases), MOST)).astype(int))]
    units: Literal["scan", "relative"] = "scan" if set(preset.modality) == {"CT"} else "relative"
    sizes: dict[int, list[tuple[Measurement, Scan]]] = {}
    spacings: list[tuple[float, ...]] = []
    values: list[dict[int, float]] = []
    for case in chosen:
        tell(case)
        scan, labels = load_pair(case)
        found = [each for each in measure(_objects(scan, labels, preset, objects), shapes=False) if not each.empty]
        # The voxels themselves are not kept.
        light = _without_voxels(scan)
        for each in found:
            value = each.label.value if preset.prompts.tells_apart else preset.labels[0].value
            sizes.setdefault(value, []).append((each, light))
        if scan.spacing_known:
            spacings.append(patient_spacing(scan))
        percentiles = intensity_percentiles(scan, found, units)
        if percentiles is not None:
            values.append(percentiles)
    if not sizes:
        raise InputError(
            f"no case has an object that preset {preset.name} names", "choose the dataset that the preset was made for"
        )
    before = preset.quality or Quality()
    return Quality(
        labels={value: _object_limits(sizes[value]) for value in sorted(sizes)},
        spacing_mm=_spacing_limits(spacings),
        intensity=IntensityLimits(units=units, percentiles=_value_limits(values)) if values else None,
        predicted_iou=before.predicted_iou,
        uncertainty=before.uncertainty,
        agreement=before.agreement,
        presence=before.presence,
        cases=len(chosen),
        source=source,
    )


def as_yaml(quality: Quality) -> str:
    """The section as it stands in a preset's file; what has no limit is left out."""
    data = quality.model_dump(exclude_none=True)
    return yaml.safe_dump({"quality": data}, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def _objects(scan: Scan, labels: NDArray[np.int64], preset: Preset, objects: Objects) -> Segmentation:
    """The reference as if it were a result: the labels of a preset that tells them apart, else one per object."""
    if not preset.prompts.tells_apart:
        values = np.unique(labels[labels > 0]).tolist() if objects == "apart" else [None]
        mask = np.zeros(labels.shape, np.uint16)
        for number, value in enumerate(values, start=1):
            mask[labels > 0 if value is None else labels == value] = number
        return Segmentation(mask, tuple(Label(number + 1, str(value)) for number, value in enumerate(values)), scan)
    known = tuple(Label(label.value, label.name) for label in preset.labels)
    mask = np.where(np.isin(labels, [label.value for label in known]), labels, 0).astype(np.uint16)
    return Segmentation(mask, known, scan)


def _without_voxels(scan: Scan) -> Scan:
    """The same grid without what it weighs."""
    empty = np.broadcast_to(np.float32(0), (1, *scan.shape))
    return Scan(empty, scan.affine, scan.provenance, scan.modality, scan.spacing_known, scan.position_known)


def _object_limits(seen: list[tuple[Measurement, Scan]]) -> ObjectLimits:
    volumes = [each.volume_mm3 / 1000 for each, _ in seen if each.volume_mm3 is not None]
    areas = [each.area_mm2 for each, _ in seen if each.area_mm2 is not None]
    shares = [each.voxels / math.prod(scan.shape) for each, scan in seen if scan.is_picture]
    parts = sorted(each.components or 1 for each, _ in seen)
    cut = sum(bool(each.touches_border) for each, _ in seen) / len(seen)
    return ObjectLimits(
        volume_ml=_widened(volumes, SIZE),
        area_mm2=_widened(areas, SIZE),
        area_share=_widened(shares, SIZE),
        components=parts[math.ceil(USUAL * len(parts)) - 1],
        border=cut <= CUT_OFF,
    )


def _spacing_limits(seen: list[tuple[float, ...]]) -> tuple[Range, ...] | None:
    """Per axis; None where no scan states its voxel size, or where pictures and volumes are mixed."""
    if len({len(each) for each in seen}) != 1:
        return None
    limits = [_widened(list(axis), SPACING) for axis in zip(*seen, strict=True)]
    return tuple(each for each in limits if each is not None)


def _value_limits(seen: list[dict[int, float]]) -> dict[int, Range]:
    extent = max(max(each.values()) for each in seen) - min(min(each.values()) for each in seen)
    return {
        percentile: (
            _short(min(each[percentile] for each in seen) - VALUES * extent),
            _short(max(each[percentile] for each in seen) + VALUES * extent),
        )
        for percentile in seen[0]
    }


def _widened(values: list[float], factor: float) -> Range | None:
    return (_short(min(values) / factor), _short(max(values) * factor)) if values else None


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
