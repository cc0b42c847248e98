"""A cine with known truth from one picture: `python examples/draw_cine.py PICTURE MASK FOLDER [FRAMES] [SEED]`.

cine.nii.gz and truth.nii.gz, 25 frames a second, each with one slice: a hand that moves the probe (shift, turn, scale),
speckle that changes from frame to frame, gain that drifts, a shadow that wanders through, and frames in which the probe
lifts off and shows its own ringing. drawn.json tells the motion (3, 3) of every frame and which frames were spoilt.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter, gaussian_filter1d

RATE = 25
"""Frames a second."""
SPOILT = ((0.3, 1), (0.55, 2), (0.8, 1))
"""Where in the cine the probe lifts off, as a share of it, and for how many frames."""


@dataclass(frozen=True, eq=False)
class Cine:
    """Frames and what is known of them.

    Args:
        frames: (T, H, W) uint8.
        truth: (T, H, W) bool.
        motion: (T, 3, 3), place (row, column, 1) in a frame → the same tissue's place in the picture.
        spoilt: frames in which the probe was off.
    """

    frames: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    motion: NDArray[np.float64]
    spoilt: tuple[int, ...]


def draw(picture: NDArray[np.uint8], mask: NDArray[np.bool_], count: int, rng: Generator) -> Cine:
    """A cine of `count` frames of a picture (H, W) and its mask (H, W)."""
    motion = _motion(picture.shape, count, rng)
    spoilt = tuple(int(share * count) + n for share, length in SPOILT for n in range(length))
    speckle, gain = _noise(picture.shape, rng), 1 + 0.2 * _wander(count, 8, rng) + 0.04 * rng.normal(size=count)
    frames, truth = [], []
    for index in range(count):
        # Some of the speckle stays from frame to frame, some is new.
        speckle = 0.8 * speckle + 0.6 * _noise(picture.shape, rng)
        seen = moved(picture.astype(float), motion[index], order=1)
        seen *= gain[index] * np.exp(0.3 * speckle) * _shadow(picture.shape, index / count)
        if index in spoilt:
            depth = np.linspace(0, 6, picture.shape[0])[:, None]
            seen = 0.02 * seen + 40 * np.exp(0.5 * speckle - depth)
        frames.append(np.clip(seen, 0, 255).astype(np.uint8))
        truth.append(moved(mask.astype(float), motion[index], order=1) > 0.5)
    return Cine(np.stack(frames), np.stack(truth), motion, spoilt)


def moved(plane: NDArray[np.float64], motion: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """A picture's plane (H, W) as a frame shows it; by the inverse of `motion` the way back."""
    shown: NDArray[np.float64] = affine_transform(plane, motion[:2, :2], motion[:2, 2], order=order)
    return shown


def _wander(count: int, frames: float, rng: Generator) -> NDArray[np.float64]:
    """A smooth random line (T,) between about -1 and 1 that turns within so many frames."""
    line = gaussian_filter1d(rng.normal(size=count + 100), frames)[50 : 50 + count]
    return line / (np.abs(line).max() + 1e-9)


def _motion(shape: tuple[int, ...], count: int, rng: Generator) -> NDArray[np.float64]:
    """Shifts up to 6 % of the sides, turns up to 6 degrees, scales up to 6 %, and a tremor of half a percent."""
    size, middle = np.array(shape[:2]), (np.array(shape[:2]) - 1) / 2
    turn, scale = np.deg2rad(6) * _wander(count, 8, rng), 1 + 0.06 * _wander(count, 8, rng)
    shifts = np.stack([0.06 * _wander(count, 6, rng) + 0.005 * _wander(count, 1, rng) for _ in size], axis=1) * size
    matrices = np.tile(np.eye(3), (count, 1, 1))
    cos, sin = np.cos(turn) / scale, np.sin(turn) / scale
    matrices[:, :2, :2] = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    matrices[:, :2, 2] = middle - np.einsum("tij,tj->ti", matrices[:, :2, :2], middle + shifts)
    return matrices


def _noise(shape: tuple[int, ...], rng: Generator) -> NDArray[np.float64]:
    """Speckle's grains (H, W), a few pixels wide, of standard deviation 1."""
    grains = gaussian_filter(rng.normal(size=shape), (1.0, 1.8))
    return grains / grains.std()


def _shadow(shape: tuple[int, ...], phase: float) -> NDArray[np.float64]:
    """A dark stripe (1, W) that wanders from left to right, as of a rib."""
    across = np.arange(shape[1]) / shape[1]
    return 1 - 0.6 * np.exp(-(((across - 1.4 * phase + 0.2) / 0.06) ** 2))[None]


def write(cine: Cine, folder: Path, pixel_mm: float) -> None:
    """The three files; voxel (i, j, 0) of frame t is pixel (column, row), at place (-i, -j) pixels from the origin."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, stack in (("cine", cine.frames), ("truth", cine.truth.astype(np.uint8))):
        image = nib.Nifti1Image(stack.transpose(2, 1, 0)[:, :, None], np.diag([-pixel_mm, -pixel_mm, 1.0, 1.0]))
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((pixel_mm, pixel_mm, 1.0, 1 / RATE))
        image.to_filename(folder / f"{name}.nii.gz")
    told = {"spoilt": cine.spoilt, "frames_per_second": RATE, "motion": cine.motion.tolist()}
    (folder / "drawn.json").write_text(json.dumps(told) + "\n")


def read(picture: Path, mask: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture as grey values and its mask, both (H, W)."""
    return np.asarray(Image.open(picture).convert("L")), np.asarray(Image.open(mask).convert("L")) > 0


def main(picture: str, mask: str, folder: str, count: str = "48", seed: str = "0") -> None:
    """Draw one cine, with pixels of 1 mm."""
    write(draw(*read(Path(picture), Path(mask)), int(count), np.random.default_rng(int(seed))), Path(folder), 1.0)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
