"""Masks on DICOM scans, and readers of DICOM SEG and RTSTRUCT that share no code with medseg.

Import it with `from dicom_out import ...` (tests/ is on pytest's path).
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import phantom
import pydicom
import SimpleITK
from dicom_phantom import decimal, enhanced, save, series, write
from pydicom.dataset import Dataset

from medseg_cli.readers import dicom
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation

SPACE = "1.2.826.0.1.3680043.10.99.7"
"""FrameOfReferenceUID of the phantoms."""
MATRIX = phantom.affine("LPS", angles=(0.3, -0.2, 0.4))
"""Oblique, with three different spacings."""
MADE_BY = {
    "preset": "hippocampus-mr",
    "prompted": False,
    "weights": {"name": "hippo", "sha256": "ab" * 32, "random": False},
}
TUMOUR = Label(1, "tumour", (200, 30, 60), "108369006")
THING = Label(2, "thing", (20, 200, 40))


def folder_of_slices(path: Path, matrix: np.ndarray = MATRIX, **elements: Any) -> Path:
    """The phantom as a series of files in no order, in a frame of reference."""
    return write(series(phantom.voxels(), matrix, **{"FrameOfReferenceUID": SPACE, **elements}), path)


def one_file(path: Path) -> Path:
    """The phantom as one enhanced object whose frames are in no order."""
    dataset = enhanced(phantom.voxels(), MATRIX, (3, 0, 4, 1, 2))
    dataset.FrameOfReferenceUID = SPACE
    return save(dataset, path / "enhanced.dcm")


def archive(path: Path) -> Path:
    """The phantom's files in a zip."""
    folder = folder_of_slices(path / "to_be_packed")
    with zipfile.ZipFile(path / "scan.zip", "w") as packed:
        for file in folder.iterdir():
            packed.write(file, f"scan/{file.name}")
    return path / "scan.zip"


def segmentation(scan: Scan, **made_by: Any) -> Segmentation:
    """An irregular mask of three labels: "tumour" with a hole and at the border, "thing" of one voxel, one empty."""
    i, j, k = np.indices(scan.shape)
    mask = np.where((i + 2 * j + 3 * k) % 7 < 2, 1, 0).astype(np.uint8)
    mask[:, :, 0] = 0
    mask[1:6, 1:6, 1] = 1
    mask[3, 3, 1] = 0
    mask[:4, 0, 2] = 1
    mask[8, 6, 3] = 2
    return Segmentation(mask, (TUMOUR, THING, Label(3, "nowhere")), scan, {**MADE_BY, **made_by})


def on_full_grid(path: Path, scan: Scan) -> dict[int, np.ndarray]:
    """Segment number → (I, J, K) stored values on the scan's full grid; frames are placed by their position in mm.

    Every voxel has to fall onto a voxel of the scan, to a thousandth.
    """
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    down, across = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine)
    column, row = np.meshgrid(np.arange(dataset.Columns), np.arange(dataset.Rows), indexing="ij")
    found: dict[int, np.ndarray] = {}
    for frame, group in zip(pixels(dataset), dataset.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        places = origin + across * column[..., None] * orientation[:3] + down * row[..., None] * orientation[3:]
        index = places @ to_index[:3, :3].T + to_index[:3, 3]
        assert np.abs(index - np.rint(index)).max() < 1e-3
        i, j, k = np.moveaxis(np.rint(index).astype(int), -1, 0)
        values = found.setdefault(segment_of(group, shared), np.zeros(scan.shape, int))
        values[i, j, k] = frame.T
    return found


def segment_of(group: Dataset, shared: Dataset) -> int:
    """Number of the frame's segment; 0 in a label map, whose frames belong to none."""
    for each in (group, shared):
        if "SegmentIdentificationSequence" in each:
            return int(each.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    return 0


def pixels(dataset: Dataset) -> np.ndarray:
    """(frames, rows, columns) stored values. Bits are unpacked here, bytes by pydicom."""
    shape = int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns
    if dataset.BitsAllocated != 1:
        return dataset.pixel_array.reshape(shape)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    return bits[: np.prod(shape)].reshape(shape)


def by_dcmqi(path: Path, scan: Scan, folder: Path) -> dict[int, np.ndarray]:
    """Segment number → (I, J, K) on the scan's full grid, as dcmqi's converter understands the object.

    It writes a label map as one file, of other objects one file per segment, named by its number.
    """
    import dcmqi

    tool = Path(dcmqi.__file__).parent / "bin" / "segimage2itkimage"
    command = [tool, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd", "-p", "dcmqi"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine)
    found: dict[int, np.ndarray] = {}
    labelmap = pydicom.dcmread(path).SegmentationType == "LABELMAP"
    for file in sorted(folder.glob("dcmqi*.nrrd")):
        image = SimpleITK.ReadImage(str(file))
        values = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
        for value in np.unique(values[values > 0]).tolist():
            voxels = np.argwhere(values == value)
            places = np.array([image.TransformContinuousIndexToPhysicalPoint(each.tolist()) for each in voxels])
            index = places @ to_index[:3, :3].T + to_index[:3, 3]
            assert np.abs(index - np.rint(index)).max() < 1e-3
            number = value if labelmap else int(file.stem.removeprefix("dcmqi-"))
            mask = found.setdefault(int(number), np.zeros(scan.shape, bool))
            mask[tuple(np.rint(index).astype(int).T)] = True
    return found


def rasterised(path: Path, scan: Scan) -> dict[str, np.ndarray]:
    """ROI name → (I, J, K): voxels whose centre is inside an odd number of the contours of their slice.

    Every contour has to lie in the plane of a slice, to a thousandth of its distance to the next.
    """
    dataset = pydicom.dcmread(path)
    names = {int(each.ROINumber): str(each.ROIName) for each in dataset.StructureSetROISequence}
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine)
    found = {}
    for roi in dataset.ROIContourSequence:
        mask = found[names[int(roi.ReferencedROINumber)]] = np.zeros(scan.shape, bool)
        for contour in roi.get("ContourSequence", []):
            places = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(places) == contour.NumberOfContourPoints
            index = places @ to_index[:3, :3].T + to_index[:3, 3]
            k = round(float(index[0, 2]))
            assert np.abs(index[:, 2] - k).max() < 1e-3
            mask[:, :, k] ^= inside(index[:, :2], scan.shape[:2])
    return found


def inside(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(I, J) whether whole (i, j) lie inside a polygon (N, 2): a ray along i crosses it an odd number of times."""
    i, j = np.indices(shape)
    odd = np.zeros(shape, bool)
    for (i0, j0), (i1, j1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (j0 > j) != (j1 > j)
        if j0 != j1:
            odd ^= crosses & (i < i0 + (j - j0) / (j1 - j0) * (i1 - i0))
    return odd


def read(path: Path) -> Scan:
    """The scan at `path` through medseg's own reader."""
    return dicom.read(path)


def x_ray(path: Path) -> Path:
    """A DX picture without any position in the patient."""
    values = phantom.voxels((9, 7, 1))
    dataset = series(values, phantom.affine("LPS"))[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del dataset[keyword]
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.Modality = "DX"
    dataset.ImagerPixelSpacing = decimal([0.3, 0.2])
    return save(dataset, path / "x-ray.dcm")


def absent(path: Path) -> set[str]:
    """Elements that DICOM PS3.3 requires of such an object and that it lacks, by the tables which highdicom carries.

    Functional groups are left out: each of them may stand in one of two places.
    """
    tables = Path(highdicom.__file__).parent / "_standard"
    classes, modules, elements = (
        json.loads((tables / f"{name}.json").read_text())
        for name in ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    )
    dataset = pydicom.dcmread(path)
    lacking = set()
    for module in modules[classes[dataset.SOPClassUID]]:
        if module["usage"] != "M" or module["key"].endswith("functional-groups"):
            continue
        for element in elements[module["key"]]:
            items = [dataset]
            for step in element["path"]:
                items = [inner for outer in items for inner in outer.get(step) or []]
            for each in items:
                there = element["keyword"] in each
                empty = there and each[element["keyword"]].is_empty
                if (element["type"] in ("1", "2") and not there) or (element["type"] == "1" and empty):
                    lacking.add("/".join([*element["path"], element["keyword"]]))
    return lacking
