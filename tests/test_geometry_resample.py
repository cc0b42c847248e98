"""Resampling: working grids, crops and the way back, against SimpleITK and against formulas."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg_cli.geometry import SLAB, Grid, overlap, resample, resample_in_slabs, working_grid
from medseg_cli.scan import orientation_codes

ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]


def oriented(code: str, spacing: tuple[float, float, float], tilt: float = 0.0) -> np.ndarray:
    """An index→RAS affine whose axes point to `code`, tilted by `tilt` radians about x and z."""
    matrix = np.zeros((3, 3))
    for axis, letter in enumerate(code):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        matrix[world, axis] = 1.0 if letter in "RAS" else -1.0
    c, s = np.cos(tilt), np.sin(tilt)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ matrix * spacing
    affine[:3, 3] = (-31.0, 17.5, 4.0)
    return affine


def ramp(grid: Grid) -> torch.Tensor:
    """(1, I, J, K): a linear function of world position, which linear interpolation reproduces exactly."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    world = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return torch.from_numpy(world @ np.array([1.0, -2.0, 0.5]) + 7)[None].float()


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_working_grid_reorders_every_orientation(code: str) -> None:
    source = Grid(oriented(code, (0.7, 1.1, 2.5), tilt=0.2), (20, 18, 9))
    grid = working_grid(source, "RAS", (1.0, 1.0, 1.0))
    assert orientation_codes(grid.affine) == "RAS"
    assert np.allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), 1.0)
    values, weight = resample(ramp(source), source, grid, smooth=False)
    inside = weight > 0.999
    assert inside.float().mean() > 0.6
    assert torch.allclose(values[inside], ramp(grid)[inside], atol=1e-3)


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "ASL"])
def test_outer_corners_agree(code: str) -> None:
    source = Grid(oriented(code, (1.5, 1.0, 3.0)), (10, 12, 6))
    grid = working_grid(source, "RAS", (1.0, 1.0, 1.0))
    corners = np.array(list(product((0, 1), repeat=3)), float)
    own = corners * np.array(source.shape) - 0.5
    there = grid.index_of(own, source)
    assert np.allclose(there.min(0), -0.5)
    assert np.all(there.max(0) <= np.array(grid.shape) - 0.5 + 1e-6)
    assert np.all(there.max(0) > np.array(grid.shape) - 1.5)


def test_resample_agrees_with_simpleitk() -> None:
    generator = torch.Generator().manual_seed(3)
    source = Grid(oriented("LPS", (0.8, 1.2, 2.0), tilt=0.3), (24, 20, 12))
    target = Grid(oriented("RAS", (1.0, 1.0, 1.0), tilt=0.1), (16, 16, 16))
    middle = source.affine[:3, :3] @ (np.array(source.shape) / 2) + source.affine[:3, 3]
    target.affine[:3, 3] = middle - target.affine[:3, :3] @ np.full(3, 8.0)
    voxels = torch.rand((1, *source.shape), generator=generator)
    mine, weight = resample(voxels, source, target, smooth=False)

    def image(grid: Grid, values: np.ndarray) -> SimpleITK.Image:
        out = SimpleITK.GetImageFromArray(values.transpose(2, 1, 0))
        lps = np.diag([-1, -1, 1, 1]) @ grid.affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        out.SetSpacing(spacing.tolist())
        out.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        out.SetOrigin(lps[:3, 3].tolist())
        return out

    reference = image(target, np.zeros(target.shape, np.float32))
    theirs = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(image(source, voxels[0].numpy()), reference, SimpleITK.Transform(), SimpleITK.sitkLinear)
    )
    inside = (weight[0] > 0.999).numpy()
    assert inside.mean() > 0.3
    assert np.abs(mine[0].numpy() - theirs.transpose(2, 1, 0))[inside].max() < 1e-4


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.floats(0.6, 2.0)] * 3),
    st.floats(-0.4, 0.4),
    st.tuples(*[st.integers(0, 5)] * 3),
)
def test_reading_only_what_is_needed_changes_nothing(
    code: str, spacing: tuple[float, float, float], tilt: float, start: tuple[int, int, int]
) -> None:
    source = Grid(oriented(code, spacing, tilt), (17, 15, 13))
    whole = working_grid(source, "RAS", (1.0, 1.0, 1.0))
    part = whole.window(np.array(start), (6, 6, 6))
    everything, _ = resample(ramp(source), source, whole, smooth=False)
    small, weight = resample(ramp(source), source, part, smooth=False)
    i, j, k = start
    there = everything[:, i : i + 6, j : j + 6, k : k + 6]
    small = small[:, : there.shape[1], : there.shape[2], : there.shape[3]]
    inside = weight[:, : there.shape[1], : there.shape[2], : there.shape[3]] > 0.999
    assert torch.allclose(small[inside], there[inside], atol=1e-3)


def test_far_away_grids_give_nothing() -> None:
    source = Grid(np.eye(4), (8, 8, 8))
    target = source.window(np.array([100, 0, 0]), (4, 4, 4))
    values, weight = resample(torch.ones(1, 8, 8, 8), source, target)
    assert values.shape == (1, 4, 4, 4)
    assert not values.any()
    assert not weight.any()
    assert all(part.start == part.stop or part.stop == 8 for part in overlap(source, target)[:1])


def test_smoothing_prevents_aliasing() -> None:
    source = Grid(np.diag([0.25, 1, 1, 1]), (64, 8, 8))
    stripes = torch.zeros(1, 64, 8, 8)
    stripes[:, ::2] = 1.0
    target = working_grid(source, "RAS", (1.0, 1.0, 1.0))
    values, weight = resample(stripes, source, target)
    inside = weight > 0.999
    assert float((values[inside] - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize("shape", [(12, 14, 10), (12, 14, 1), (1, 14, 10), (1, 1, 10), (1, 1, 1)])
@pytest.mark.parametrize("wanted", [(5, 6, 1), (1, 6, 1), (1, 1, 1), (6, 1, 4)])
def test_axes_of_one_voxel_stay_in_place(shape: tuple[int, int, int], wanted: tuple[int, int, int]) -> None:
    source = Grid(oriented("LPS", (0.8, 1.2, 2.0), tilt=0.1), shape)
    start = np.minimum((2, 3, 4), np.array(shape) - 1)
    target = source.window(start, wanted)
    values, weight = resample(ramp(source), source, target, smooth=False)
    inside = weight > 0.999
    expected = torch.zeros_like(inside)
    seen = [max(0, min(a + b, c) - a) for a, b, c in zip(start, wanted, shape, strict=True)]
    expected[:, : seen[0], : seen[1], : seen[2]] = True
    assert torch.equal(inside, expected)
    assert torch.allclose(values[inside], ramp(target)[inside], atol=1e-3)


def test_slabs_make_the_whole() -> None:
    source = Grid(oriented("LPS", (1.0, 1.0, 1.3), tilt=0.2), (9, 8, 30))
    target = source.window(np.array([-1, 1, -3]), (7, 6, 2 * SLAB + 5))
    whole, _ = resample(ramp(source), source, target, smooth=False)
    assert np.allclose(resample_in_slabs(ramp(source), source, target), whole[0].numpy(), atol=1e-3)


def by_monai(voxels: torch.Tensor, source: Grid, target: Grid, sigma: list[float] | None) -> torch.Tensor:
    """(2, *target.shape): values and inside share, by MONAI's `GaussianFilter` and `SpatialResample` alone."""
    from monai.data import MetaTensor
    from monai.networks.layers import GaussianFilter
    from monai.transforms import SpatialResample

    if sigma is not None:
        blur = GaussianFilter(3, sigma)
        voxels = blur(voxels[None])[0] / blur(torch.ones_like(voxels[None]))[0]
    both = torch.nn.functional.pad(torch.cat([voxels, torch.ones_like(voxels)]).double(), (1,) * 6)
    around = source.window(np.array([-1, -1, -1]), tuple(both.shape[1:]))
    mover = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True, dtype=torch.float64)
    moved = mover(
        MetaTensor(both, affine=torch.from_numpy(around.affine)),
        dst_affine=torch.from_numpy(target.affine),
        spatial_size=target.shape,
    )
    return moved.as_tensor().float()


@pytest.mark.parametrize("code", ORIENTATIONS)
@pytest.mark.parametrize("smooth", [False, True])
def test_parallel_grids_are_resampled_as_monai_does(code: str, smooth: bool) -> None:
    """Every order and direction of axes, finer and coarser, reaching out of the scan: to float32 rounding."""
    voxels = torch.rand((1, 23, 19, 14), generator=torch.Generator().manual_seed(1))
    source = Grid(oriented(code, (0.4, 1.1, 2.3), tilt=0.3), (23, 19, 14))
    target = working_grid(source, "RAS", (1.3, 1.0, 0.9)).window(np.array([-2, 1, -3]), (11, 17, 21))
    values, weight = resample(voxels, source, target, smooth=smooth)
    step = np.linalg.norm(np.linalg.inv(source.affine)[:3, :3] @ target.affine[:3, :3], axis=1)
    sigma = [max(float((each - 1) / 2), 1e-3) if each > 1.25 else 1e-3 for each in step]
    expected = by_monai(voxels, source, target, sigma if smooth else None)
    assert float((values - expected[:1]).abs().max()) < 2e-6
    assert float((weight - expected[1:]).abs().max()) < 2e-6
    assert 0.1 < float((weight == 0).float().mean()) < 0.9, "the window must reach out of the scan"


def test_autocast_does_not_coarsen_resampling() -> None:
    source = Grid(np.diag([1.0, 1, 1, 1]), (9, 8, 30))
    target = working_grid(source, None, (1.5, 1.5, 1.5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, _ = resample(ramp(source), source, target)
    assert values.dtype == torch.float32
    assert torch.equal(values, resample(ramp(source), source, target)[0])
