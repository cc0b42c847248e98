"""Random crops and random intensities for training on volumes. Every draw comes from the generator passed in."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.geometry import Grid

ROTATION_DEGREES = 20.0
SCALE = (0.8, 1.25)


def crop_grid(
    grid: Grid, centre: NDArray[np.float64], axes: NDArray[np.float64], size: int | tuple[int, int, int]
) -> Grid:
    """A cube of size³ voxels, or a box, whose middle voxel (index size // 2) lies on a voxel of `grid`.

    Args:
        grid: the scan's grid.
        centre: (3,) continuous voxel index ijk of `grid`.
        axes: (3, 3), column a = step of crop axis a in RAS mm.
        size: voxels per edge, or along each axis.
    """
    shape = (size, size, size) if isinstance(size, int) else size
    affine = np.eye(4)
    affine[:3, :3] = axes
    world = grid.affine[:3, :3] @ centre + grid.affine[:3, 3]
    affine[:3, 3] = world - axes @ (np.array(shape) // 2)
    return Grid(affine, shape)


def random_axes(axes: NDArray[np.float64], rng: Generator, mirror: bool = True) -> NDArray[np.float64]:
    """Crop axes (3, 3) rotated by up to `ROTATION_DEGREES` about each, scaled by `SCALE`.

    With `mirror` the first axis runs the other way half the time.
    """
    angles = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, size=3))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        rotation = rotation @ turn
    scaled = rotation @ axes @ np.diag(np.exp(rng.uniform(np.log(SCALE[0]), np.log(SCALE[1]), size=3)))
    if mirror:
        scaled[:, 0] *= rng.choice([-1.0, 1.0])
    return scaled


def mirror_pad(voxels: Tensor, grid: Grid, margin: int) -> tuple[Tensor, Grid]:
    """Volume (C, I, J, K) continued by its mirror image for `margin` voxels on every side, with its grid.

    A crop of a small training volume is then full of plausible tissue, as a crop of a whole scan is.
    """
    widths = [(0, 0)] + [(margin, margin)] * 3
    padded = torch.from_numpy(np.pad(voxels.numpy(), widths, mode="symmetric"))
    return padded, grid.window(np.full(3, -margin), (padded.shape[1], padded.shape[2], padded.shape[3]))


def zero_pad(voxels: Tensor, margin: int) -> Tensor:
    """Volume (C, I, J, K) with `margin` zero voxels on every side: the label that goes with `mirror_pad`."""
    return torch.nn.functional.pad(voxels, (margin,) * 6)


def random_box(clicks: NDArray[np.float64], size: int, rng: Generator) -> Tensor:
    """(1, size, size, size) bool: a random box that holds all clicks (N, 3), each face open or 4 to 22 voxels away.

    Distances are for size 48 and scale with it.
    """
    inside = torch.ones((1, size, size, size), dtype=torch.bool)
    for axis in range(3):
        low, high = clicks[:, axis].min(), clicks[:, axis].max()
        if rng.random() < 0.4:
            cut = int(low - rng.uniform(0.08, 0.45) * size)
            inside.narrow(axis + 1, 0, min(max(cut, 0), size)).fill_(False)
        if rng.random() < 0.4:
            start = min(max(int(high + rng.uniform(0.08, 0.45) * size) + 1, 0), size)
            inside.narrow(axis + 1, start, size - start).fill_(False)
    return inside


def random_surroundings(image: Tensor, rng: Generator) -> Tensor:
    """Something else that may lie round a field of view: the crop itself turned over, air, or a smooth random pattern.

    Training volumes that are cut out round their object teach that the object is where the volume's middle is, and that
    intensities are those of its neighbourhood; a whole scan keeps neither promise.

    Args:
        image: (1, I, J, K).

    Returns:
        (1, I, J, K) in the range of `image`.
    """
    kind = rng.choice(["turned", "turned", "air", "pattern"])
    if kind == "turned":
        return image.flip([1 + int(axis) for axis in rng.choice(3, size=rng.integers(1, 4), replace=False)])
    low, high = float(image.min()), float(image.max())
    if kind == "air":
        return torch.full_like(image, low + (high - low) * rng.uniform(0, 0.1))
    cells = int(rng.integers(2, 7))
    noise = torch.from_numpy(rng.uniform(low, high, size=(1, 1, cells, cells, cells)).astype(np.float32))
    shape = (image.shape[1], image.shape[2], image.shape[3])
    return torch.nn.functional.interpolate(noise, size=shape, mode="trilinear", align_corners=True)[0]


def random_intensity(image: Tensor, rng: Generator) -> Tensor:
    """Gamma, bias field, blur and noise on a normalised crop (1, I, J, K), by MONAI's random transforms."""
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms import Compose, RandAdjustContrast, RandBiasField, RandGaussianNoise, RandGaussianSmooth

    blur = {f"sigma_{axis}": (0.3, 0.9) for axis in "xyz"}
    transform = Compose(
        [
            RandAdjustContrast(prob=0.4, gamma=(0.6, 1.6)),
            RandBiasField(prob=0.2, degree=2, coeff_range=(-0.3, 0.3)),
            RandGaussianSmooth(prob=0.25, **blur),
            RandGaussianNoise(prob=0.3, std=0.2),
        ]
    ).set_random_state(seed=int(rng.integers(2**31)))
    changed = transform(image)
    # A MetaTensor would follow the crop into the network and slow every operation there.
    return (changed.as_tensor() if isinstance(changed, MetaTensor) else torch.as_tensor(changed)).float()
