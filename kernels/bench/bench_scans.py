"""The scans of the whole-command benchmark: drawn and seeded; the brain is MNI152 where nilearn is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

BRAIN = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
DRAW = Path(__file__).resolve().parents[2] / "examples" / "draw_scans.py"
ORGANS = 24
CT_AFFINE = np.diag([-0.8, -0.8, 1.0, 1.0])


def image(folder: Path) -> Path:
    """The drawn chest radiograph of the examples."""
    subprocess.run([sys.executable, str(DRAW), str(folder)], check=True)
    return folder / "chest.png"


def volume(folder: Path, seed: int) -> tuple[Path, str]:
    """The MNI152 T1 template inside nilearn, else noise over a ball of the same size; and which of the two it is."""
    package = util.find_spec("nilearn")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / BRAIN, "MNI152, 1 mm"
    shape = (197, 233, 189)
    grids = np.ogrid[tuple(slice(-1, 1, complex(0, size)) for size in shape)]
    ball = sum(grid**2 for grid in grids) < 0.8
    values = 40 + 60 * ball + np.random.default_rng(seed).normal(0, 8, shape)
    path = folder / "volume.nii.gz"
    nib.Nifti1Image(np.clip(values, 0, 255).astype(np.uint8), np.diag([1.0, 1, 1, 1])).to_filename(path)
    return path, "a ball in noise, 1 mm"


def ct(folder: Path, shape: tuple[int, int, int], seed: int) -> tuple[Path, NDArray[np.uint8]]:
    """A trunk in air with organs of even density, in HU with noise, int16; and the organs as a label map.

    The organs have rough surfaces: as label map they are about as hard to pack as a segmentation of a real CT
    (TotalSegmentator's example of 512 x 512 x 20 voxels: 32 labels, 2.3 changes of label per 100 voxels).
    """
    rng = np.random.default_rng(seed)
    i, j, k = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    grid = (i[:, None, None], j[:, None], k)
    body = (grid[0] / 0.85) ** 2 + (grid[1] / 0.6) ** 2 + 0 * grid[2] < 1
    values = np.where(body, np.float32(40), np.float32(-1000))
    labels = np.zeros(shape, np.uint8)
    rough = 1 + 0.15 * (_noise(shape, 6, rng) + 0.5 * _noise(shape, 2, rng))
    for number in range(1, ORGANS + 1):
        centre, radius = rng.uniform(-0.6, 0.6, 3).astype(np.float32), np.float32(rng.uniform(0.1, 0.3))
        distance = sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True))
        organ = (distance < radius**2 * rough) & body
        values[organ] = rng.uniform(-800, 400)
        labels[organ] = number
    for part in range(shape[2]):
        # Scanners leave more noise in the body than in air.
        values[:, :, part] += rng.standard_normal(shape[:2], np.float32) * np.where(body[:, :, part], 12, 4)
    path = folder / "ct.nii.gz"
    nib.Nifti1Image(np.clip(np.rint(values), -1024, 3071).astype(np.int16), CT_AFFINE).to_filename(path)
    return path, labels


def changes(labels: NDArray[np.uint8]) -> float:
    """Changes of label between neighbours, along the three axes together, per 100 voxels."""
    found = sum(int(np.count_nonzero(np.diff(labels, axis=axis))) for axis in range(3))
    return 100 * found / labels.size


def _noise(shape: tuple[int, int, int], step: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Normal noise, one value every `step` voxels and linear between them."""
    coarse = rng.standard_normal([max(size // step, 2) for size in shape], np.float32)
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None, None], shape, mode="trilinear")
    return fine[0, 0].numpy()
