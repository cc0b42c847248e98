"""Small datasets on disk, in whatever layout a test is about. Import with `from dataset_phantom import ...`."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

SHAPE = (8, 7, 6)


def affine(number: int = 0) -> np.ndarray:
    """(4, 4) index→RAS mm of case `number`: no two alike, left-handed like most files in the wild."""
    result = np.diag([-(1.0 + number / 8), 1.25, 2.5, 1.0])
    result[:3, 3] = (10 + number, -20.5, 3.25)
    return result


def scan(number: int = 0) -> np.ndarray:
    """(I, J, K) int16 whose every voxel differs from those of other numbers."""
    i, j, k = np.indices(SHAPE)
    return (i + 10 * j + 100 * k + 1000 * number - 300).astype(np.int16)


def labels(number: int = 0, values: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """(I, J, K) uint8: a block per value, and a voxel that tells the number (0 to 47)."""
    mask = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        mask[: 2 + number % 5, 2 * place : 2 * place + 2, 1:4] = value
    mask[number % 8, 6, number // 8] = values[0]
    return mask


def nifti(path: Path, values: np.ndarray, matrix: np.ndarray | None = None) -> Path:
    """A NIfTI file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(values, affine() if matrix is None else matrix).to_filename(path)
    return path


def picture(path: Path, number: int = 0) -> Path:
    """(20 rows, 24 columns) of grey values in a picture file."""
    rows, columns = np.indices((20, 24))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rows * 9 + columns * 3 + number).astype(np.uint8)).save(path)
    return path


def drawn(path: Path, number: int = 0, value: int = 255) -> Path:
    """A rectangle on black, its size telling the number, for `picture`."""
    mask = np.zeros((20, 24), np.uint8)
    mask[4 : 9 + number % 7, 6:15] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def nnunet(folder: Path, count: int = 3, values: tuple[int, ...] = (1, 2)) -> Path:
    """A dataset of nnU-Net, complete."""
    import json

    for number in range(count):
        nifti(folder / "imagesTr" / f"p{number}_0000.nii.gz", scan(number), affine(number))
        nifti(folder / "labelsTr" / f"p{number}.nii.gz", labels(number, values), affine(number))
    names = {"background": 0, "liver": 1, "tumour": 2}
    facts = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": count, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def pictures(folder: Path, count: int = 3) -> Path:
    """images/ and masks/ of PNGs."""
    for number in range(count):
        picture(folder / "images" / f"x{number}.png", number)
        drawn(folder / "masks" / f"x{number}.png", number)
    return folder
