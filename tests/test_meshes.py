"""Surfaces in world mm: where they lie, which way they turn, what they enclose, and what their files say."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import phantom
import pytest
import trimesh

from medseg_cli.errors import InputError
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import formats
from medseg_cli.writers.formats import FORMATS, Choices
from medseg_cli.writers.mesh_shape import LEEWAY, shape_of

RADIUS = 12.0
"""mm; the ball of the tests lies in a grid of 1 x 0.8 x 1.5 mm."""
MARGIN = 4
GEOMETRIES = [
    ("RAS", (0.0, 0.0, 0.0)),
    ("LPS", (0.3, -0.2, 0.5)),
    ("LAS", (0.1, 0.4, -0.6)),  # mirrored
    ("SPR", (-0.7, 0.2, 0.1)),
]


def ball(codes: str = "RAS", angles: tuple[float, float, float] = (0, 0, 0)) -> tuple[Segmentation, np.ndarray]:
    """A ball as label 3 beside an empty label 5, and its centre in RAS mm."""
    spacing = (1.0, 0.8, 1.5)
    shape = tuple(int(2 * RADIUS / size) + 2 * MARGIN for size in spacing)
    matrix = phantom.affine(codes, spacing, (-70.0, 33.0, 12.0), angles)
    middle = np.array(shape) / 2 - 0.3
    distance = np.linalg.norm((np.indices(shape).T - middle) * spacing, axis=-1).T
    mask = np.where(distance <= RADIUS, 3, 0).astype(np.uint8)
    scan = Scan(np.zeros((1, *shape), np.float32), matrix, Provenance(Path("ball"), "nifti", "0" * 64))
    labels = (Label(3, "left Ball/1", (10, 200, 30), "10200004"), Label(5, "nothing"))
    return Segmentation(mask, labels, scan), matrix[:3, :3] @ middle + matrix[:3, 3]


def voxel_volume(segmentation: Segmentation) -> float:
    return float((segmentation.mask == 3).sum() * abs(np.linalg.det(segmentation.scan.affine[:3, :3])))


def write(name: str, segmentation: Segmentation, path: Path, **choices: object) -> tuple[str, ...]:
    return formats.write(FORMATS[name], segmentation, path, choices=Choices(**choices))


@pytest.mark.parametrize(("codes", "angles"), GEOMETRIES)
@pytest.mark.parametrize("smooth", [0, 10])
def test_a_ball_is_a_ball_where_it_lies(codes: str, angles: tuple[float, float, float], smooth: int) -> None:
    segmentation, center = ball(codes, angles)
    inside = segmentation.mask == 3
    shape = shape_of(inside[2:, 1:, :], (2, 1, 0), segmentation.scan.affine, smooth)
    mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume > 0, "triangles turn outwards"
    assert shape.volume == pytest.approx(mesh.volume)
    # Marching cubes cuts the corners of voxels off; smoothing puts the volume back.
    assert shape.volume == pytest.approx(voxel_volume(segmentation), rel=2e-4 if smooth else 1.5e-2)
    assert shape.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=2e-2)
    np.testing.assert_allclose(mesh.center_mass, center, atol=0.05)
    distances = np.linalg.norm(shape.vertices - center, axis=1)
    assert abs(distances - RADIUS).max() < 1.0
    assert np.sqrt(np.mean((distances - RADIUS) ** 2)) < (0.22 if smooth else 0.35)
    outwards = np.einsum("ij,ij->i", mesh.face_normals, mesh.triangles_center - center)
    assert (outwards > 0).all()


def test_smoothing_moves_no_point_out_of_its_layer_of_voxels() -> None:
    rng = np.random.default_rng(3)
    inside = rng.random((14, 12, 9)) < 0.4
    matrix = phantom.affine("LAS", (0.7, 0.7, 4.0), angles=(0.2, 0.3, 0.1))
    rough, fine = (shape_of(inside, (0, 0, 0), matrix, smooth) for smooth in (0, 30))
    np.testing.assert_array_equal(rough.faces, fine.faces)
    moved = (fine.vertices - rough.vertices) @ np.linalg.inv(matrix[:3, :3]).T
    assert 0.1 < abs(moved).max() <= LEEWAY + 1e-9


@pytest.mark.parametrize("extent", [(1, 1, 1), (1, 6, 1), (5, 1, 4)])
def test_the_smallest_objects_keep_their_volume(extent: tuple[int, int, int]) -> None:
    matrix = phantom.affine("RPI", (0.5, 0.6, 3.0))
    shape = shape_of(np.ones(extent, bool), (4, 5, 6), matrix, 10)
    # A rod one voxel thick reaches the leeway before the last hundredth.
    assert shape.volume == pytest.approx(np.prod(extent) * 0.5 * 0.6 * 3.0, rel=1.5e-2)
    middle = np.array([4, 5, 6]) + (np.array(extent) - 1) / 2
    np.testing.assert_allclose(shape.vertices.mean(0), matrix[:3, :3] @ middle + matrix[:3, 3], atol=0.05)


@pytest.mark.parametrize("frame", ["lps", "ras"])
@pytest.mark.parametrize("name", ["stl", "ply", "obj"])
def test_files_of_single_objects(tmp_path: Path, name: str, frame: str) -> None:
    segmentation, center = ball("LAS", (0.2, 0.1, 0.3))
    notes = write(name, segmentation, tmp_path / "scan", mesh_frame=frame)
    (file,) = (tmp_path / "scan").iterdir()
    assert file.name == f"left_Ball_1.{name}"
    assert f"SPACE={frame.upper()} mm left Ball/1".encode() in file.read_bytes()[:120]
    assert notes == ("no surface of nothing: nothing was found of it",)
    mesh = trimesh.load_mesh(file)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(voxel_volume(segmentation), rel=3e-4)
    there = center if frame == "ras" else (RAS_TO_LPS @ [*center, 1])[:3]
    np.testing.assert_allclose(mesh.center_mass, there, atol=0.05)
    if name != "stl":
        assert mesh.visual.vertex_colors[0].tolist() == [10, 200, 30, 255]


def test_an_stl_as_its_bytes_say(tmp_path: Path) -> None:
    """Without any library: 80 bytes, a count, and per triangle a normal, three corners and two bytes."""
    segmentation, center = ball()
    write("stl", segmentation, tmp_path / "scan", mesh_frame="ras")
    data = (tmp_path / "scan" / "left_Ball_1.stl").read_bytes()
    assert not data.startswith(b"solid")
    (count,) = struct.unpack_from("<I", data, 80)
    assert len(data) == 84 + 50 * count
    rows = np.frombuffer(data, np.dtype([("f", "<f4", 12), ("more", "<u2")]), count, 84)["f"].reshape(-1, 4, 3)
    normals, corners = rows[:, 0], rows[:, 1:].astype(float)
    assert (np.einsum("ij,ij->i", normals, corners.mean(1) - center) > 0).all()
    volume = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert volume == pytest.approx(voxel_volume(segmentation), rel=1e-3)


def test_a_scene_has_a_named_and_coloured_node_per_object(tmp_path: Path) -> None:
    segmentation, center = ball()
    mask = segmentation.mask.copy()
    mask[0, 0, 0] = 5
    both = Segmentation(mask, segmentation.labels, segmentation.scan)
    assert write("glb", both, tmp_path / "scan.glb") == ()
    data = (tmp_path / "scan.glb").read_bytes()
    magic, version, length, json_length = struct.unpack_from("<4sIII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    tree = json.loads(data[20 : 20 + json_length])
    nodes = {node["name"]: node for node in tree["nodes"] if "mesh" in node}
    assert set(nodes) == {"left_Ball_1", "nothing"}
    assert tree["scenes"][0]["extras"] == {"generator": "medseg", "frame": "LPS", "unit": "mm"}
    mesh = tree["meshes"][nodes["left_Ball_1"]["mesh"]]
    assert mesh["extras"]["snomed"] == "10200004"
    color = tree["materials"][mesh["primitives"][0]["material"]]["pbrMetallicRoughness"]["baseColorFactor"]
    # sRGB 200 of 255 is 0.578 of the light.
    np.testing.assert_allclose(color, [0.003, 0.578, 0.013, 1], atol=0.003)
    loaded = trimesh.load_scene(tmp_path / "scan.glb").geometry["left_Ball_1"]
    np.testing.assert_allclose(loaded.center_mass, (RAS_TO_LPS @ [*center, 1])[:3], atol=0.05)


@pytest.mark.parametrize("name", ["stl", "ply", "obj", "glb"])
def test_nothing_found_is_no_file_and_a_note(tmp_path: Path, name: str) -> None:
    segmentation, _ = ball()
    empty = Segmentation(np.zeros_like(segmentation.mask), segmentation.labels, segmentation.scan)
    assert write(name, empty, tmp_path / "scan.glb") == ("no surface of left Ball/1, nothing: nothing was found of it",)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["stl", "ply", "obj", "glb"])
def test_random_weights_are_said_in_every_mesh(tmp_path: Path, name: str) -> None:
    segmentation, _ = ball()
    stamped = Segmentation(segmentation.mask, segmentation.labels, segmentation.scan, {"weights": {"random": True}})
    write(name, stamped, tmp_path / "scan.glb")
    file = tmp_path / "scan.glb"
    assert b"RANDOM WEIGHTS" in (next(file.iterdir()) if file.is_dir() else file).read_bytes()[:4000]


def test_a_folder_that_exists_or_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmentation, _ = ball()
    write("stl", segmentation, tmp_path / "scan_stl")
    with pytest.raises(InputError, match="exists already"):
        write("stl", segmentation, tmp_path / "scan_stl")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="permission denied"):
        write("stl", segmentation, tmp_path / "other_stl")
    assert [path.name for path in tmp_path.iterdir()] == ["scan_stl"]
