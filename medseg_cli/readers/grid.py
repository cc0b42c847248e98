"""Is an affine one that a scan can have? Shared by every reader, so that all formats are held to the same rules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError

ROUNDING = 1e-5
"""Axes whose cosines are this small are orthogonal: files store directions as float32 or as six digits."""

TOLERANCE = 1e-3
"""Largest |cosine| between two voxel axes that is repaired; beyond it the grid is really sheared."""

SPACING_RANGE = (1e-6, 1e4)
"""Voxel sizes in mm that anything imaged can have."""


def checked_affine(
    affine: NDArray[np.float64], shape: tuple[int, int, int], source: str
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """An affine with orthogonal axes, and what had to be said about it.

    Axes that miss being orthogonal by more than rounding but no more than `TOLERANCE` are replaced by the nearest
    orthogonal ones (polar factor from the SVD); voxel sizes and the position of the volume's centre stay.

    Args:
        affine: (4, 4) index→RAS mm as the file states it.
        shape: (I, J, K) voxels.
        source: the file and the field, for messages: "scan.nii.gz (sform)".

    Returns:
        The (4, 4) float64 affine, unchanged unless repaired, and the notes.

    Raises:
        InputError: not finite, a voxel size that is zero or absurd, a singular or a sheared matrix.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if not np.all(np.isfinite(affine)):
        raise InputError(f"{source}: the affine holds NaN or infinity: {matrix_text(affine)}", _HINT)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if np.any(spacing < SPACING_RANGE[0]) or np.any(spacing > SPACING_RANGE[1]):
        sizes = " x ".join(f"{value:g}" for value in spacing)
        raise InputError(f"{source}: the voxel size is {sizes} mm: {matrix_text(affine)}", _HINT)
    directions = affine[:3, :3] / spacing
    deviation = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if deviation <= ROUNDING:
        return affine, ()
    if deviation > TOLERANCE:
        raise InputError(
            f"{source}: the voxel axes are not at right angles (cosine {deviation:.4f}, at most {TOLERANCE:g} is "
            f"repaired): {matrix_text(affine)}",
            "resample the scan onto an orthogonal grid first",
        )
    left, _, right = np.linalg.svd(directions)
    repaired = affine.copy()
    repaired[:3, :3] = (left @ right) * spacing
    centre = (np.array(shape) - 1) / 2
    repaired[:3, 3] += (affine[:3, :3] - repaired[:3, :3]) @ centre
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(shape) - 1)
    moved = np.linalg.norm(corners @ (affine - repaired)[:3, :3].T + (affine - repaired)[:3, 3], axis=1).max()
    note = (
        f"the voxel axes missed right angles by a cosine of {deviation:.2g} and were straightened; "
        f"no voxel moved by more than {moved:.2g} mm"
    )
    return repaired, (note,)


def matrix_text(matrix: NDArray[np.float64]) -> str:
    """A matrix on one line: [[1 0 0 5] [0 1 0 0] ...]."""
    return "[" + " ".join("[" + " ".join(f"{value:.6g}" for value in row) + "]" for row in matrix) + "]"


_HINT = "the file's geometry is damaged: export it again, or set a valid affine"
