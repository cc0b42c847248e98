"""Statistics of masks against formulas and against scipy, which counts in another way."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import phantom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg_cli.measure import measure
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation

OBLIQUE = np.array([[0.8, -0.5, 0.1, -20.0], [0.6, 0.7, 0.2, 30.0], [0.0, -0.2, 2.9, 5.0], [0.0, 0.0, 0.0, 1.0]])


def segmentation(mask: np.ndarray, affine: np.ndarray = OBLIQUE, values: int = 3, **scan: object) -> Segmentation:
    provenance = Provenance(Path("scan.nii.gz"), str(scan.pop("format", "nifti")), "")
    labels = tuple(Label(value, f"object {value}") for value in range(1, values + 1))
    return Segmentation(mask, labels, Scan(np.zeros((1, *mask.shape), np.float32), affine, provenance, **scan))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
def test_measurements_agree_with_scipy(seed: int, shape: tuple[int, int, int]) -> None:
    mask = np.random.default_rng(seed).choice(np.arange(4, dtype=np.uint16), shape, p=[0.85, 0.05, 0.05, 0.05])
    result = segmentation(mask)
    boxes = ndimage.find_objects(mask, max_label=3)
    for each in measure(result):
        value = each.label.value
        assert each.voxels == np.count_nonzero(mask == value)
        assert each.empty == (boxes[value - 1] is None)
        if each.empty:
            continue
        assert each.volume_mm3 == pytest.approx(each.voxels * np.linalg.det(OBLIQUE[:3, :3]))
        assert each.centroid_ijk == pytest.approx(ndimage.center_of_mass(mask == value))
        world = OBLIQUE @ [*each.centroid_ijk, 1.0]
        assert each.centroid_ras == pytest.approx(world[:3])
        assert each.first_ijk == tuple(part.start for part in boxes[value - 1])
        assert each.last_ijk == tuple(part.stop - 1 for part in boxes[value - 1])
        edge = any(
            size > 1 and (part.start == 0 or part.stop == size)
            for part, size in zip(boxes[value - 1], shape, strict=True)
        )
        assert each.touches_border is edge


def ball(centre: tuple[float, float, float], radius: float, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels (I, J, K) whose centres lie within `radius` mm of a place in ras."""
    index = np.stack(np.indices(shape), axis=-1)
    return ((index @ affine[:3, :3].T + affine[:3, 3] - centre) ** 2).sum(-1) <= radius**2


@pytest.mark.parametrize("codes", ["RAS", "SLP", "PIR"])
def test_two_balls_are_measured_as_what_they_are(codes: str) -> None:
    """Of 9 and 6 mm radius, on a turned grid; the slices that count are those across the axis nearest to feet-head."""
    affine = phantom.affine(codes, (0.9, 1.1, 1.3), (0.0, 0.0, 0.0), (0.1, -0.2, 0.15))
    shape = (60, 60, 60)
    places = [phantom.landmark_ras(affine, index) + 0.2 for index in ((20, 22, 30), (42, 40, 28))]
    mask = np.zeros(shape, np.uint8)
    for value, (place, radius) in enumerate(zip(places, (9.0, 6.0), strict=True), start=1):
        mask[ball(place, radius, affine, shape)] = value
    for each, place, radius in zip(measure(segmentation(mask, affine, 2)), places, (9.0, 6.0), strict=True):
        assert each.volume_mm3 == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
        assert each.shape.surface_mm2 == pytest.approx(4 * np.pi * radius**2, rel=0.03)
        assert each.shape.max_diameter_mm == pytest.approx(2 * radius, abs=1.3)
        assert each.shape.axial_diameter_mm == pytest.approx(2 * radius, abs=1.3)
        assert each.shape.axial_short_mm == pytest.approx(2 * radius, abs=1.3)
        assert each.centroid_ras == pytest.approx(place, abs=0.1)
        axis = next(axis for axis, letter in enumerate(codes) if letter in "SI")
        assert each.shape.axial_slice == pytest.approx(each.centroid_ijk[axis], abs=1.5)
        assert each.components == 1


def test_values_inside_are_those_of_the_scan() -> None:
    """Values beyond 16 bits and between whole numbers, compared with numpy on the same voxels."""
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 3, (12, 11, 10)).astype(np.uint8)
    plain = segmentation(mask, values=2)
    voxels = (rng.normal(1e5, 3e4, (1, 12, 11, 10)) + 0.25).astype(np.float32)
    voxels[0, 3, 3, 3], mask[3, 3, 3] = np.nan, 1
    of = Segmentation(mask, plain.labels, replace(plain.scan, voxels=voxels))
    for each in measure(of):
        values = voxels[0][(mask == each.label.value) & np.isfinite(voxels[0])].astype(np.float64)
        found = each.intensity
        assert found is not None
        assert (found.mean, found.sd) == pytest.approx((values.mean(), values.std()))
        expected = np.percentile(values, [0, 5, 50, 95, 100])
        assert [found.min, found.p05, found.median, found.p95, found.max] == pytest.approx(expected)
    colour = replace(plain.scan, voxels=np.repeat(voxels, 3, axis=0))
    (first, _) = measure(Segmentation(mask, plain.labels, colour))
    assert first.intensity is None
    assert "several channels" in first.reasons["intensity"]
    nothing = replace(plain.scan, voxels=np.full_like(voxels, np.nan))
    (first, _) = measure(Segmentation(mask, plain.labels, nothing))
    assert "finite" in first.reasons["intensity"]


def test_parts_touch_by_corners() -> None:
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    mask[3, 3, 3] = 1
    mask[6, 6, 6] = 2
    mask[6, 1, 6] = 2
    assert [each.components for each in measure(segmentation(mask, values=3))] == [1, 2, None]


def test_a_disc_in_a_picture() -> None:
    """20 mm across, in pixels of 0.5 x 0.8 mm."""
    affine = np.diag([0.5, 0.8, 1.0, 1.0])
    mask = ball((20.1, 20.3, 0.0), 10.0, affine, (80, 50, 1)).astype(np.uint8)
    (found,) = measure(segmentation(mask, affine, 1, format="image"))
    assert found.area_mm2 == pytest.approx(np.pi * 100, rel=0.01)
    assert found.shape.perimeter_mm == pytest.approx(2 * np.pi * 10, rel=0.015)
    assert found.shape.max_diameter_mm == pytest.approx(20, abs=0.8)
    assert found.shape.min_diameter_mm == pytest.approx(20, abs=0.8)
    assert (found.shape.surface_mm2, found.shape.axial_diameter_mm) == (None, None)
    (unknown,) = measure(segmentation(mask, affine, 1, format="image", spacing_known=False))
    assert unknown.shape.perimeter_mm is None
    assert "--spacing" in unknown.reasons["perimeter_mm"]


def test_sizes_alone_are_the_same() -> None:
    mask = np.random.default_rng(5).integers(0, 4, (9, 9, 9)).astype(np.uint8)
    for whole, sizes in zip(measure(segmentation(mask)), measure(segmentation(mask), shapes=False), strict=True):
        assert sizes.shape.surface_mm2 is None
        assert sizes.intensity is None
        assert (sizes.voxels, sizes.volume_mm3, sizes.components) == (whole.voxels, whole.volume_mm3, whole.components)


def test_memory_does_not_grow_with_the_objects() -> None:
    """Numpy's own allocations, traced: 64 objects take little more than 1, and far less than a mask for each."""
    peaks = []
    for objects in (1, 64):
        mask = np.zeros((128, 128, 64), np.uint8)
        for value in range(1, objects + 1):
            i, j, k = ((value - 1) % 4) * 32, ((value - 1) // 4 % 4) * 32, ((value - 1) // 16) * 16
            mask[i + 2 : i + 28, j + 2 : j + 28, k + 2 : k + 14] = value
        of = segmentation(mask, np.eye(4), objects)
        tracemalloc.start()
        measure(of)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + mask.nbytes / 4


def test_an_empty_object_has_reasons_and_no_invented_numbers() -> None:
    (empty, *_) = measure(segmentation(np.zeros((5, 6, 7), np.uint8)))
    assert empty.empty
    assert empty.voxels == 0
    for value in (empty.centroid_ijk, empty.centroid_ras, empty.first_ijk, empty.last_ijk, empty.touches_border):
        assert value is None
    assert empty.reasons["centroid_ijk"] == "the object is empty"


def test_images_without_pixel_size_have_no_volume_but_a_reason() -> None:
    mask = np.zeros((8, 8, 1), np.uint8)
    mask[2:4, 2:4] = 1
    unknown = measure(segmentation(mask, np.eye(4), 1, format="image", spacing_known=False))[0]
    assert (unknown.volume_mm3, unknown.area_mm2, unknown.centroid_ras) == (None, None, None)
    assert "--spacing" in unknown.reasons["area_mm2"]
    known = measure(segmentation(mask, np.diag([0.5, 0.2, 1.0, 1.0]), 1, format="image"))[0]
    assert known.volume_mm3 is None
    assert known.area_mm2 == pytest.approx(4 * 0.1)
    (shadow,) = measure(segmentation(mask, np.diag([0.5, 0.2, 1, 1]), 1, format="dicom", position_known=False))
    assert (shadow.volume_mm3, shadow.area_mm2) == (None, pytest.approx(4 * 0.1)), "a projection has no volume"
    assert known.touches_border is False, "an axis of one voxel has no border"
