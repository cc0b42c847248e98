"""`medseg info` through the real command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phantom
import pytest
from dicom_phantom import picture, save, series, write


@pytest.fixture
def info(run_medseg: Callable[..., Any]) -> Callable[..., Any]:
    """`info(path, *options)` → the finished process."""
    return lambda *arguments: run_medseg("info", *arguments)


def test_nifti(info: Callable[..., Any], tmp_path: Path) -> None:
    path = phantom.write_volume(tmp_path / "scan.nii.gz", phantom.voxels(), phantom.affine("LPS"))
    out = info(path)
    assert out.rc == 0, out.stderr
    lines = dict(line.split(None, 1) for line in out.stdout.splitlines() if line.startswith(("format", "orientation")))
    assert lines == {"format": "nifti", "orientation": "LPS"}
    about = json.loads(info(path, "--json").stdout)
    assert about["series"] == []
    assert about["scan"]["shape"] == list(phantom.SHAPE)
    assert about["scan"]["spacing_mm"] == pytest.approx(phantom.SPACING, abs=1e-5)
    assert about["scan"]["first_voxel_ras_mm"] == pytest.approx(phantom.ORIGIN_RAS)
    assert about["scan"]["intensity"]["max"] == phantom.LANDMARK_VALUE


def test_dicom_series_are_listed_and_one_is_described(info: Callable[..., Any], tmp_path: Path) -> None:
    write(series(phantom.voxels(), phantom.affine("LPS")), tmp_path / "scans", "a-")
    other = series(phantom.voxels(), phantom.affine("LPS"), SeriesInstanceUID="1.2.3.4", SeriesNumber=1, Modality="MR")
    write(other, tmp_path / "scans", "b-")
    mask = picture(phantom.voxels()[:, :, 0])
    mask.Modality, mask.SeriesInstanceUID = "SEG", "1.2.3.5"
    save(mask, tmp_path / "scans" / "mask.dcm")
    out = info(tmp_path / "scans")
    assert out.rc == 0, out.stderr
    table = out.stdout.splitlines()
    assert table[1].split()[:4] == ["1", "MR", "volume", "9x7x5"]
    assert table[2].split()[:4] == ["2", "CT", "volume", "9x7x5"]
    assert table[3].split()[:3] == ["3", "SEG", "other"]
    assert "pick one with --series" in out.stdout
    about = json.loads(info(tmp_path / "scans", "--json", "--series", "1.2.3.4").stdout)
    assert about["series"][0]["uid"] == "1.2.3.4"
    assert about["scan"]["modality"] == "MR"
    assert about["scan"]["format"] == "dicom"
    assert "Hopper" not in out.stdout + json.dumps(about)


def test_doubtful_geometry_is_an_input_error(info: Callable[..., Any], tmp_path: Path) -> None:
    slices = series(phantom.voxels(), phantom.affine("LPS"))
    del slices[1]
    out = info(write(slices, tmp_path / "gap"))
    assert out.rc == 3
    assert "missing" in out.stderr
    assert "--on-gap resample" in out.stderr
    assert info(tmp_path / "gap", "--on-gap", "resample").rc == 0


@pytest.mark.parametrize("arguments", [(), ("a", "-i", "b")])
def test_one_scan_must_be_named(info: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    assert info(*arguments).rc == 2


def test_a_missing_file(info: Callable[..., Any]) -> None:
    out = info("nowhere.nii.gz")
    assert out.rc == 3
    assert "nowhere.nii.gz" in out.stderr
