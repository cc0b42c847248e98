"""From a dataset to a preset of pipeline dynunet: spacing, intensities, window and network by stated rules.

The rules are those of nnU-Net (Isensee et al., Nature Methods 18, 2021) without its search over configurations: one
network at one spacing, its window as large as `options.patch_voxels` allows. What a preset states is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets import Case, load_pair
from medseg_cli.errors import InputError
from medseg_cli.geometry import scan_grid, working_grid
from medseg_cli.models.dynunet import Steps
from medseg_cli.pipelines.dynunet import Options, check_scan
from medseg_cli.pipelines.loading import options_of
from medseg_cli.pipelines.objects import PALETTE
from medseg_cli.preset import Preset
from medseg_cli.preset_format import Label
from medseg_cli.preset_intensity import ClipZScore

LOGGER = logging.getLogger("medseg.training")

VOXELS = 10_000
"""Foreground intensities that are taken from each case."""
ANISOTROPIC = 3.0
"""An axis so much coarser than the finest gets the spacing of the finest tenth of the cases, not the median."""
LEAST_EDGE = 16
"""Voxels of a window along an axis that is not much coarser than the others; smaller cases are padded."""
MOST_FILTERS = 320
MOST_RESOLUTIONS = 6


@dataclass(frozen=True, eq=False)
class _Facts:
    """What planning needs of one case: mm and voxels along the preset's axes, values, intensities in the object."""

    id: str
    spacing: tuple[float, float, float]
    extent: tuple[float, float, float]
    values: tuple[int, ...]
    inside: NDArray[np.float32]
    modality: str


def plan(preset: Preset, labels: Mapping[int, str], cases: Sequence[Case]) -> Preset:
    """The preset with everything filled in that the training cases decide; unchanged when it has a network already.

    - spacing: the median along each axis, but the 10th percentile along an axis over three times coarser than the
      finest.
    - intensity: of CT clipped to the 0.5th and 99.5th percentile of the labelled voxels, minus their mean, over their
      standard deviation; of everything else the preset's own.
    - window: a cube in mm of `patch_voxels` voxels, no larger than the median case, rounded up to what the network
      divides.
    - network: resolutions are added while an axis keeps 4 voxels; `base_filters` channels, doubled each time, at most
      320.

    Args:
        preset: of pipeline dynunet.
        labels: value → name, as the dataset names them; empty where it names none.
        cases: the training cases, all of which are read once.

    Raises:
        InputError: a case that cannot be read, or a value that the dataset's own names leave out.
    """
    if preset.model:
        return preset
    options = options_of(preset, Options)
    facts = [_facts(preset, case, number) for number, case in enumerate(cases)]
    named = preset.labels or _labels(labels, facts)
    spacing = preset.preprocessing.spacing or _spacing(np.array([each.spacing for each in facts]))
    extent = np.median([each.extent for each in facts], axis=0) / spacing
    size, kernels, strides = window(extent, spacing, options.patch_voxels)
    modality = {each.modality for each in facts}
    intensity = preset.preprocessing.intensity
    if modality == {"CT"} and intensity.method == "zscore":
        intensity = _clipped(np.concatenate([each.inside for each in facts]))
    sided = any(side in label.name.lower() for label in named for side in ("left", "right"))
    filters = [min(options.base_filters * 2**level, MOST_FILTERS) for level in range(len(strides))]
    model: dict[str, Any] = {"classes": len(named) + 1, "filters": filters}
    model |= {"kernels": [list(each) for each in kernels], "strides": [list(each) for each in strides]}
    chosen = options.model_dump(mode="json") | {
        "patch_size": list(options.patch_size or size),
        "mirror": (not sided) if options.mirror is None else options.mirror,
    }
    filled = preset.model_dump(mode="json") | {
        "title": f"{len(named)} labels without a prompt, by a U-Net",
        "modality": sorted(modality) if "" not in modality else list(preset.modality),
        "model": model,
        "labels": [label.model_dump(mode="json") for label in named],
        "options": chosen,
    }
    filled["preprocessing"] |= {"spacing": spacing, "intensity": intensity.model_dump(mode="json")}
    return Preset.model_validate(filled)


def _facts(preset: Preset, case: Case, number: int) -> _Facts:
    scan, labels = load_pair(case)
    check_scan(scan, preset)
    grid = working_grid(scan_grid(scan), preset.preprocessing.orientation, None)
    foreground = scan.voxels[0][labels > 0]
    drawn = np.random.default_rng(number).integers(len(foreground), size=min(VOXELS, len(foreground)))
    i, j, k = (count * mm for count, mm in zip(grid.shape, grid.spacing, strict=True))
    values = tuple(int(value) for value in np.unique(labels) if value > 0)
    return _Facts(case.id, grid.spacing, (i, j, k), values, foreground[drawn], scan.modality)


def _labels(names: Mapping[int, str], facts: Sequence[_Facts]) -> tuple[Label, ...]:
    """One label per class that the dataset names, or per value found where it names none.

    Raises:
        InputError: a value that has no name while others have.
    """
    found = {value: each.id for each in facts for value in each.values}
    unnamed = sorted(found.keys() - names.keys()) if names else []
    if unnamed:
        known = ", ".join(f"{value} {name}" for value, name in sorted(names.items()))
        raise InputError(
            f"case {found[unnamed[0]]} has label value {unnamed[0]}, and the dataset names only {known}",
            "name the value in the dataset's own listing, or correct the label",
        )
    values = sorted(names or found)
    for value in set(values) - found.keys():
        LOGGER.warning("no training case holds label %d %s: the network will not learn it", value, names[value])
    return tuple(
        Label(value=value, name=names.get(value, f"label {value}"), color=PALETTE[place % len(PALETTE)])
        for place, value in enumerate(values)
    )


def _spacing(found: NDArray[np.float64]) -> tuple[float, float, float]:
    """The working spacing for cases (N, 3), in mm."""
    middle = np.median(found, axis=0)
    fine = np.percentile(found, 10, axis=0)
    i, j, k = np.where(middle > ANISOTROPIC * middle.min(), np.maximum(fine, middle.min()), middle)
    return (round(float(i), 4), round(float(j), 4), round(float(k), 4))


def _clipped(values: NDArray[np.float32]) -> ClipZScore:
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    if high <= low:
        high = low + 1.0
    deviation = max(float(values.std()), 1e-3)
    return ClipZScore(method="clip-zscore", low=low, high=high, mean=float(values.mean()), std=deviation)


def window(
    extent: NDArray[np.float64], spacing: tuple[float, float, float], most: int
) -> tuple[tuple[int, int, int], Steps, Steps]:
    """Window size, kernels and strides for cases of `extent` (3,) voxels at a spacing, `most` voxels at a time.

    An axis on which the cases are smaller than the cube leaves its share to the others.
    """
    mm = np.array(spacing)
    # An axis of few voxels stays as it is: padding it would be most of the window.
    least = np.where(mm <= 2 * mm.min(), LEAST_EDGE, 1)
    longest = np.maximum(np.ceil(extent), least)
    size = longest.copy()
    free = np.ones(3, dtype=bool)
    while free.any():
        edge = (most / np.prod(size[~free]) * np.prod(mm[free])) ** (1 / free.sum())
        wanted = edge / mm
        small = free & (wanted >= longest)
        if not small.any():
            size[free] = np.maximum(np.floor(wanted[free]), least[free])
            break
        free &= ~small
    kernels, strides = resolutions((int(size[0]), int(size[1]), int(size[2])), spacing)
    multiple = np.prod(strides, axis=0)
    size = np.ceil(size / multiple) * multiple
    while np.prod(size) > most and np.any((size - multiple >= least) & (size > multiple)):
        # Rounding up went over: the longest side gives way, in mm.
        able = (size - multiple >= least) & (size > multiple)
        axis = int(np.argmax(np.where(able, size * mm, 0)))
        size[axis] -= multiple[axis]
    return (int(size[0]), int(size[1]), int(size[2])), kernels, strides


def resolutions(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[Steps, Steps]:
    """Kernels and strides for windows of that size, by nnU-Net's rule.

    An axis is halved while it keeps at least 4 voxels, but not while its voxels are over twice as long as the shortest;
    an axis whose voxels are that long is not convolved along either. There are three resolutions at least.
    """
    now, mm = np.array(size), np.array(spacing)
    kernels: list[tuple[int, int, int]] = []
    strides = [(1, 1, 1)]
    while True:
        fine = mm <= 2 * mm.min()
        kernels.append(_triple(np.where(fine, 3, 1)))
        halved = fine & (now >= 8)
        if len(strides) == MOST_RESOLUTIONS or (len(strides) >= 3 and not halved.any()):
            return tuple(kernels), tuple(strides)
        halved = halved if halved.any() else fine
        strides.append(_triple(np.where(halved, 2, 1)))
        now, mm = np.where(halved, -(-now // 2), now), np.where(halved, mm * 2, mm)


def _triple(values: NDArray[Any]) -> tuple[int, int, int]:
    i, j, k = (int(value) for value in values)
    return (i, j, k)
