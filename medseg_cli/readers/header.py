"""What a scan's header says, without its voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Header:
    """A scan before it is read.

    Args:
        format: as in `Provenance.format`.
        shape: voxels (I, J, K).
        spacing: voxel size in mm along i, j, k.
        spacing_known: whether the file or the user states it.
        channels: of each voxel: 1, or 3 of a colour image.
        volumes: of a 4-D file, of which one is read; 1 of any other.
        item_bytes: of a value as stored.
        modality: DICOM code, "" where the file does not say.
        cine: whether the third axis is time, see `Scan.cine`.
    """

    format: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    spacing_known: bool = True
    channels: int = 1
    volumes: int = 1
    item_bytes: int = 2
    modality: str = ""
    cine: bool = False

    @property
    def voxels(self) -> int:
        """Of one channel."""
        i, j, k = self.shape
        return i * j * k

    @property
    def scan_bytes(self) -> int:
        """Of the scan in memory: float32."""
        return 4 * self.voxels * self.channels


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Lengths of the columns of a (4, 4) index→mm matrix."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return (i, j, k)
