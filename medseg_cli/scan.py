"""`Scan`: voxels, where they lie in the patient, and where they came from.

Frames: `ijk` is the continuous voxel index (voxel centres at whole numbers, the first at 0), `ras` is world millimetres
with +x right, +y anterior, +z superior (NIfTI), `lps` is the same with x and y negated (DICOM, ITK).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""(4, 4): left-multiplying an index→RAS affine by it gives index→LPS, and the other way round."""


@dataclass(frozen=True)
class Provenance:
    """Where a scan came from.

    Args:
        path: the file or folder the user named.
        format: "nifti", "nrrd", "metaimage", "mgh", "gipl", "dicom", "npz" or "image".
        sha256: hash of the file's bytes; for a DICOM series, of its files' hashes in slice order.
        series_uid: DICOM SeriesInstanceUID, empty otherwise.
        notes: what was repaired, chosen or assumed while reading, one sentence each; shown to the user and recorded.
        files: DICOM files that the voxels came from, in slice order (of an archive the archive); () otherwise.
    """

    path: Path
    format: str
    sha256: str
    series_uid: str = ""
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume, a 2-D image (K = 1) or a cine (K frames of one 2-D image over time) on its own grid.

    Args:
        voxels: (C, I, J, K) float32 in the scan's own units (HU for CT); C = 1 grey, 3 colour.
        affine: (4, 4) float64, voxel index ijk → RAS+ mm.
        provenance: where it came from.
        modality: DICOM code ("CT", "MR", "PT", "US", "CR", "DX"...), empty when the file does not say.
        spacing_known: False for PNG/JPEG/TIFF without a stated pixel size (then 1 mm is assumed and said).
        position_known: False where a DICOM object does not say where in the patient it lies (X-ray, ultrasound,
            photograph); axes and origin are then those of the picture.
        cine: whether the third axis is time. One frame is then 1 mm thick by convention: the affine's third column is
            no length, so a cine has areas in mm² per frame and never a volume.
        frame_seconds: (K,) when each frame of a cine began, in s after the first; None where the file does not say.
        region: (x0, y0, x1, y1) pixels of the picture, both ends inclusive, i = x and j = y, that show tissue
            according to the file (a DICOM ultrasound region); None where it does not say.
        header: the format's own header object, kept for writing a mask with the same header; opaque.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    provenance: Provenance
    modality: str = ""
    spacing_known: bool = True
    position_known: bool = True
    cine: bool = False
    frame_seconds: tuple[float, ...] | None = None
    region: tuple[int, int, int, int] | None = None
    header: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.voxels.ndim != 4:
            raise ValueError(f"voxels must be (C, I, J, K), got shape {self.voxels.shape}")
        if self.affine.shape != (4, 4) or self.affine.dtype != np.float64:
            raise ValueError(f"affine must be (4, 4) float64, got {self.affine.shape} {self.affine.dtype}")
        if self.frame_seconds is not None and (not self.cine or len(self.frame_seconds) != self.voxels.shape[3]):
            raise ValueError(f"{len(self.frame_seconds)} frame times for a scan of shape {self.voxels.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K) in voxels."""
        _, i, j, k = self.voxels.shape
        return (i, j, k)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(i), float(j), float(k))

    @property
    def is_picture(self) -> bool:
        """Whether it is one plane that is no slice of a body: it has an area but no volume, and no directions."""
        return self.shape[2] == 1 and (self.provenance.format == "image" or not self.position_known)

    @property
    def flat(self) -> bool:
        """Whether it has areas and no volume: a picture, or frames of one."""
        return self.is_picture or self.cine

    @property
    def cell(self) -> str:
        """What people call one value of it and its place: "pixel" of what has areas, else "voxel"."""
        return "pixel" if self.flat else "voxel"

    @property
    def orientation(self) -> str:
        """Axis codes such as "RAS": the direction in which i, j and k grow, nearest anatomical axis first come."""
        return orientation_codes(self.affine)

    @property
    def voxel_volume(self) -> float:
        """mm³ per voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def world_to_voxel(self, xyz: NDArray[np.float64], frame: str) -> NDArray[np.float64]:
        """Points (N, 3) in `frame` ("ijk", "ras" or "lps", mm) → (N, 3) continuous voxel index ijk."""
        xyz = np.atleast_2d(np.asarray(xyz, dtype=np.float64))
        if frame == "ijk":
            return xyz.copy()
        inverse = np.linalg.inv(frame_affine(self.affine, frame))
        return xyz @ inverse[:3, :3].T + inverse[:3, 3]

    def voxel_to_world(self, ijk: NDArray[np.float64], frame: str) -> NDArray[np.float64]:
        """Points (N, 3) continuous voxel index ijk → (N, 3) in `frame` ("ijk", "ras" or "lps", mm)."""
        ijk = np.atleast_2d(np.asarray(ijk, dtype=np.float64))
        if frame == "ijk":
            return ijk.copy()
        affine = frame_affine(self.affine, frame)
        return ijk @ affine[:3, :3].T + affine[:3, 3]


def frame_affine(affine: NDArray[np.float64], frame: str) -> NDArray[np.float64]:
    """The index→world affine in "ras" or "lps" mm, given the index→RAS one."""
    if frame == "ras":
        return affine
    if frame == "lps":
        return RAS_TO_LPS @ affine
    raise InputError(f"unknown coordinate frame '{frame}'", "use ijk, ras or lps")


def orientation_codes(affine: NDArray[np.float64]) -> str:
    """Three letters of R/L, A/P, S/I: where each voxel axis points, each anatomical axis used once.

    The assignment maximises the summed |cosine| over the six permutations, so oblique axes get distinct letters.
    """
    from itertools import permutations

    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    world_of = max(permutations(range(3)), key=lambda p: sum(abs(directions[p[axis], axis]) for axis in range(3)))
    letters = ("LR", "PA", "IS")
    return "".join(letters[w][int(directions[w, axis] > 0)] for axis, w in enumerate(world_of))
