"""Grey values of whole scans: percentiles of large volumes, and what a preset may ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from medseg_cli.intensity import Display, display
from medseg_cli.preset_intensity import EightBit, Percentile
from medseg_cli.scan import Provenance, Scan


def shown(voxels: np.ndarray, low: float, high: float) -> Display:
    provenance = Provenance(Path("scan.nii.gz"), "nifti", "ab" * 32)
    scan = Scan(voxels[None].astype(np.float32), np.eye(4), provenance)
    return display(scan, Percentile(method="percentile", low=low, high=high), "a test")


@pytest.mark.parametrize("shape", [(1024, 1024, 4), (1000, 1000, 3), (4, 1000, 1000)])
def test_percentiles_of_a_large_scan_see_all_of_its_slices(shape: tuple[int, int, int]) -> None:
    """Every n-th voxel of 1024 x 1024 x 4 is one slice; the first is air here, and the values rise along each axis."""
    axis = int(np.argmin(shape))
    count = shape[axis]
    voxels = np.moveaxis(np.zeros(shape), axis, 0) + np.arange(count)[:, None, None] * 100
    found = shown(np.moveaxis(voxels, 0, axis), 0.5, 99.5)
    assert (found.low, found.high) == (0, 100 * (count - 1))


def test_percentiles_of_a_large_scan_are_close_and_always_the_same() -> None:
    values = np.random.default_rng(3).permutation(np.linspace(0, 1000, 3_000_000)).reshape(200, 150, 100)
    found = shown(values, 1, 98)
    assert (found.low, found.high) == pytest.approx((10, 980), abs=1)
    assert found == shown(values, 1, 98)


def test_percentiles_leave_out_what_is_no_number() -> None:
    voxels = np.arange(1000.0).reshape(10, 10, 10)
    voxels[0, 0, :3] = np.nan, np.inf, -np.inf
    found = shown(voxels, 0, 100)
    assert (found.low, found.high) == (3, 999)


def test_eight_bit_percentiles_are_in_order_too() -> None:
    with pytest.raises(ValidationError, match="low 99 must be below high 1"):
        EightBit(method="eight-bit", low=99, high=1)
