"""Masks of one slice as PNG, read back by Pillow, by SimpleITK and by ourselves; and the names of all outputs."""

from __future__ import annotations

from pathlib import Path

import dicom_phantom
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image

from medseg_cli.errors import InputError, UsageError
from medseg_cli.measure import measure
from medseg_cli.readers import ReadOptions, load_scan
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Scan
from medseg_cli.segmentation import RANDOM_WEIGHTS, Label, Segmentation
from medseg_cli.writers import masks, outputs, preview

WIDTH, HEIGHT = 13, 9


def picture(folder: Path, name: str = "scan.png") -> Path:
    """An image file without any symmetry."""
    path = folder / name
    values = np.add.outer(np.arange(HEIGHT) * 20, np.arange(WIDTH)).astype(np.uint8)
    Image.fromarray(values).save(path, **({"format": "PNG"} if "." not in name else {}))
    return path


def xray(folder: Path, **elements: object) -> Path:
    """A DICOM X-ray: one frame, a pixel size at the detector, no position in the patient."""
    dataset = dicom_phantom.picture(np.add.outer(np.arange(WIDTH), np.arange(HEIGHT) * 20).astype(np.uint16))
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.Modality = "DX"
    dataset.ImagerPixelSpacing = ["0.2", "0.1"]
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dicom_phantom.save(dataset, folder / "xray.dcm")


def segmentation(scan: Scan, *values: int, provenance: dict[str, object] | None = None) -> Segmentation:
    """Object n is row n and the n-th pixel of the last row."""
    dtype = np.uint8 if max(values) < 256 else np.uint16
    mask = np.zeros(scan.shape, dtype)
    for row, value in enumerate(values):
        mask[:, row, 0] = value
        mask[row, -1, 0] = value
    return Segmentation(mask, tuple(Label(value, f"object {value}") for value in values), scan, provenance or {})


def expected(rows: int, columns: int, *values: int) -> np.ndarray:
    """The picture that `segmentation` means, (rows, columns)."""
    result = np.zeros((rows, columns), int)
    for row, value in enumerate(values):
        result[row, :] = value
        result[-1, row] = value
    return result


@pytest.mark.parametrize(
    ("labels", "values", "stored", "mode"),
    [
        ((1,), "auto", (255,), "L"),
        ((3,), "auto", (255,), "L"),
        ((1,), "labels", (1,), "L"),
        ((1, 2), "auto", (1, 2), "L"),
        ((1, 2), "labels", (1, 2), "L"),
        ((1, 2), "binary", (255, 255), "L"),
        ((7, 300), "labels", (7, 300), "I;16"),
        ((7, 300), "auto", (7, 300), "I;16"),
        ((7, 300), "binary", (255, 255), "L"),
    ],
)
def test_what_a_png_mask_holds(
    tmp_path: Path, labels: tuple[int, ...], values: masks.Values, stored: tuple[int, ...], mode: str
) -> None:
    scan = read_file(picture(tmp_path), ReadOptions())
    result = segmentation(scan, *labels)
    path = masks.write_mask(result, tmp_path / "mask.png", values=values)
    image = Image.open(path)
    assert (image.mode, image.size) == (mode, (WIDTH, HEIGHT))
    np.testing.assert_array_equal(np.asarray(image), expected(HEIGHT, WIDTH, *stored))
    itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    np.testing.assert_array_equal(itk, expected(HEIGHT, WIDTH, *stored))
    how = masks.encoding(result, path, values)
    assert how.values == ("0/255" if 255 in stored else "labels")
    assert how.dtype == str(itk.dtype)


def test_notes_say_what_is_not_to_be_seen(tmp_path: Path) -> None:
    scan = read_file(picture(tmp_path), ReadOptions())
    one, two = segmentation(scan, 1), segmentation(scan, 1, 2)
    assert masks.encoding(one, "m.png").notes == ()
    assert masks.encoding(one, "m.png", "labels").notes == ()
    assert "label values" in masks.encoding(two, "m.png").notes[0]
    assert masks.encoding(two, "m.png", "labels").notes == (), "they were asked for"
    assert "not tell its 2 objects apart" in masks.encoding(two, "m.png", "binary").notes[0]
    assert masks.encoding(two, "m.nii.gz").notes == ()


@pytest.mark.parametrize("name", ["scan.png", "scan.tif", "scan.bmp", "scan"])
def test_a_mask_read_back_lies_on_its_image(tmp_path: Path, name: str) -> None:
    scan = load_scan(picture(tmp_path, name))
    result = segmentation(scan, 1, 2, 3)
    back = load_scan(masks.write_mask(result, tmp_path / "mask.png"))
    np.testing.assert_array_equal(back.voxels[0], result.mask)
    np.testing.assert_array_equal(back.affine, scan.affine)
    assert back.spacing_known == scan.spacing_known


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_mask_of_a_turned_photograph_is_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(np.arange(200, dtype=np.uint8).reshape(20, 10)).save(path, exif=exif)
    scan = read_file(path, ReadOptions())
    image = Image.open(masks.write_mask(segmentation(scan, 1), tmp_path / "mask.png"))
    assert image.size == ((20, 10) if orientation >= 5 else (10, 20))
    assert 0x0112 not in image.getexif(), "the mask itself is not to be turned once more"


def test_dicom_xray_gives_png_and_volume_masks_alike(tmp_path: Path) -> None:
    scan = load_scan(xray(tmp_path))
    assert (scan.shape, scan.is_picture) == ((WIDTH, HEIGHT, 1), True)
    result = segmentation(scan, 1, 2)
    image = np.asarray(Image.open(masks.write_mask(result, tmp_path / "mask.png")))
    np.testing.assert_array_equal(image, expected(HEIGHT, WIDTH, 1, 2))
    back = load_scan(masks.write_mask(result, tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(back.voxels[0], result.mask)
    np.testing.assert_allclose(back.affine, scan.affine)
    itk = SimpleITK.ReadImage(str(masks.write_mask(result, tmp_path / "mask.nrrd")))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(itk)[0], image)
    assert itk.GetSpacing()[:2] == pytest.approx((0.1, 0.2)), "columns are 0.1 mm apart, rows 0.2 mm"


@pytest.mark.parametrize(
    "name",
    [
        "highdicom/dx_image.dcm",
        "pydicom_tests/dicomdirtests/77654033/CR1/6154",
        "pydicom_tests/examples_rgb_color.dcm",
        "cornerstone_transfer_syntaxes/US-YBR_FULL_422-EVRLE.dcm",
    ],
)
def test_real_dicom_pictures(shared: Path, tmp_path: Path, name: str) -> None:
    path = shared / "data/dicom" / name
    scan = read_file(path, ReadOptions())
    header = pydicom.dcmread(path, stop_before_pixels=True)
    assert scan.is_picture
    result = segmentation(scan, 1, 2)
    image = np.asarray(Image.open(masks.write_mask(result, tmp_path / "mask.png")))
    np.testing.assert_array_equal(image, expected(header.Rows, header.Columns, 1, 2))
    back = read_file(masks.write_mask(result, tmp_path / "mask.nii.gz"), ReadOptions())
    np.testing.assert_array_equal(back.voxels[0], result.mask)


def test_a_slice_with_a_position_loses_it_in_a_png_which_is_said(tmp_path: Path) -> None:
    values = np.arange(WIDTH * HEIGHT, dtype=np.int16).reshape(WIDTH, HEIGHT, 1)
    (dataset,) = dicom_phantom.series(values, np.diag([0.5, 0.5, 2.0, 1.0]))
    result = segmentation(read_file(dicom_phantom.save(dataset, tmp_path / "slice.dcm"), ReadOptions()), 1)
    assert "no position in the patient" in masks.encoding(result, "m.png").notes[0]
    assert Image.open(masks.write_mask(result, tmp_path / "m.png")).size == (WIDTH, HEIGHT)


def test_a_volume_does_not_fit_into_a_picture(tmp_path: Path) -> None:
    volume = Scan(np.zeros((1, 4, 5, 6), np.float32), np.eye(4), load_scan(picture(tmp_path)).provenance)
    with pytest.raises(UsageError, match="one picture, but the scan has 6 slices") as caught:
        masks.check_fits(volume, tmp_path / "lungs.png")
    assert "lungs.nii.gz" in caught.value.hint
    with pytest.raises(UsageError, match="one picture"):
        masks.write_mask(segmentation(volume, 1), tmp_path / "lungs.png")
    with pytest.raises(UsageError, match="always holds label values"):
        masks.check_fits(volume, tmp_path / "lungs.nii.gz", "binary")
    assert list(tmp_path.glob("lungs*")) == []


@pytest.mark.parametrize("name", ["m.jpg", "m.tif", "m.TIFF", "m.bmp", "m.gif"])
def test_other_picture_formats_are_refused_with_the_one_that_works(name: str) -> None:
    with pytest.raises(UsageError, match="only picture format for masks is PNG") as caught:
        masks.mask_suffix(name)
    assert ".png" in caught.value.hint


def test_random_weights_are_stamped(tmp_path: Path) -> None:
    scan = read_file(picture(tmp_path), ReadOptions())
    random = segmentation(scan, 1, provenance={"weights": {"random": True}})
    assert Image.open(masks.write_mask(random, tmp_path / "r.png")).text["Comment"] == RANDOM_WEIGHTS
    assert Image.open(masks.write_mask(segmentation(scan, 1), tmp_path / "t.png")).text == {}


def test_a_png_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = picture(tmp_path)
    result = segmentation(read_file(scan, ReadOptions()), 1)
    path = tmp_path / "mask.png"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists already"):
        masks.write_mask(result, path)

    def fail(self: Image.Image, file: Path, **options: object) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            masks.write_mask(result, path, overwrite=True)
    assert path.read_bytes() == b"mine"
    masks.write_mask(result, path, overwrite=True)
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == ["mask.png", "scan.png"]


def test_names_of_the_three_files(tmp_path: Path) -> None:
    scan = picture(tmp_path)

    def names(of: Path, output: str, **options: bool) -> list[str | None]:
        files = outputs.plan(of, output, **options)
        return [path and path.name for path in (files.mask, files.report, files.preview)]

    into = f"{tmp_path}/lungs"
    assert names(scan, f"{into}.png") == ["lungs.png", "lungs.json", "lungs_preview.png"]
    assert names(scan, f"{into}.PNG") == ["lungs.PNG", "lungs.json", "lungs_preview.png"]
    assert names(scan, f"{into}.nii.gz") == ["lungs.nii.gz", "lungs.json", "lungs.png"]
    assert names(scan, f"{into}.png", preview=False) == ["lungs.png", "lungs.json", None]
    assert names(scan, f"{tmp_path}/") == ["scan_seg.png", "scan_seg.json", "scan_seg_preview.png"]
    assert names(scan, str(tmp_path)) == ["scan_seg.png", "scan_seg.json", "scan_seg_preview.png"]
    bare = picture(tmp_path, "bare")
    assert names(bare, f"{tmp_path}/out/")[0] == "bare_seg.png", "told by the content, not by the name"
    assert names(xray(tmp_path), f"{tmp_path}/out/") == ["xray_seg.nii.gz", "xray_seg.json", "xray_seg.png"]
    with pytest.raises(UsageError, match="no name"):
        outputs.plan(scan, f"{tmp_path}/.png")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["lungs.png", "lungs_preview.png"])
def test_the_input_is_never_an_output(tmp_path: Path, name: str, overwrite: bool) -> None:
    scan = picture(tmp_path, name)
    before = scan.read_bytes()
    with pytest.raises(InputError, match="is an input of this run"):
        outputs.check(outputs.plan(scan, f"{tmp_path}/lungs.png"), (scan,), overwrite=overwrite)
    link = tmp_path / "link.png"
    link.symlink_to(scan)
    with pytest.raises(InputError, match="is an input of this run"):
        outputs.check(outputs.plan(scan, f"{tmp_path}/link.png"), (scan,), overwrite=overwrite)
    assert scan.read_bytes() == before


def test_a_preview_replaces_nothing_but_a_preview(tmp_path: Path) -> None:
    """The mask `lungs.png` lies where `lungs.nii.gz` would have its picture."""
    scan = picture(tmp_path)
    result = segmentation(load_scan(scan), 1)
    beside = outputs.plan(scan, f"{tmp_path}/lungs.nii.gz")
    assert beside.preview == tmp_path / "lungs.png"
    masks.write_mask(result, beside.preview)
    for content in (beside.preview.read_bytes(), scan.read_bytes(), b"", b"no picture"):
        beside.preview.write_bytes(content)
        with pytest.raises(InputError, match=r"lungs\.png would replace a file that is no such picture") as caught:
            outputs.check(beside, (scan,), overwrite=True)
        assert "--no-preview" in caught.value.hint
        with pytest.raises(InputError, match=r"lungs\.png exists"):
            outputs.check(beside, (scan,), overwrite=False)
        outputs.check(outputs.plan(scan, f"{tmp_path}/lungs.nii.gz", preview=False), (scan,), overwrite=False)
        outputs.check(outputs.plan(scan, f"{tmp_path}/lungs.png"), (scan,), overwrite=True)
    preview.write(result, measure(result), beside.preview)
    outputs.check(beside, (scan,), overwrite=True)


def test_the_preview_beside_a_volume_mask_does_not_replace_the_image(tmp_path: Path) -> None:
    scan = picture(tmp_path)
    with pytest.raises(InputError, match="is an input of this run"):
        outputs.check(outputs.plan(scan, f"{tmp_path}/scan.nii.gz"), (scan,), overwrite=True)
