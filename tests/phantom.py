"""A small scan whose every voxel is known, and ways to put it into any orientation and any file format.

Import it with `from phantom import ...` (tests/ is on pytest's path).

The phantom is asymmetric about every axis, with one landmark: the only voxel of value `LANDMARK_VALUE`. Wherever the
grid points, the landmark's world position is known by construction, so a reader that flips, transposes or shifts is
caught.
"""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK

from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation

SHAPE = (9, 7, 5)
LANDMARK = (6, 2, 1)
LANDMARK_VALUE = 900
SPACING = (0.9, 1.3, 2.5)
ORIGIN_RAS = (-31.5, 12.25, 40.0)

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz")
"""Formats that `write_volume` knows and that hold a whole geometry."""

ORIENTATIONS = tuple("".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes))
"""All 48 axis codes."""

_AXIS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def voxels(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(I, J, K) int16: 100 + i + 10 j + 100 k, no two neighbours equal, and the landmark."""
    i, j, k = np.indices(shape)
    values = (100 + i + 10 * j + 100 * k).astype(np.int16)
    values[tuple(np.minimum(LANDMARK, np.array(shape) - 1))] = LANDMARK_VALUE
    return values


def affine(
    codes: str = "RAS",
    spacing: tuple[float, float, float] = SPACING,
    origin: tuple[float, float, float] = ORIGIN_RAS,
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """(4, 4) index→RAS mm: axes along `codes`, turned by `angles` (radians about x, y, z), voxel 0 at `origin`."""
    directions = np.zeros((3, 3))
    for column, letter in enumerate(codes):
        row, sign = _AXIS[letter]
        directions[row, column] = sign
    result = np.eye(4)
    result[:3, :3] = rotation(angles) @ directions * np.array(spacing)
    result[:3, 3] = origin
    return result


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    """(3, 3) rotation about x, then y, then z, radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def landmark_ras(matrix: np.ndarray, index: tuple[int, int, int] = LANDMARK) -> np.ndarray:
    """(3,) RAS mm of a voxel centre under an index→RAS affine."""
    return matrix[:3, :3] @ np.array(index, dtype=float) + matrix[:3, 3]


def scan(codes: str = "RAS", shape: tuple[int, int, int] = SHAPE, **geometry: tuple[float, float, float]) -> Scan:
    """The phantom as a `Scan` that was never in a file; `geometry` as in `affine`."""
    provenance = Provenance(Path("phantom"), "nifti", "0" * 64)
    return Scan(voxels(shape).astype(np.float32)[np.newaxis], affine(codes, **geometry), provenance)


def segmentation(of: Scan, dtype: type = np.uint8) -> Segmentation:
    """An asymmetric two-label map on the grid of `of`; with uint16, the second value is 300."""
    values = (1, 2) if dtype is np.uint8 else (1, 300)
    i, j, k = np.indices(of.shape)
    mask = np.where(i + 2 * j + 3 * k < 9, values[0], 0).astype(dtype)
    mask[i > 2 * j + k + 1] = values[1]
    return Segmentation(mask, (Label(values[0], "near"), Label(values[1], "far")), of)


def write_volume(path: Path, values: np.ndarray, matrix: np.ndarray) -> Path:
    """Write (I, J, K) `values` with an index→RAS affine, by the suffix of `path`, without any code of medseg."""
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.Nifti1Image(values, None)
        image.set_sform(matrix, code=1)
        image.set_qform(matrix, code=1)
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
    elif path.suffix in (".mgh", ".mgz"):
        nib.save(nib.MGHImage(values, matrix), path)
    else:
        SimpleITK.WriteImage(sitk_image(values, matrix), str(path), useCompression=path.suffix != ".gipl")
    return path


def sitk_image(values: np.ndarray, matrix: np.ndarray) -> SimpleITK.Image:
    """A SimpleITK image of (I, J, K) `values` with an index→RAS affine."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image
