"""What DICOM voxels hold: rescale, sign, colour, inversion, compression, damage."""

from __future__ import annotations

import locale
from pathlib import Path

import numpy as np
import phantom
import pytest
import SimpleITK
from dicom_phantom import PATIENT, enhanced, picture, save, series, write
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import dicom
from medseg_cli.readers.options import ReadOptions

AFFINE = phantom.affine("LPS")


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    """PET stores every slice in its own units."""
    slices = series(phantom.voxels(), AFFINE, Modality="PT")
    for k, dataset in enumerate(slices):
        dataset.RescaleSlope, dataset.RescaleIntercept = str(0.5 * (k + 1)), str(-3 * k)
    scan = dicom.read(write(slices, tmp_path))
    k = np.arange(5)
    assert np.allclose(scan.voxels[0], phantom.voxels() * 0.5 * (k + 1) - 3 * k)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_signed_and_unsigned(dtype: type, tmp_path: Path) -> None:
    limits = np.iinfo(dtype)
    values = np.linspace(limits.min, limits.max, 12).astype(dtype).reshape(4, 3, 1)
    dataset = series(values, AFFINE)[0]
    if dtype is np.uint8:
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = np.ascontiguousarray(values[:, :, 0].T).tobytes()
    scan = dicom.read(save(dataset, tmp_path / "one.dcm"))
    assert np.array_equal(scan.voxels[0], values)


def test_bits_above_the_stored_ones_do_not_count(tmp_path: Path) -> None:
    """Old scanners keep overlays in the high bits of a 12-bit picture."""
    dataset = series(phantom.voxels().astype(np.uint16) | 0x7000, AFFINE)[0]
    dataset.BitsStored, dataset.HighBit = 12, 11
    assert np.array_equal(dicom.read(save(dataset, tmp_path / "a.dcm")).voxels[0, :, :, 0], phantom.voxels()[:, :, 0])


@pytest.mark.parametrize(("modality", "inverted"), [("DX", True), ("MG", True), ("CT", False), ("PT", False)])
def test_monochrome1(modality: str, inverted: bool, tmp_path: Path) -> None:
    dataset = series(phantom.voxels().astype(np.uint16), AFFINE)[0]
    dataset.Modality, dataset.PhotometricInterpretation = modality, "MONOCHROME1"
    dataset.BitsStored, dataset.HighBit = 12, 11
    scan = dicom.read(save(dataset, tmp_path / "a.dcm"))
    expected = 4095 - phantom.voxels()[:, :, 0] if inverted else phantom.voxels()[:, :, 0]
    assert np.array_equal(scan.voxels[0, :, :, 0], expected)
    assert any("MONOCHROME1" in note for note in scan.provenance.notes)


def test_padding_value_is_noted_where_it_occurs(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), AFFINE, RescaleIntercept="-1000", RescaleSlope="1")
    for dataset in slices:
        dataset.add_new(0x00280120, "SS", 100)
    with_padding = dicom.read(write(slices, tmp_path / "with"))
    assert any("hold -900 (PixelPaddingValue)" in note for note in with_padding.provenance.notes)
    for dataset in slices:
        dataset[0x00280120].value = -2000
    assert not any("Padding" in note for note in dicom.read(write(slices, tmp_path / "without")).provenance.notes)


def test_modality_table(tmp_path: Path) -> None:
    dataset, table = series(np.array([[[0], [1]], [[2], [1]]], dtype=np.uint16), AFFINE)[0], Dataset()
    table.add_new(0x00283002, "US", [3, 0, 16])
    table.ModalityLUTType = "US"
    table.add_new(0x00283006, "US", [40, 700, 9])
    dataset.ModalityLUTSequence = [table]
    assert dicom.read(save(dataset, tmp_path / "a.dcm")).voxels[0, :, :, 0].tolist() == [[40, 700], [9, 700]]


def colour_slice(values: np.ndarray) -> Dataset:
    """(I, J, 3) uint8 as a secondary capture without geometry."""
    dataset = picture(values[:, :, 0].astype(np.uint16))
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 3, 0, "RGB"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = np.ascontiguousarray(values.transpose(1, 0, 2)).tobytes()
    return dataset


def test_colour_and_no_geometry(tmp_path: Path) -> None:
    values = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    path = save(colour_slice(values), tmp_path / "a.dcm")
    scan = dicom.read(path)
    assert np.array_equal(scan.voxels[:, :, :, 0], values.transpose(2, 0, 1))
    assert not scan.spacing_known
    assert scan.orientation == "LPS"
    known = dicom.read(path, ReadOptions(spacing=(0.2, 0.3, 1.0)))
    assert known.spacing_known
    assert known.spacing[:2] == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize(
    ("kind", "samples", "said"),
    [
        ("RGB", 1, "RGB means 3 samples per pixel, SamplesPerPixel is 1"),
        ("YBR_FULL_422", 1, "YBR_FULL_422 means 3 samples per pixel, SamplesPerPixel is 1"),
        ("YBR_FULL", None, "YBR_FULL means 3 samples per pixel, SamplesPerPixel is missing"),
        ("MONOCHROME1", None, "MONOCHROME1 means 1 sample per pixel, SamplesPerPixel is missing"),
        ("MONOCHROME2", 3, "MONOCHROME2 means 1 sample per pixel, SamplesPerPixel is 3"),
        ("PALETTE COLOR", 3, "PALETTE COLOR means 1 sample per pixel, SamplesPerPixel is 3"),
        ("CMYK", 3, "CMYK means 4 samples per pixel, SamplesPerPixel is 3"),
    ],
)
def test_headers_that_contradict_themselves_about_colour(
    kind: str, samples: int | None, said: str, tmp_path: Path
) -> None:
    """Read by one half of it, the first two would be grey pictures."""
    dataset = colour_slice(np.zeros((4, 6, 3), np.uint8)) if samples == 3 else picture(np.ones((4, 6), np.uint16))
    dataset.PhotometricInterpretation = kind
    if samples is None:
        del dataset.SamplesPerPixel
    with pytest.raises(InputError, match=rf"a\.dcm: PhotometricInterpretation {said}"):
        dicom.read(save(dataset, tmp_path / "a.dcm"))


def test_palette(tmp_path: Path) -> None:
    dataset = picture(np.array([[0, 1], [2, 3], [1, 1]], dtype=np.uint16))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    red, green, blue = [0, 10, 20, 30], [200, 150, 100, 50], [7, 7, 7, 255]
    for tag, descriptor, entries in ((1, 0x1101, red), (2, 0x1102, green), (3, 0x1103, blue)):
        dataset.add_new(0x00280000 + descriptor, "US", [4, 0, 16])
        dataset.add_new(0x00281200 + tag, "OW", (np.array(entries, dtype="<u2") << 8).tobytes())
    scan = dicom.read(save(dataset, tmp_path / "a.dcm"))
    assert scan.voxels[:, 1, 1, 0].tolist() == [30, 50, 255]
    assert scan.voxels[:, 2, 0, 0].tolist() == [10, 150, 7]


def test_spacing_at_the_detector_is_divided_by_the_magnification(tmp_path: Path) -> None:
    dataset = picture(phantom.voxels()[:, :, 0])
    dataset.Modality, dataset.ImagerPixelSpacing = "DX", ["0.3", "0.2"]
    plain = dicom.read(save(dataset, tmp_path / "a.dcm"))
    assert plain.spacing[:2] == pytest.approx((0.2, 0.3))
    assert any("magnification not corrected" in note for note in plain.provenance.notes)
    dataset.EstimatedRadiographicMagnificationFactor = "2"
    assert dicom.read(save(dataset, tmp_path / "a.dcm")).spacing[:2] == pytest.approx((0.1, 0.15))


def test_ultrasound_region_gives_the_spacing(tmp_path: Path) -> None:
    dataset, region = colour_slice(np.zeros((4, 6, 3), dtype=np.uint8)), Dataset()
    region.RegionSpatialFormat = 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.05, -0.04
    dataset.Modality, dataset.SequenceOfUltrasoundRegions = "US", [region]
    assert dicom.read(save(dataset, tmp_path / "a.dcm")).spacing[:2] == pytest.approx((0.5, 0.4))


def test_a_given_spacing_does_not_override_the_file(tmp_path: Path) -> None:
    path = save(series(phantom.voxels(), AFFINE)[0], tmp_path / "a.dcm")
    with pytest.raises(UsageError, match=r"states 0\.9 x 1\.3 mm"):
        dicom.read(path, ReadOptions(spacing=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=["RLE", "JPEG2000"])
def test_compressed(syntax: str, tmp_path: Path) -> None:
    """Written by pydicom's own encoders."""
    values = phantom.voxels((40, 36, 3)).astype(np.uint16)
    slices = series(values, AFFINE)
    for number, dataset in enumerate(slices):
        path = save(dataset, tmp_path / f"{number}.dcm")
        dataset.compress(syntax)
        dataset.save_as(path, enforce_file_format=True)
    assert np.array_equal(dicom.read(tmp_path).voxels[0], values)


def test_jpeg_lossless_needs_no_decoder_but_simpleitk(tmp_path: Path) -> None:
    """The only pydicom plug-in for it is under the GPL; stored values come back, not GDCM's rescaled ones."""
    values = phantom.voxels((40, 36, 1)).astype(np.uint16)
    plain = series(values, AFFINE, RescaleSlope="3", RescaleIntercept="-7")[0]
    image = SimpleITK.ReadImage(str(save(plain, tmp_path / "plain.dcm")), SimpleITK.sitkUInt16)
    stored = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T))
    for key in image.GetMetaDataKeys():
        stored.SetMetaData(key, image.GetMetaData(key))
    for key in ("0028|1052", "0028|1053"):
        stored.EraseMetaData(key)
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "packed.dcm"))
    writer.SetCompressor("JPEG")
    writer.UseCompressionOn()
    before = locale.setlocale(locale.LC_ALL)
    writer.Execute(stored)
    # GDCM's writer leaves the whole process in the C locale, where later tests cannot read UTF-8.
    locale.setlocale(locale.LC_ALL, before)
    packed = dcmread(tmp_path / "packed.dcm")
    assert packed.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    packed.RescaleSlope, packed.RescaleIntercept = "3", "-7"
    packed.save_as(tmp_path / "packed.dcm")
    assert np.array_equal(dicom.read(tmp_path / "packed.dcm").voxels[0], 3.0 * values - 7)


def test_enhanced_multiframe(tmp_path: Path) -> None:
    """Frames in any order, each with its own position and rescale."""
    matrix, values = phantom.affine("LPS", angles=(0.2, 0.1, -0.3)), phantom.voxels()
    scan = dicom.read(save(enhanced(values, matrix, [3, 0, 4, 1, 2]), tmp_path / "a.dcm"))
    assert np.array_equal(scan.voxels[0], 2 * values + 10 * np.arange(5))
    assert np.allclose(scan.affine, matrix, atol=1e-6)


def test_enhanced_time_series_is_split(tmp_path: Path) -> None:
    order = [0, 1, 2, 3, 4] * 2
    dataset = enhanced(phantom.voxels(), AFFINE, order, TemporalPositionIndex=[1] * 5 + [2] * 5)
    half = len(dataset.PixelData) // 2
    dataset.PixelData = dataset.PixelData[:half] + b"\0" * half
    path = save(dataset, tmp_path / "a.dcm")
    with pytest.raises(InputError, match="one series holds 2 stacks") as caught:
        dicom.read(path)
    assert "TemporalPositionIndex 2" in caught.value.hint
    assert dicom.read(path, ReadOptions(series="1")).voxels.max() == 2 * phantom.LANDMARK_VALUE + 10
    assert dicom.read(path, ReadOptions(channel=1)).voxels.max() == 40
    with pytest.raises(InputError, match="holds 2 volumes, there is no --channel 2"):
        dicom.read(path, ReadOptions(channel=2))


def test_enhanced_with_fewer_descriptions_than_frames(tmp_path: Path) -> None:
    dataset = enhanced(phantom.voxels(), AFFINE, range(5))
    del dataset.PerFrameFunctionalGroupsSequence[4]
    with pytest.raises(InputError, match="states 5 frames and describes 4"):
        dicom.read(save(dataset, tmp_path / "a.dcm"))


def test_pictures_over_time(tmp_path: Path) -> None:
    """A classic multi-frame object is 2-D over time: a picture is chosen, never a volume made up."""
    dataset = picture(phantom.voxels()[:, :, 0])
    dataset.Modality, dataset.NumberOfFrames = "US", 3
    frames = [phantom.voxels()[:, :, k] for k in range(3)]
    dataset.PixelData = b"".join(np.ascontiguousarray(frame.T).tobytes() for frame in frames)
    path = save(dataset, tmp_path / "a.dcm")
    with pytest.raises(InputError, match="3 pictures without positions") as caught:
        dicom.read(path)
    assert "--channel 0 to 2" in caught.value.hint
    assert np.array_equal(dicom.read(path, ReadOptions(channel=2)).voxels[0, :, :, 0], frames[2])
    with pytest.raises(InputError, match="there is no --channel 3"):
        dicom.read(path, ReadOptions(channel=3))


def test_truncated_pixel_data_names_the_file(tmp_path: Path) -> None:
    folder = write(series(phantom.voxels(), AFFINE), tmp_path)
    broken = folder / "0856.dcm"
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"0856\.dcm") as caught:
        dicom.read(folder)
    assert "export it again" in caught.value.hint


def test_truncated_compressed_data_is_not_filled_up(tmp_path: Path) -> None:
    """The wrapper is whole, the picture inside ends too early: decoders that paint the rest grey must not get away."""
    dataset = series(phantom.voxels((40, 36, 1)).astype(np.uint16), AFFINE)[0]
    path = save(dataset, tmp_path / "short.dcm")
    dataset.compress(RLELossless)
    dataset.PixelData = encapsulate([get_frame(dataset.PixelData, 0)[:-300]])
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(InputError, match=r"short\.dcm: pixel data cannot be decoded \(RLE Lossless"):
        dicom.read(path)


def test_no_pixel_data_names_the_file(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), AFFINE)
    del slices[2].PixelData
    with pytest.raises(InputError, match=r"0703\.dcm: no pixel data"):
        dicom.read(write(slices, tmp_path))


def test_nothing_personal_is_kept(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), AFFINE, SeriesDescription=f"for {PATIENT}")
    provenance = dicom.read(write(slices, tmp_path)).provenance
    assert "Hopper" not in repr(provenance)
    assert "id-1906" not in repr(provenance)
