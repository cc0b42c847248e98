"""Statistics of masks against formulas and against scipy, which counts in another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
