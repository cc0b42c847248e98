"""Planes: pictures as radiologists see them, whatever the file's axes, and the way from voxels to pixels and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medseg_cli.errors import InputError, UsageError
from medseg_cli.prompt import Box, Click, Prompt, Target
from medseg_cli.readers import load_scan
from medseg_cli.scan import Provenance, Scan
from medseg_cli.slices import Plane, in_volume, plane_of

OBLIQUE = (0.2, -0.3, 0.15)
ACROSS_AND_DOWN = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""World axes (0 right, 1 anterior, 2 superior) that run against columns, against rows, and across the slices."""


def world_scan(codes: str, angles: tuple[float, float, float] = (0.0, 0.0, 0.0), shape=phantom.SHAPE) -> Scan:
    """Three channels: each voxel's own place in mm to the right, forward and up."""
    affine = phantom.affine(codes, angles=angles)
    world = np.einsum("ra,aijk->rijk", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    return Scan(world.astype(np.float32), affine, Provenance(Path("world.nii.gz"), "nifti", ""))


@pytest.mark.parametrize("codes", phantom.ORIENTATIONS)
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), OBLIQUE], ids=["straight", "oblique"])
def test_pictures_are_radiological_in_all_48_orientations(codes: str, angles: tuple[float, float, float]) -> None:
    scan = world_scan(codes, angles)
    for name, (columns, rows, through) in ACROSS_AND_DOWN.items():
        plane = plane_of(scan, name)
        assert plane.name == name
        pictures = np.stack([plane.take(scan.voxels, index) for index in range(plane.count)])
        assert pictures.shape == (plane.count, 3, plane.height, plane.width)
        # Right, anterior and superior grow towards the picture's left and top.
        assert (np.diff(pictures[:, columns], axis=-1) < 0).all()
        assert (np.diff(pictures[:, rows], axis=-2) < 0).all()
        # Between neighbouring slices, it is the direction across the plane that changes most.
        step = np.abs(np.diff(pictures.mean(axis=(-2, -1)), axis=0))[0]
        assert step.argmax() == through


@given(
    codes=st.sampled_from(phantom.ORIENTATIONS),
    name=st.sampled_from(["axial", "coronal", "sagittal", "acquisition", "finest"]),
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    data=st.data(),
)
def test_pixels_are_voxels_both_ways(codes: str, name: str, shape: tuple[int, int, int], data: st.DataObject) -> None:
    scan = phantom.scan(codes, shape)
    plane = plane_of(scan, name)
    voxel = np.array([data.draw(st.integers(0, size - 1)) for size in shape])
    x, y = plane.to_picture(voxel[None].astype(float))[0].astype(int)
    picture = plane.take(scan.voxels, voxel[plane.through])
    assert picture.shape == (1, plane.height, plane.width)
    assert picture[0, y, x] == scan.voxels[0][tuple(voxel)]
    # Half a voxel along i, j, k is half a pixel.
    corner = plane.to_picture((voxel + 0.5)[None])[0]
    assert np.abs(np.abs(corner - (x, y)) - 0.5).max() < 1e-12

    back = np.full(shape, -1.0)
    plane.put(back, voxel[plane.through], picture[0])
    inside = np.arange(plane.count) == voxel[plane.through]
    moved = np.moveaxis(back, plane.through, 0)
    np.testing.assert_array_equal(moved[inside], np.moveaxis(scan.voxels[0], plane.through, 0)[inside])
    assert (moved[~inside] == -1).all()


def test_pixel_sizes_and_axes_go_with_the_picture() -> None:
    plane = plane_of(phantom.scan("SAR"), "coronal")
    # i runs up, j forward, k right: rows are i, columns k, across is j.
    assert (plane.through, plane.rows, plane.columns, plane.axis) == (1, 0, 2, "j")
    assert (plane.height, plane.width, plane.count) == (9, 5, 7)
    np.testing.assert_allclose(plane.pixel_mm, (phantom.SPACING[0], phantom.SPACING[2]))


@pytest.mark.parametrize(
    ("codes", "spacing", "expected"),
    [
        ("RAS", (0.9, 1.3, 2.5), "axial"),
        ("PSR", (0.5, 0.5, 4.0), "sagittal"),
        ("LIA", (0.5, 0.5, 4.0), "coronal"),
        ("LIA", (0.5, 4.0, 0.5), "axial"),
        ("PSR", (1.0, 1.0, 1.0), "axial"),
        ("PSR", (1.5, 1.5000001, 1.4999999), "axial"),
        ("ASL", (1.0, 1.0, 1.05), "sagittal"),
        ("RSA", (2.0, 1.0, 2.0), "coronal"),
    ],
)
def test_the_default_plane_has_the_smallest_pixels(codes: str, spacing: tuple, expected: str) -> None:
    plane = plane_of(phantom.scan(codes, spacing=spacing))
    assert plane.name == expected
    assert np.prod(plane.pixel_mm) <= min(np.prod(spacing) / each for each in spacing) * 1.02


def test_acquisition_is_the_slice_axis_that_nifti_names_and_k_elsewhere(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom.voxels(), phantom.affine("RAS"))
    for axis, expected in ((0, "sagittal"), (1, "coronal"), (2, "axial"), (None, "axial")):
        image.header.set_dim_info(slice=axis)
        nib.save(image, tmp_path / "scan.nii.gz")
        assert plane_of(load_scan(tmp_path / "scan.nii.gz"), "acquisition").name == expected
    path = phantom.write_volume(tmp_path / "scan.nrrd", phantom.voxels(), phantom.affine("SAR"))
    assert plane_of(load_scan(path), "acquisition").through == 2


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_a_scan_of_one_slice_has_one_plane(flat: int) -> None:
    shape = tuple(1 if axis == flat else size for axis, size in enumerate(phantom.SHAPE))
    scan = phantom.scan("RAS", shape)
    plane = plane_of(scan)
    assert (plane.through, plane.count) == (flat, 1)
    assert plane.name == ("sagittal", "coronal", "axial")[flat]
    assert plane_of(scan, plane.name) == plane
    others = {"axial", "coronal", "sagittal"} - {plane.name}
    for other in others:
        with pytest.raises(UsageError, match=f"one voxel thick along {'ijk'[flat]}: its {other} slices") as error:
            plane_of(scan, other)
        assert "--slices" in error.value.hint


def test_a_line_of_voxels_has_no_plane() -> None:
    with pytest.raises(InputError, match="is a line"):
        plane_of(phantom.scan("RAS", (9, 1, 1)))


def test_pictures_of_files_are_shown_as_stored(tmp_path: Path) -> None:
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    scan = load_scan(tmp_path / "picture.png")
    plane = plane_of(scan)
    assert (plane.name, plane.count, plane.height, plane.width) == ("image", 1, 5, 7)
    np.testing.assert_array_equal(plane.take(scan.voxels, 0)[0], pixels)
    # Voxel (i, j) is pixel (x, y).
    assert plane.to_picture(np.array([[3.0, 1.0, 0.0]])).tolist() == [[3.0, 1.0]]
    # A single DICOM frame as well, whichever way its axes point.
    frame = replace(phantom.scan("RAS", (7, 5, 1)), provenance=Provenance(Path("frame.dcm"), "dicom", ""))
    plane = plane_of(frame)
    assert (plane.rows, plane.columns, plane.flip_rows, plane.flip_columns) == (1, 0, False, False)
    np.testing.assert_array_equal(plane.take(frame.voxels, 0)[0], frame.voxels[0, :, :, 0].T)


def prompt_of(*places: tuple[float, ...], box: tuple | None = None, frame: str = "ijk") -> Prompt:
    boxes = (Box(*box, frame),) if box else ()  # type: ignore[arg-type]
    return Prompt((Target("1", "", tuple(Click(place, frame) for place in places), boxes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"), [("axial", (2.0, 3.0, 4.0)), ("coronal", (2.0, 4.0, 3.0)), ("sagittal", (4.0, 2.0, 3.0))]
)
def test_two_coordinates_become_three(name: str, expected: tuple[float, ...]) -> None:
    scan = phantom.scan("RAS")
    plane = plane_of(scan, name)
    found = in_volume(prompt_of((2.0, 3.0), (1.0, 1.0, 1.0), box=((2.0, 3.0), (3.0, 4.0))), scan, plane, 4)
    clicks, boxes = found.targets[0].clicks, found.targets[0].boxes
    assert [click.position for click in clicks] == [expected, (1.0, 1.0, 1.0)]
    assert boxes[0].first == expected
    assert boxes[0].second[plane.through] == 4.0


def test_an_image_needs_no_slice_number(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "picture.png", dpi=(254, 254))
    scan = load_scan(tmp_path / "picture.png")
    plane = plane_of(scan)
    assert in_volume(prompt_of((6.0, 4.0)), scan, plane, None).targets[0].clicks[0].position == (6.0, 4.0, 0.0)
    assert in_volume(prompt_of((6.0, 4.0)), scan, plane, 0).targets[0].clicks[0].position == (6.0, 4.0, 0.0)
    with pytest.raises(InputError, match="no slice 1"):
        in_volume(prompt_of((6.0, 4.0)), scan, plane, 1)


def test_a_volume_needs_one_and_only_for_two_coordinates() -> None:
    scan = phantom.scan("RAS")
    plane = plane_of(scan, "axial")
    with pytest.raises(InputError, match="two coordinates") as error:
        in_volume(prompt_of((2.0, 3.0)), scan, plane, None)
    assert "0..4" in error.value.hint
    for index in (-1, 5):
        with pytest.raises(InputError, match=f"no slice {index} along k") as error:
            in_volume(prompt_of((2.0, 3.0)), scan, plane, index)
        assert "0..4" in error.value.hint
    with pytest.raises(UsageError, match="--slice"):
        in_volume(prompt_of((2.0, 3.0, 1.0)), scan, plane, 2)
    with pytest.raises(InputError, match="voxels, not in lps mm"):
        in_volume(prompt_of((2.0, 3.0), frame="lps"), scan, plane, 2)
    untouched = prompt_of((2.0, 3.0, 1.0))
    assert in_volume(untouched, scan, plane, None) == untouched


def test_the_plane_says_what_it_is() -> None:
    assert isinstance(plane_of(phantom.scan("RAS")), Plane)
    assert plane_of(phantom.scan("PIR")).axis == "k"
