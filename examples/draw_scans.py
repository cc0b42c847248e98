"""Draw the scans of the examples, because no patient's are in the repository: `python examples/draw_scans.py FOLDER`.

chest.png: a frontal chest radiograph, 512 x 480, lungs drawn. abdomen.nii.gz: a CT in HU, 128 x 112 x 60 voxels of
3 x 3 x 4 mm, with a kidney-like ellipsoid. head.png: a fetal head in ultrasound, 640 x 480, an ellipse of 300 x 220
pixels. truth_*.png and truth_*.nii.gz hold what was drawn.
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

AFFINE = np.diag([-3.0, -3.0, 4.0, 1.0])
"""Voxel ijk → RAS mm of the CT: i runs to the left, j to the back, k up."""


def chest(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A radiograph (480, 512) and its lungs."""
    y, x = np.mgrid[:480, :512].astype(float)
    body = ((x - 256) / 200) ** 2 + ((y - 300) / 330) ** 2 < 1
    lungs = np.zeros_like(body)
    for side in (-1, 1):
        lung = ((x - 256 - side * 103) / 78) ** 2 + ((y - 225) / 165) ** 2 < 1
        dome = y < 345 - 60 * np.clip(1 - ((x - 256 - side * 100) / 90) ** 2, 0, 1) * 0.4 + side * 8
        lungs |= lung & dome
    heart = ((x - 285) / 75) ** 2 + ((y - 300) / 80) ** 2 < 1
    lungs &= ~heart
    spine = np.abs(x - 256) < 24
    ribs = sum(np.exp(-(((y - 60 - 42 * n - 0.0011 * (x - 256) ** 2) / 6) ** 2)) for n in range(7))
    picture = 20 + 130 * gaussian_filter(body.astype(float), 6) - 85 * gaussian_filter(lungs.astype(float), 2.5)
    picture += 45 * gaussian_filter((heart & body).astype(float), 5) + 30 * gaussian_filter((spine & body) * 1.0, 4)
    picture += 40 * gaussian_filter((body & ~lungs & (y > 330)).astype(float), 8)
    picture += 22 * ribs * body + rng.normal(0, 4, body.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), lungs


def head(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A sonogram (480, 640) and the fetal head in it, as far as the outer edge of the skull."""
    y, x = np.mgrid[:480, :640].astype(float)
    turn = np.deg2rad(20)
    along, across = (
        (x - 320) * np.cos(turn) + (y - 270) * np.sin(turn),
        (y - 270) * np.cos(turn) - (x - 320) * np.sin(turn),
    )
    distance = np.hypot(along / 150, across / 110)
    inside = distance < 1
    depth = np.hypot(x - 320, y + 160)
    sector = (np.abs(np.arctan2(x - 320, y + 160)) < 0.62) & (depth > 190) & (depth < 630)
    # Skull that lies across the beam echoes most.
    facing = np.abs((across / 110) * np.cos(turn) + (along / 150) * np.sin(turn)) / np.maximum(distance, 0.1)
    skull = np.exp(-(((distance - 0.96) / 0.035) ** 2)) * (0.35 + 0.65 * facing)
    midline = np.exp(-((across / 3) ** 2)) * (np.abs(along) < 105)
    tissue = np.where(inside, 34, 62) + 500 * gaussian_filter(rng.normal(0, 1, x.shape), 14)
    echo = gaussian_filter(tissue + 170 * skull + 60 * midline, 1.5)
    speckle = gaussian_filter(rng.rayleigh(1, x.shape), (1.0, 1.6))
    return np.clip(echo * speckle * sector, 0, 255).astype(np.uint8), inside


def abdomen(rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """A CT (128, 112, 60) in HU and its kidney."""
    i, j, k = np.mgrid[:128, :112, :60].astype(float)
    distance = ((i - 64) / 56) ** 2 + ((j - 56) / 42) ** 2
    spine = (i - 64) ** 2 + (j - 76) ** 2 < 49
    kidney = ((i - 88) / 10) ** 2 + ((j - 68) / 8) ** 2 + ((k - 30) / 14) ** 2 < 1
    values = np.select([kidney, spine, distance < 0.72, distance < 1], [190.0, 450.0, 45.0, -100.0], -1000.0)
    values = gaussian_filter(values, (0.6, 0.6, 0.4)) + rng.normal(0, 12, values.shape)
    return np.clip(values, -1024, 3071).astype(np.int16), kidney


def main(folder: Path) -> None:
    """Write the scans and what was drawn in them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    picture, lungs = chest(rng)
    Image.fromarray(picture).save(folder / "chest.png")
    Image.fromarray(lungs.astype(np.uint8) * 255).save(folder / "truth_lungs.png")
    values, kidney = abdomen(rng)
    nib.Nifti1Image(values, AFFINE).to_filename(folder / "abdomen.nii.gz")
    nib.Nifti1Image(kidney.astype(np.uint8), AFFINE).to_filename(folder / "truth_kidney.nii.gz")
    picture, inside = head(rng)
    Image.fromarray(picture).save(folder / "head.png")
    Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "truth_head.png")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
