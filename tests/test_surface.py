"""Surfaces and outlines against formulas for balls, boxes, discs and rods, on stretched, sheared and turned grids."""

from __future__ import annotations

import numpy as np
import phantom
import pytest

from medseg_cli.surface import boundary

GRIDS = {
    "1 mm": np.eye(3),
    "fine in plane": np.diag([0.8, 0.8, 1.5]),
    "three sizes": np.diag([0.5, 0.8, 1.0]),
    "turned": phantom.rotation((0.3, -0.5, 0.9)) @ np.diag([0.8, 0.8, 1.5]),
    "sheared": np.array([[0.9, -0.2, 0.1], [0.2, 0.8, 0.3], [0.0, -0.1, 1.1]]),
}
THICK = {"slices of 3 mm": np.diag([0.7, 0.7, 3.0]), "slices of 5 mm": np.diag([1.0, 1.0, 5.0])}


def ellipsoid(steps: np.ndarray, radii: tuple[float, ...]) -> np.ndarray:
    """Voxels whose centres lie inside; its centre is no voxel's."""
    reach = np.ceil(max(radii) * np.abs(np.linalg.inv(steps)).sum(axis=1)).astype(int) + 1
    index = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    return (((index + np.array([0.2, -0.3, 0.1])[: len(steps)]) @ steps.T / radii) ** 2).sum(-1) <= 1


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("radius", "tolerance"), [(6.0, 0.02), (12.0, 0.015), (25.0, 0.01)])
def test_balls(name: str, radius: float, tolerance: float) -> None:
    ball = ellipsoid(GRIDS[name], (radius,) * 3)
    assert boundary(ball, GRIDS[name]) == pytest.approx(4 * np.pi * radius**2, rel=tolerance)


@pytest.mark.parametrize("name", THICK)
def test_balls_in_thick_slices(name: str) -> None:
    """A ball of 12 mm lies in five to nine such slices."""
    ball = ellipsoid(THICK[name], (12.0,) * 3)
    assert boundary(ball, THICK[name]) == pytest.approx(4 * np.pi * 12**2, rel=0.025)


def test_a_long_ellipsoid() -> None:
    """Twice as long as wide; the surface of a prolate spheroid has a formula."""
    across, along = 10.0, 20.0
    eccentricity = np.sqrt(1 - (across / along) ** 2)
    truth = 2 * np.pi * across**2 * (1 + along / (across * eccentricity) * np.arcsin(eccentricity))
    for steps in (GRIDS["1 mm"], GRIDS["three sizes"]):
        for radii in ((across, across, along), (along, across, across)):
            assert boundary(ellipsoid(steps, radii), steps) == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("name", GRIDS)
def test_boxes_along_the_grid_come_out_small(name: str) -> None:
    """The worst there is, and documented: all faces in the orientation that 13 directions see least of."""
    steps, size = GRIDS[name], (60, 40, 50)
    faces = [
        np.linalg.norm(np.cross(steps[:, a] * size[a], steps[:, b] * size[b])) for a, b in ((0, 1), (1, 2), (0, 2))
    ]
    assert 0.87 < boundary(np.ones(size, bool), steps) / (2 * sum(faces)) < 1.01


def test_a_hollow_ball_has_two_surfaces() -> None:
    shell = ellipsoid(np.eye(3), (15.0,) * 3)
    inner = ellipsoid(np.eye(3), (8.0,) * 3)
    edge = [(a - b) // 2 for a, b in zip(shell.shape, inner.shape, strict=True)]
    shell[tuple(slice(e, e + n) for e, n in zip(edge, inner.shape, strict=True))] &= ~inner
    assert boundary(shell, np.eye(3)) == pytest.approx(4 * np.pi * (15**2 + 8**2), rel=0.02)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.8), (0.3, 0.2)])
def test_discs(spacing: tuple[float, float]) -> None:
    steps = np.diag(spacing)
    assert boundary(ellipsoid(steps, (20.0, 20.0)), steps) == pytest.approx(2 * np.pi * 20, rel=0.01)


def test_rectangles_along_the_grid_come_out_small() -> None:
    assert boundary(np.ones((60, 40), bool), np.eye(2)) == pytest.approx(200, rel=0.06)
    assert boundary(np.ones((60, 40), bool), np.eye(2)) < 200


def test_how_an_object_lies_in_its_array_changes_nothing() -> None:
    steps = GRIDS["sheared"]
    ball = ellipsoid(steps, (5.0,) * 3)
    same = boundary(np.pad(ball, ((3, 0), (0, 4), (1, 2))), steps)
    assert boundary(ball, steps) == pytest.approx(same)
    assert boundary(np.asfortranarray(ball), steps) == pytest.approx(same)
    assert boundary(ball[::-1, ::-1, ::-1], steps) == pytest.approx(same), "mirrored at a point: the same directions"
    assert boundary(ball, 2 * steps) == pytest.approx(4 * same)
