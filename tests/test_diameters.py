"""Diameters against formulas, and against the distances of all pairs of points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from test_surface import GRIDS, THICK, ellipsoid

from medseg_cli import diameters

SHEARED = GRIDS["sheared"]


def brute(mask: np.ndarray, steps: np.ndarray) -> float:
    """Largest distance of all points half a voxel from a voxel's centre along an axis."""
    half = np.concatenate([np.eye(mask.ndim), -np.eye(mask.ndim)]) / 2
    points = (np.argwhere(mask)[:, None] + half).reshape(-1, mask.ndim)
    return float(pdist(points @ steps.T).max())


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7)))
def test_no_two_points_are_farther_apart(seed: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < rng.choice([0.02, 0.2, 0.9])
    mask[tuple(rng.integers(shape))] = True
    mask = np.asarray(mask, order=rng.choice(["C", "F"]))
    for steps in (SHEARED, THICK["slices of 3 mm"]):
        points = diameters.corners(diameters.extreme_points(mask), steps)
        length, way = diameters.longest(points)
        assert length == pytest.approx(brute(mask, steps))
        assert np.linalg.norm(way) == pytest.approx(1)


def test_voxels_in_one_plane_or_line_are_no_exception() -> None:
    index = np.indices((12, 12, 12))
    for mask in (index.sum(0) == 15, (index[0] == index[1]) & (index[1] == index[2]), index[2] == 4):
        points = diameters.corners(diameters.extreme_points(mask), SHEARED)
        assert diameters.longest(points)[0] == pytest.approx(brute(mask, SHEARED))


@pytest.mark.parametrize("name", [*GRIDS, *THICK])
def test_a_ball_is_as_long_as_it_is(name: str) -> None:
    """No centre of a voxel lies outside, and half a voxel is added at both ends."""
    steps = (GRIDS | THICK)[name]
    ball = ellipsoid(steps, (14.0,) * 3)
    length, _ = diameters.longest(diameters.corners(diameters.extreme_points(ball), steps))
    voxel = np.linalg.norm(steps, axis=0)
    assert 28 - voxel.min() / 4 < length < 28 + voxel.max()


def test_a_box_is_as_long_as_its_diagonal() -> None:
    """Its eight tips lie half a voxel beyond what the points along the axes reach."""
    steps, size = np.diag([0.5, 0.8, 2.0]), np.array([40, 30, 10])
    points = diameters.corners(diameters.extreme_points(np.ones(size, bool)), steps)
    length, way = diameters.longest(points)
    assert length == pytest.approx(np.linalg.norm(steps @ size), abs=1.0)
    assert np.abs(way) == pytest.approx(steps @ size / np.linalg.norm(steps @ size), abs=0.05)


def test_the_longest_diameter_in_a_slice_and_across_it() -> None:
    """Ellipses of 30 x 12 mm at most, turned by 30 degrees in their plane, the largest in slice 9 of axis 1."""
    turned = np.array([[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]])
    steps = np.diag([0.5, 0.6])
    i, k = np.meshgrid(np.arange(-40, 41), np.arange(-40, 41), indexing="ij")
    along, across = turned.T @ (steps @ np.stack([i.ravel(), k.ravel()]))
    mask = np.zeros((81, 20, 81), bool)
    for index in range(20):
        size = 1 - abs(index - 9) / 20
        mask[:, index] = ((along / (15 * size)) ** 2 + (across / (6 * size)) ** 2 <= 1).reshape(81, 81)
    length, short, index = diameters.longest_in_slices(mask, 1, steps)
    assert index == 9
    assert length == pytest.approx(30, abs=0.6)
    assert short == pytest.approx(12, abs=0.6)
    assert length == pytest.approx(brute(mask[:, 9], steps))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_no_slice_has_a_longer_one(seed: int, axis: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((6, 5, 7)) < rng.choice([0.03, 0.2])
    mask[tuple(rng.integers(mask.shape))] = True
    mask = np.asarray(mask, order=rng.choice(["C", "F"]))
    steps = np.array([[0.9, 0.3], [0.0, 1.4]])
    length, _, index = diameters.longest_in_slices(mask, axis, steps)
    slices = np.moveaxis(mask, axis, 0)
    every = [brute(each, steps) if each.any() else 0.0 for each in slices]
    assert length == pytest.approx(max(every))
    assert every[index] == pytest.approx(length)


def test_least_widths() -> None:
    for angle in (0.0, 0.4, 1.1):
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        index = np.stack(np.meshgrid(np.arange(-60, 61), np.arange(-60, 61), indexing="ij"), -1)
        along, across = np.moveaxis(index @ turned, -1, 0)
        mask = (np.abs(along) <= 40) & (np.abs(across) <= 15)
        points = diameters.corners(diameters.extreme_points(mask), np.eye(2))
        assert diameters.least_width(points) == pytest.approx(30, abs=1.1)
        assert diameters.longest(points)[0] == pytest.approx(np.hypot(80, 30), abs=1.6)
