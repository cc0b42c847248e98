"""DICOM SEG as masks in `medseg evaluate`: real objects of other makers, and our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantom
import pytest
import SimpleITK
from dicom_out import MATRIX, THING, TUMOUR, folder_of_slices, read, segmentation

from medseg_cli.errors import InputError
from medseg_cli.prompt_mask import read_regions
from medseg_cli.readers.dicom import seg
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import dicom_seg
from medseg_cli.writers.masks import write_mask

Medseg = Callable[..., tuple[int, str, str]]
PAIRS = (
    ("liver.dcm", "liver_seg.nrrd"),
    ("sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd"),
    ("sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd"),
    ("23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd"),
)
"""DICOM SEG objects of dcmqi's own tests, and the masks they were made from."""


@pytest.mark.parametrize(("name", "mask"), PAIRS)
def test_objects_of_other_makers_hold_their_masks(name: str, mask: str, shared: Path) -> None:
    folder = shared / "data/dicom/dcmqi/segmentations"
    image = SimpleITK.ReadImage(str(folder / mask))
    values = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.uint16)
    values[values == 5] = 0  # PixelPaddingValue of the third: dcmqi fills the slices with it that are not there
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    whole = Scan(
        values[None].astype(np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, Provenance(Path(mask), "", "")
    )
    assert seg.is_seg(folder / name)
    found = seg.read(folder / name)
    assert np.array_equal(seg.widen(found.voxels[0].astype(np.uint16), found, whole), values)


@pytest.mark.parametrize("seg_type", ["binary", "fractional", "labelmap"])
def test_our_own_objects_come_back(seg_type: str, tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    result = segmentation(scan)
    dicom_seg.write(result, tmp_path / "seg.dcm", seg_type=seg_type)
    found = seg.read(tmp_path / "seg.dcm")
    assert found.shape[2] < scan.shape[2], "slices without a mask are not in the object"
    assert np.array_equal(seg.widen(found.voxels[0].astype(np.uint16), found, scan), result.mask)


def test_evaluate_takes_them_on_either_side(in_process: Medseg, tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    truth = np.zeros(scan.shape, np.uint8)
    truth[2:6, 1:5, 1:3] = 1
    moved = np.zeros_like(truth)
    moved[2:6, 1:5, 2:4] = 1
    for name, mask in (("truth", truth), ("moved", moved)):
        result = Segmentation(mask, (TUMOUR, THING), scan)
        dicom_seg.write(result, tmp_path / f"{name}.dcm")
        write_mask(result, tmp_path / f"{name}.nii.gz")
    for one, other in (("moved.dcm", "truth.nii.gz"), ("moved.nii.gz", "truth.dcm"), ("moved.dcm", "truth.dcm")):
        code, out, err = in_process("evaluate", one, other, "-o", f"{one}-{other}.json", "--json")
        assert code == 0, err
        (case,) = json.loads(out)["metric_per_case"]
        assert case["metrics"]["1"]["Dice"] == pytest.approx(0.5), "one slice of two in common"


def test_as_a_coarse_mask_to_point_with(tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    result = segmentation(scan)
    dicom_seg.write(result, tmp_path / "seg.dcm")
    for value, target in enumerate(read_regions(tmp_path / "seg.dcm", scan), start=1):
        assert target.region is not None
        assert np.array_equal(target.region.voxels, result.mask == value)


def test_another_grid_is_refused(tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    dicom_seg.write(segmentation(scan), tmp_path / "seg.dcm")
    found = seg.read(tmp_path / "seg.dcm")
    labels = found.voxels[0].astype(np.uint16)
    aside = MATRIX.copy()
    aside[:3, 3] += 0.4 * MATRIX[:3, 0]
    provenance = Provenance(Path("other.nii.gz"), "nifti", "")
    with pytest.raises(InputError, match=r"does not lie on the voxels of other.nii.gz: off by up to 0.40 voxels"):
        seg.widen(labels, found, Scan(scan.voxels, aside, provenance))
    small = Scan(phantom.voxels((9, 7, 2)).astype(np.float32)[None], scan.affine, provenance)
    with pytest.raises(InputError, match=r"labelled voxels of .* lie outside of other.nii.gz"):
        seg.widen(labels, found, small)


def test_overlapping_segments_are_refused(shared: Path) -> None:
    with pytest.raises(InputError, match=r"overlaps others in [0-9]+ voxels"):
        seg.read(shared / "data/dicom/dcmqi/segmentations/partial_overlaps.dcm")
