"""The real JPEG 2000 CT series through `medseg segment`: the mask overlays the scan in world space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK


def test_the_mask_overlays_the_series_as_simpleitk_reads_it(run_medseg, shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "total-ct-mr" / "example_ct_dicom"
    click = ["--point", "60,190,-785", "--coords", "ras"]
    preset = ["--preset", "hippocampus-mr", "--random-weights"]
    done = run_medseg("segment", folder, "-o", tmp_path / "out.nii.gz", *preset, *click)
    assert done.rc == 0, done.stderr
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    scan, mask = reader.Execute(), SimpleITK.ReadImage(str(tmp_path / "out.nii.gz"))
    onto_scan = SimpleITK.Resample(mask, scan, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    voxels, moved = SimpleITK.GetArrayFromImage(mask), SimpleITK.GetArrayFromImage(onto_scan)
    assert voxels.any()
    assert (moved > 0).sum() == (voxels > 0).sum()
    at_scan = scan.TransformPhysicalPointToContinuousIndex((-60.0, -190.0, -785.0))
    at_mask = mask.TransformPhysicalPointToContinuousIndex((-60.0, -190.0, -785.0))
    assert sorted(scan.GetSize()) == sorted(mask.GetSize())
    corners = [(0, 0, 0), tuple(n - 1 for n in mask.GetSize())]
    world = np.array([mask.TransformIndexToPhysicalPoint(corner) for corner in corners])
    there = np.array([scan.TransformIndexToPhysicalPoint(corner) for corner in corners])
    assert np.allclose(np.sort(world, axis=0), np.sort(there, axis=0), atol=1e-3)
    assert np.allclose(at_scan[:2], at_mask[:2], atol=1e-3)
