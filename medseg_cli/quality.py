"""What makes a result worth a second look: flags, each with the number that raised it and the limit that it broke.

The limits stand in the preset (`quality:`), where `medseg dataset quality` and `medseg finetune` put what they measured
on training cases. Without limits only what needs none is flagged: an empty object, one that reaches the edge of the
scan, and a scan of another modality than the preset's. docs/quality.md explains each flag.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg_cli.measure import Measurement
from medseg_cli.preset_format import Preset
from medseg_cli.preset_quality import ObjectLimits, Quality
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation, Spread

Code = Literal[
    "empty",
    "presence",
    "volume",
    "components",
    "border",
    "predicted-iou",
    "uncertain",
    "jumps",
    "agreement",
    "intensity",
    "spacing",
    "modality",
]
PERCENTILES = (10, 25, 50, 75, 90)
"""Of the values round the objects, held against the preset's limits."""
SPAN = (1, 99)
"""Percentiles that are 0 and 1 of relative values."""
AROUND_MM = 5.0
"""How far round each object of a volume values count: little, so that a crop and the whole head give alike numbers."""
STEADY = 0.5
"""Dice of the masks of neighbouring frames, median, below which they are no one object that is followed."""
RANGES_TOLD = 8
"""Most ranges of frames in a message; the report has them all."""
SAMPLE = 1_000_000
"""Values that percentiles are taken from, at most."""


@dataclass(frozen=True)
class Flag:
    """One reason to look at a result.

    Args:
        code: for scripts.
        message: one sentence with the numbers.
        label: mask value of the object; None where it is about the scan.
        value: what was found, in the unit of the message; None where there is no number.
        limit: least and largest value that raises no flag, None at an open end; None where there is no limit.
    """

    code: Code
    message: str
    label: int | None = None
    value: float | None = None
    limit: tuple[float | None, float | None] | None = None


def check(segmentation: Segmentation, measurements: Sequence[Measurement], preset: Preset) -> tuple[Flag, ...]:
    """All flags of a result, those of its objects first.

    Args:
        segmentation: what was found; its provenance may hold the network's own scores.
        measurements: of `measure`, one per label.
        preset: what made it, with the limits.
    """
    quality = preset.quality or Quality()
    flags: list[Flag] = []
    for each in measurements:
        scores = [
            *_scores(each.label, segmentation.provenance, quality),
            *_agreement(each.label, segmentation.spread, quality),
            *_over_time(each.label, segmentation.provenance, segmentation.scan),
        ]
        # What is not there is empty: one flag says so.
        if not (each.empty and any(flag.code == "presence" for flag in scores)):
            flags += _object(each, limits_of(each.label, preset), segmentation.scan)
        flags += scores
    flags += _scan(segmentation.scan, measurements, preset, quality)
    return tuple(flags)


def limits_of(label: Label, preset: Preset) -> ObjectLimits:
    """Limits of an object: those of the preset's label with its value, or where objects are prompted its name.

    A prompted object with a name of the user's own is what the preset was made for: its first label.
    """
    found = preset.quality.labels if preset.quality else {}
    if preset.prompts.automatic:
        return found.get(label.value, ObjectLimits())
    named = (each.value for each in preset.labels if label.name == each.name or label.name.startswith(f"{each.name} ("))
    value = next(named, preset.labels[0].value if preset.labels else 0)
    return found.get(value, ObjectLimits())


def _object(found: Measurement, limits: ObjectLimits, scan: Scan) -> Iterator[Flag]:
    name, value = found.label.name, found.label.value
    if found.empty:
        yield Flag("empty", f"{name}: nothing was segmented", value, 0.0)
        return
    for size, limit, unit in _sizes(found, limits, scan):
        if limit is not None and size is not None and not limit[0] <= size <= limit[1]:
            text = f"{name}: {size:.3g} {unit} lie outside {limit[0]:.3g} to {limit[1]:.3g} {unit}"
            yield Flag("volume", text, value, size, limit)
            break
    if limits.components is not None and found.components is not None and found.components > limits.components:
        text = f"{name}: {found.components} separate parts, {limits.components} at most are usual"
        yield Flag("components", text, value, float(found.components), (None, float(limits.components)))
    if limits.border and found.touches_border:
        yield Flag("border", f"{name}: reaches the edge of the scan and may go on beyond it", value)


def _sizes(
    found: Measurement, limits: ObjectLimits, scan: Scan
) -> tuple[tuple[float | None, tuple[float, float] | None, str], ...]:
    """(size, limits, unit) of an object, the more telling first; a size that does not exist is None."""
    millilitres = None if found.volume_mm3 is None else found.volume_mm3 / 1000
    pixels = found.frames.mean_pixels if found.frames else float(found.voxels)
    share = pixels / float(np.prod(scan.shape[:2])) if scan.flat else None
    return (
        (millilitres, limits.volume_ml, "mL"),
        (found.area_mm2, limits.area_mm2, "mm²"),
        (share, limits.area_share, "of the picture"),
    )


def _scores(label: Label, provenance: dict[str, Any], quality: Quality) -> Iterator[Flag]:
    """What the network thinks of its own answer; see `predicted_iou` and `presence`."""
    for code, score, least, what in (
        ("predicted-iou", predicted_iou(label, provenance), quality.predicted_iou, "the network's own score"),
        (
            "presence",
            presence(label, provenance),
            _least(label, provenance, quality),
            "the probability that it is there",
        ),
    ):
        if score is not None and least is not None and score < least:
            text = f"{label.name}: {what} is {score:.2f}, below {least:g}"
            yield Flag(code, text, label.value, score, (least, None))  # type: ignore[arg-type]
    doubt, most = uncertainty(label, provenance), quality.uncertainty
    if doubt is not None and most is not None and doubt > most:
        text = f"{label.name}: the doubt along its border is {doubt:.1f}, above {most:g}"
        yield Flag("uncertain", text, label.value, doubt, (None, most))


def _agreement(label: Label, spread: Spread | None, quality: Quality) -> Iterator[Flag]:
    """How well several answers agree with the mask, where they were compared."""
    if spread is None or quality.agreement is None:
        return
    found = float(spread.scores[label.value]["agreement"]["mean"])
    if found < quality.agreement:
        text = f"{label.name}: {spread.answers} {spread.of} agree with the mask to Dice {found:.3f} only, "
        yield Flag("agreement", f"{text}below {quality.agreement:g}", label.value, found, (quality.agreement, None))


def _over_time(label: Label, provenance: dict[str, Any], scan: Scan) -> Iterator[Flag]:
    """Frames of a cine whose mask does not fit those beside them: `objects[...]["time"]`; at most one flag."""
    objects = provenance.get("objects") or []
    facts = objects[label.value - 1].get("time") if label.value <= len(objects) else None
    if not facts:
        return
    count, lost, overlap = scan.shape[2], sorted({*facts["jumps"], *facts["gaps"]}), facts["overlap"]
    told = []
    if overlap is not None and overlap < STEADY:
        told.append(f"masks of neighbouring frames overlap by {overlap:.2f} (Dice, median)")
    elif lost:
        filled = len({*facts["filled"]} & {*lost})
        shape = f"; {filled} got the shape between those beside" if filled else ""
        told.append(f"the mask fits no neighbour in {len(lost)} of {count} frames ({_ranges(lost)}){shape}")
    if facts["lasting"]:
        told.append(f"the mask is another one from frame {_ranges(facts['lasting'])} on")
    if told:
        frames = float(len({*lost, *facts["lasting"]}))
        yield Flag("jumps", f"{label.name}: {'; '.join(told)}", label.value, frames, (None, 0.0))


def _ranges(frames: Sequence[int]) -> str:
    """Frame numbers in order as people write them: 3, 7 to 9; the first few of many."""
    parts: list[list[int]] = []
    for frame in frames:
        if parts and frame == parts[-1][-1] + 1:
            parts[-1].append(frame)
        else:
            parts.append([frame])
    words = [f"{part[0]} to {part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts]
    more = f" and {len(words) - RANGES_TOLD} more" if len(words) > RANGES_TOLD else ""
    return ", ".join(words[:RANGES_TOLD]) + more


def predicted_iou(label: Label, provenance: dict[str, Any]) -> float | None:
    """The network's own estimate of a mask's IoU, mean over its slices: `objects[...]["predicted_iou"]["mean"]`."""
    return _mean(label, provenance, "predicted_iou")


def uncertainty(label: Label, provenance: dict[str, Any]) -> float | None:
    """How unsure a mask is, mean over its slices: `objects[...]["uncertainty"]["mean"]`."""
    return _mean(label, provenance, "uncertainty")


def _mean(label: Label, provenance: dict[str, Any], what: str) -> float | None:
    objects = provenance.get("objects") or []
    scores = objects[label.value - 1].get(what) if label.value <= len(objects) else None
    return float(scores["mean"]) if scores else None


def presence(label: Label, provenance: dict[str, Any]) -> float | None:
    """How probable it is that an object is in the scan: `presence`, a list of {"label", "probability", "threshold"}."""
    said = {each["label"]: each["probability"] for each in provenance.get("presence") or []}
    return float(said[label.value]) if label.value in said else None


def _least(label: Label, provenance: dict[str, Any], quality: Quality) -> float | None:
    """Probability from which an object counts as there: the limit of the preset, else what the pipeline went by."""
    said = {each["label"]: each.get("threshold") for each in provenance.get("presence") or []}
    return quality.presence if quality.presence is not None else said.get(label.value)


def _scan(scan: Scan, measurements: Sequence[Measurement], preset: Preset, quality: Quality) -> Iterator[Flag]:
    if scan.modality and "any" not in preset.modality and scan.modality not in preset.modality:
        yield Flag("modality", f"the scan is {scan.modality}, the preset is made for {', '.join(preset.modality)}")
    if quality.spacing_mm is not None and scan.spacing_known:
        spacing = patient_spacing(scan)
        # Limits of pictures say nothing of a volume's slices.
        if len(spacing) == len(quality.spacing_mm):
            yield from _spacing(spacing, quality.spacing_mm, scan.cell)
    if quality.intensity is not None:
        percentiles = intensity_percentiles(scan, measurements, quality.intensity.units)
        if percentiles is not None:
            yield from _intensity(percentiles, quality.intensity.percentiles, quality.intensity.units)


def _spacing(spacing: tuple[float, ...], limits: tuple[tuple[float, float], ...], cell: str) -> Iterator[Flag]:
    """At most one flag: the axis that is farthest off gives the number."""
    # In factors, because 0.1 mm more is much for a fine axis and nothing for a coarse one.
    off = [max(low / size, size / high) for size, (low, high) in zip(spacing, limits, strict=True)]
    worst = int(np.argmax(off))
    if off[worst] > 1:
        told, usual = (
            " x ".join(f"{size:.3g}" for size in spacing),
            " x ".join(f"{low:.3g}..{high:.3g}" for low, high in limits),
        )
        yield Flag("spacing", f"{cell}s of {told} mm lie outside {usual} mm", None, spacing[worst], limits[worst])


def _intensity(
    found: dict[int, float], limits: dict[int, tuple[float, float]], units: Literal["scan", "relative"]
) -> Iterator[Flag]:
    """At most one flag: the percentile that is farthest outside its limits."""
    excess = {p: max(low - found[p], found[p] - high) for p, (low, high) in limits.items() if p in found}
    if not excess or max(excess.values()) <= 0:
        return
    worst = max(excess, key=lambda p: excess[p])
    (low, high), value = limits[worst], found[worst]
    where = "of the way from dark to bright" if units == "relative" else "in the scan's units"
    text = f"the {worst}th percentile of the values lies at {value:.3g} {where}, outside {low:.3g} to {high:.3g}"
    yield Flag("intensity", text, None, value, (low, high))


def patient_spacing(scan: Scan) -> tuple[float, ...]:
    """Voxel size in mm from right to left, back to front and feet to head; of a picture or its frames along i and j."""
    if scan.flat:
        return scan.spacing[:2]
    axis = {letter: index for index, letter in enumerate(scan.orientation)}
    return tuple(scan.spacing[next(axis[each] for each in pair if each in axis)] for pair in ("RL", "AP", "SI"))


def intensity_percentiles(
    scan: Scan, measurements: Sequence[Measurement], units: Literal["scan", "relative"]
) -> dict[int, float] | None:
    """`PERCENTILES` of a scan's finite values: of a picture all, of a volume those within `AROUND_MM` of the objects.

    Colours count by their mean.

    Returns:
        In the scan's units, or as places between the 1st and the 99th percentile; None without an object in a volume,
        without a finite value, and where all values are alike.
    """
    boxes = [(slice(None),) * 3] if scan.flat else _around(scan, measurements)
    if not boxes:
        return None
    values = np.concatenate([_drawn(scan.voxels[:, i, j, k], SAMPLE // len(boxes)) for i, j, k in boxes])
    low, *middle, high = np.percentile(values, [SPAN[0], *PERCENTILES, SPAN[1]]) if values.size else (0.0, 0.0)
    if not high > low:
        return None
    if units == "relative":
        middle = [(value - low) / (high - low) for value in middle]
    return {percentile: float(value) for percentile, value in zip(PERCENTILES, middle, strict=True)}


def _around(scan: Scan, measurements: Sequence[Measurement]) -> list[tuple[slice, slice, slice]]:
    """The box round each object, wider by `AROUND_MM`."""
    wider = np.rint(AROUND_MM / np.array(scan.spacing)).astype(int)
    boxes = []
    for each in measurements:
        if each.first_ijk is not None and each.last_ijk is not None:
            low = np.maximum(np.array(each.first_ijk) - wider, 0)
            high = np.minimum(np.array(each.last_ijk) + wider + 1, scan.shape)
            i, j, k = (slice(int(start), int(end)) for start, end in zip(low, high, strict=True))
            boxes.append((i, j, k))
    return boxes


def _drawn(voxels: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Finite values (N,), N at most `most`, of voxels (C, I, J, K); of more always the same are drawn."""
    count = int(np.prod(voxels.shape[1:]))
    if count > most:
        i, j, k = np.unravel_index(np.random.default_rng(0).integers(count, size=most), voxels.shape[1:])
        values = voxels[:, i, j, k].mean(axis=0)
    else:
        values = voxels.mean(axis=0).ravel()
    finite: NDArray[np.float32] = values[np.isfinite(values)]
    return finite
