"""Surfaces of a segmentation's objects as STL, PLY, OBJ and GLB, in world millimetres.

The frame stands in each file where its format has room for words: 3D Slicer reads `SPACE=LPS` or `SPACE=RAS` there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from scipy.ndimage import find_objects

from medseg_cli.scan import frame_affine
from medseg_cli.segmentation import RANDOM_WEIGHTS, Label, Segmentation
from medseg_cli.writers import members
from medseg_cli.writers.atomic import atomic_output
from medseg_cli.writers.mesh_shape import Shape, shape_of

if TYPE_CHECKING:
    from trimesh import Trimesh
    from trimesh.visual import ColorVisuals

Frame = Literal["lps", "ras"]
_STL_HEADER = 80
_GLTF_ROUGH = 0.8


def write_stl(
    segmentation: Segmentation, path: Path, overwrite: bool = False, *, mesh_frame: Frame, mesh_smooth: int
) -> tuple[str, ...]:
    """A folder of binary STL, one per object; see `formats.Format.target`."""

    def encode(mesh: Trimesh, label: Label, note: str) -> bytes:
        # Readers take a file that begins with "solid" for text.
        return _ascii(note).ljust(_STL_HEADER)[:_STL_HEADER] + cast(bytes, mesh.export(file_type="stl"))[_STL_HEADER:]

    return _write_each(segmentation, path, overwrite, ".stl", encode, mesh_frame, mesh_smooth)


def write_ply(
    segmentation: Segmentation, path: Path, overwrite: bool = False, *, mesh_frame: Frame, mesh_smooth: int
) -> tuple[str, ...]:
    """A folder of binary PLY with colours, one per object; see `formats.Format.target`."""

    def encode(mesh: Trimesh, label: Label, note: str) -> bytes:
        mesh.visual = _coloured(mesh, label)
        first, second, rest = cast(bytes, mesh.export(file_type="ply")).split(b"\n", 2)
        return b"\n".join([first, second, b"comment " + _ascii(note), rest])

    return _write_each(segmentation, path, overwrite, ".ply", encode, mesh_frame, mesh_smooth)


def write_obj(
    segmentation: Segmentation, path: Path, overwrite: bool = False, *, mesh_frame: Frame, mesh_smooth: int
) -> tuple[str, ...]:
    """A folder of OBJ with colours at the points, one per object; see `formats.Format.target`."""

    def encode(mesh: Trimesh, label: Label, note: str) -> bytes:
        mesh.visual = _coloured(mesh, label)
        return cast(str, mesh.export(file_type="obj", header=_ascii(note).decode())).encode()

    return _write_each(segmentation, path, overwrite, ".obj", encode, mesh_frame, mesh_smooth)


def write_glb(
    segmentation: Segmentation, path: Path, overwrite: bool = False, *, mesh_frame: Frame, mesh_smooth: int
) -> tuple[str, ...]:
    """One scene with a named and coloured node per object; see `formats.Format.target`."""
    import trimesh

    safe = members.names(segmentation.labels)
    scene = trimesh.Scene(metadata={"generator": "medseg", "frame": mesh_frame.upper(), "unit": "mm"})
    if segmentation.is_random:
        scene.metadata["note"] = RANDOM_WEIGHTS
    for label, shape in _shapes(segmentation, mesh_frame, mesh_smooth):
        mesh = _mesh(shape)
        mesh.metadata = {"name": label.name, "label": label.value, "snomed": label.snomed}
        material = trimesh.visual.material.PBRMaterial(
            name=safe[label.value], baseColorFactor=_linear(label), metallicFactor=0.0, roughnessFactor=_GLTF_ROUGH
        )
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(mesh, node_name=safe[label.value], geom_name=safe[label.value])
    if scene.geometry:
        with atomic_output(path, overwrite) as temporary:
            temporary.write_bytes(cast(bytes, scene.export(file_type="glb", include_normals=True)))
    return _without(segmentation)


def _write_each(
    segmentation: Segmentation,
    path: Path,
    overwrite: bool,
    suffix: str,
    encode: Callable[[Trimesh, Label, str], bytes],
    frame: Frame,
    smooth: int,
) -> tuple[str, ...]:
    """A folder with a file per object that has a voxel, or nothing where none has."""
    safe = members.names(segmentation.labels)
    if segmentation.mask.any():
        with members.folder(path, overwrite) as hidden:
            for label, shape in _shapes(segmentation, frame, smooth):
                file = hidden / f"{safe[label.value]}{suffix}"
                file.write_bytes(encode(_mesh(shape), label, _note(segmentation, label, frame)))
    return _without(segmentation)


def _shapes(segmentation: Segmentation, frame: Frame, smooth: int) -> Iterator[tuple[Label, Shape]]:
    """The surfaces of the objects that have a voxel, one at a time: together they can be large."""
    affine = frame_affine(segmentation.scan.affine, frame)
    places = find_objects(segmentation.mask)
    for label in segmentation.labels:
        box = places[label.value - 1] if label.value <= len(places) else None
        if box is not None:
            start = (int(box[0].start), int(box[1].start), int(box[2].start))
            yield label, shape_of(segmentation.mask[box] == label.value, start, affine, smooth)


def _mesh(shape: Shape) -> Trimesh:
    from trimesh import Trimesh

    # As it is: merging or repairing would hide what the surface of the mask is.
    return Trimesh(shape.vertices, shape.faces, process=False)


def _coloured(mesh: Trimesh, label: Label) -> ColorVisuals:
    from trimesh.visual import ColorVisuals

    return ColorVisuals(mesh, vertex_colors=np.tile(np.array([*label.color, 255], np.uint8), (len(mesh.vertices), 1)))


def _note(segmentation: Segmentation, label: Label, frame: Frame) -> str:
    stamp = "RANDOM WEIGHTS " if segmentation.is_random else ""
    return f"medseg {stamp}SPACE={frame.upper()} mm {' '.join(label.name.split())}"


def _ascii(text: str) -> bytes:
    """Headers of STL, PLY and OBJ are ASCII."""
    return text.encode("ascii", "replace")


def _linear(label: Label) -> tuple[int, int, int, int]:
    """(r, g, b, alpha), 0 to 255: glTF counts light, not what screens are told."""
    share = np.array(label.color) / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    red, green, blue = np.rint(light * 255).astype(int).tolist()
    return (red, green, blue, 255)


def _without(segmentation: Segmentation) -> tuple[str, ...]:
    """What is said of objects that have no surface."""
    places = find_objects(segmentation.mask)
    empty = [each.name for each in segmentation.labels if each.value > len(places) or places[each.value - 1] is None]
    return (f"no surface of {', '.join(empty)}: nothing was found of it",) if empty else ()
