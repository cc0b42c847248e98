"""The official test protocol of 3DSAM-adapter, quirks kept (official test.py and dataset classes).

The array's axes are taken in a fixed order whatever the affine says; the volume is resampled to 1 mm without
anti-aliasing, then clipped and normalised; one crop lies round the clicks, and nothing outside it can be predicted.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.errors import InputError, ModelError
from medseg_cli.models.sam3d.config import config_of
from medseg_cli.pipelines.sam3d_crops import Crop, Look
from medseg_cli.pipelines.sam3d_objects import Found
from medseg_cli.preset import Preset
from medseg_cli.preset_intensity import ClipZScore
from medseg_cli.scan import Scan

SEPARATE = 8
"""Zoom ratio above which slices are resampled in plane first, then along D."""


def load_image(array: Tensor, zooms: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """A file's array on the 1 mm grid, intensities untouched.

    Args:
        array: (I, J, K) as stored in the file.
        zooms: (3,) float32 header spacing in mm, file order.
        axes: file axis that serves as D, H and W.

    Returns:
        (1, D, H, W) float32; the size is floor(n * zoom) per axis.
    """
    volume = torch.nan_to_num(array.float(), nan=0.0).permute(axes)[None, None]
    return resample_to_1mm(volume, zooms[list(axes)])[0]


def resample_to_1mm(volume: Tensor, zooms: Tensor) -> Tensor:
    """(1, 1, D, H, W) with spacing `zooms` (D, H, W) → 1 mm, linear, through scale_factor as the official code."""
    factors = [float(zoom) for zoom in zooms]
    if max(factors) / min(factors) > SEPARATE:
        planes = volume[0].transpose(0, 1)
        planes = F.interpolate(planes, scale_factor=factors[1:], mode="bilinear", align_corners=False)
        volume = planes.transpose(0, 1)[None]
        factors = [factors[0], 1.0, 1.0]
    return F.interpolate(volume, scale_factor=factors, mode="trilinear", align_corners=False)


def look(scan: Scan, clicks: NDArray[np.float64], axes: tuple[int, int, int], preset: Preset) -> Look:
    """Object probability on the scan's grid by the official protocol; zero outside the one crop.

    Args:
        scan: any grey scan.
        clicks: (N, 3) voxel index ijk.
        axes: file axis that serves as D, H and W.
        preset: gives the intensities (method clip-zscore) and the crop size.

    Raises:
        ModelError: the preset's intensities are not the official kind.
        InputError: the scan is thinner than 1 mm.
    """
    how = preset.preprocessing.intensity
    if not isinstance(how, ClipZScore):
        raise ModelError(
            f"preset {preset.name}: protocol official needs intensity method clip-zscore, not {how.method}"
        )
    zooms = torch.tensor(scan.spacing, dtype=torch.float32)
    thin = [f"{n} x {zoom:g} mm" for n, zoom in zip(scan.shape, scan.spacing, strict=True) if n * zoom < 1]
    if thin:
        raise InputError(
            f"{scan.provenance.path} is thinner than 1 mm ({thin[0]}): protocol official cannot resample it to 1 mm",
            "use a preset with protocol: follow",
        )
    volume = load_image(torch.from_numpy(scan.voxels[0]), zooms, axes)
    volume = (volume.clamp(how.low, how.high) - how.mean) / how.std
    original = tuple(scan.shape[axis] for axis in axes)
    points = _to_1mm(clicks[:, list(axes)], original, tuple(volume.shape[1:]))

    size = config_of(preset.model).crop_size
    centre = np.floor((points.max(0) + points.min(0)) / 2).astype(int)
    low = centre - size // 2
    crop = torch.zeros(1, size, size, size)
    inside, source = [], []
    for axis in range(3):
        start, stop = max(low[axis], 0), min(low[axis] + size, volume.shape[axis + 1])
        source.append(slice(start, stop))
        inside.append(slice(start - low[axis], stop - low[axis]))
    crop[0][tuple(inside)] = volume[0][tuple(source)]
    local = points - low
    predicted = torch.from_numpy((yield Crop(crop, local[:, [0, 2, 1]], volume.numel())))
    whole = torch.zeros(volume.shape)
    whole[0][tuple(source)] = predicted[tuple(inside)]
    back = F.interpolate(whole[None], size=original, mode="trilinear", align_corners=False)[0, 0]
    i, j, k = (slice(0, size) for size in scan.shape)
    return Found(back.permute(*np.argsort(axes).tolist()).numpy(), (i, j, k), 1, True)


def _to_1mm(points: NDArray[np.float64], original: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.float64]:
    """Voxel indices (N, 3) on the file's grid → voxel of the 1 mm grid where a nearest-resized label has them."""
    scale = np.array(size) / np.array(original)
    return np.clip(np.floor((points + 0.5) * scale), 0, np.array(size) - 1)
