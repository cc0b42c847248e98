"""NRRD, MetaImage and GIPL: SimpleITK decodes the voxels, `itk_header` judges what it would pass over in silence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers import itk_header, payload
from medseg_cli.readers.cine import TAKEN, frame_affine
from medseg_cli.readers.grid import checked_affine
from medseg_cli.readers.header import Header, spacing_of
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.values import pick_volume, scaled
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan

_IMAGE_IO = {"nrrd": "NrrdImageIO", "metaimage": "MetaImageIO", "gipl": "GiplImageIO"}


@dataclass(frozen=True)
class ItkHeader:
    """The geometry of the three spatial axes as ITK has it (LPS mm), before any repair.

    Args:
        spacing: voxel size in mm along i, j, k.
        origin: LPS position of the first voxel's centre, mm.
        direction: 3 x 3 cosines, row by row; column a is the direction of axis a.
        timed: the file has a fourth axis.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    timed: bool = False

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4) index→LPS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.array(self.direction).reshape(3, 3) * np.array(self.spacing)
        affine[:3, 3] = self.origin
        return affine

    @classmethod
    def from_affine(cls, affine_lps: NDArray[np.float64]) -> ItkHeader:
        """The header whose `affine_lps` is the given (4, 4) matrix."""
        spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
        direction = affine_lps[:3, :3] / spacing
        return cls(tuple(spacing.tolist()), tuple(affine_lps[:3, 3].tolist()), tuple(direction.ravel().tolist()))


def read(path: Path, fmt: str, options: ReadOptions) -> Scan:
    """Read a file of `fmt` "nrrd", "metaimage" or "gipl".

    Args:
        path: the file, or the header of a header-and-data pair (`.nhdr`, `.mhd`).
        fmt: key of the format, told by `detect`.
        options: `channel` picks a volume of a 4-D file or a component of a vector one. A 4-D file of one slice is a
            cine where none is picked.

    Raises:
        InputError: damaged, truncated, complex, several volumes and none chosen, or bad geometry.
        DeviceError: not enough memory.
    """
    facts, reader = _open(path, fmt)
    try:
        reader.ReadImageInformation()
        size, components = reader.GetSize(), max(reader.GetNumberOfComponents(), 1)
        item_bytes = _item_bytes(reader.GetPixelID(), path)
        _check_data(facts, (*size, components), item_bytes)
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be decoded: {_reason(error)}", "copy or export it again") from error
    cine = _is_cine(image.GetSize(), image.GetNumberOfComponentsPerPixel(), options)
    values, notes = _frames(image) if cine else _volume(image, path, options.channel)
    voxels, value_notes = scaled(values, None, None, path)
    header = _geometry(image, path)
    shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
    affine, affine_notes = checked_affine(RAS_TO_LPS @ header.affine_lps, shape, str(path))
    if cine:
        affine = frame_affine(affine)
    provenance = Provenance(
        path, fmt, payload.sha256_of(facts.files), notes=notes + facts.notes + value_notes + affine_notes
    )
    return Scan(voxels[np.newaxis], affine, provenance, cine=cine, header=header)


def describe(path: Path, fmt: str, options: ReadOptions) -> Header:
    """What the header says; raises as `read` does, but for what only the voxels show."""
    facts, reader = _open(path, fmt)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be decoded: {_reason(error)}", "copy or export it again") from error
    size, components = reader.GetSize(), max(reader.GetNumberOfComponents(), 1)
    item_bytes = _item_bytes(reader.GetPixelID(), path)
    if len(facts.files) <= 2:
        offset = facts.offset + facts.packed_header
        payload.check_declared(facts.files[-1], (*size, components), item_bytes, offset, facts.packing)
    i, j, k, times = (*size, 1, 1, 1)[:4]
    if _is_cine(size, components, options):
        affine, _ = checked_affine(RAS_TO_LPS @ _geometry(reader, path).affine_lps, (i, j, times), str(path))
        return Header(fmt, (i, j, times), spacing_of(frame_affine(affine)), item_bytes=item_bytes, cine=True)
    volumes = times if times > 1 else components
    pick_volume(path, volumes, options.channel)
    affine, _ = checked_affine(RAS_TO_LPS @ _geometry(reader, path).affine_lps, (i, j, k), str(path))
    return Header(fmt, (i, j, k), spacing_of(affine), volumes=volumes, item_bytes=item_bytes)


def _open(path: Path, fmt: str) -> tuple[itk_header.Facts, SimpleITK.ImageFileReader]:
    facts = itk_header.inspect(path, fmt)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(_IMAGE_IO[fmt])
    reader.SetFileName(str(path))
    return facts, reader


def check_whole(path: Path, fmt: str, shape: tuple[int, int, int], item_bytes: int) -> None:
    """Whether a file of `fmt` holds all its data, undamaged: ITK writes on when the disk is full.

    Args:
        path: the file, with its data inside.
        fmt: "nrrd" or "metaimage".
        shape: (I, J, K) of what was written.
        item_bytes: bytes per voxel.

    Raises:
        InputError: it does not.
    """
    _check_data(itk_header.inspect(path, fmt), shape, item_bytes)


def _check_data(facts: itk_header.Facts, shape: tuple[int, ...], item_bytes: int) -> None:
    """Whether the data file holds what the header declares, undamaged: ITK reads on through a broken zlib stream."""
    if len(facts.files) > 2:
        payload.check_memory(facts.files[0], shape, item_bytes)
        return
    file = facts.files[-1]
    declared = payload.check_declared(file, shape, item_bytes, facts.offset + facts.packed_header, facts.packing)
    if facts.packing == "deflate":
        payload.verify_packed(file, facts.offset, facts.packed_size, facts.packed_header + declared)


def _item_bytes(pixel_id: int, path: Path) -> int:
    name = SimpleITK.GetPixelIDValueAsString(pixel_id)
    if "complex" in name:
        raise InputError(f"{path} holds complex numbers", "extract the magnitude (or phase) first")
    for bits in (8, 16, 32, 64):
        if name.startswith(f"{bits}-bit") or f" {bits}-bit" in name:
            return bits // 8
    raise InputError(f"{path}: pixels of type '{name}' are not read", "convert it to float32 or int16")


def _volume(image: SimpleITK.Image, path: Path, channel: int | None) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(I, J, K) values of the one volume that is meant, in the file's own type, and the notes."""
    dims, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    values = SimpleITK.GetArrayViewFromImage(image)
    values = values.transpose(*reversed(range(dims)), *range(dims, values.ndim))
    while values.ndim < 3 + (components > 1):
        values = values[:, :, np.newaxis]
    if dims > 4 or (dims == 4 and components > 1 and values.shape[3] > 1):
        text = " x ".join(str(size) for size in values.shape)
        raise InputError(f"{path} is {values.ndim}-D ({text})", "extract one 3-D volume, or a 4-D file for --channel")
    if dims == 4 and components > 1:
        values = values[:, :, :, 0]
    if values.ndim == 3:
        pick_volume(path, 1, channel)
        return values, ()
    index = pick_volume(path, values.shape[3], channel)
    notes = (f"volume {index} of {values.shape[3]} (--channel, counted from 0)",) if values.shape[3] > 1 else ()
    return values[:, :, :, index], notes


def _is_cine(size: tuple[int, ...], components: int, options: ReadOptions) -> bool:
    """Whether the file holds one slice over time and all of it is meant."""
    return len(size) == 4 and size[2] == 1 and size[3] > 1 and components <= 1 and options.channel is None


def _frames(image: SimpleITK.Image) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(I, J, frames) values of a cine, and the notes. No format of these says of what unit its fourth axis is."""
    values = SimpleITK.GetArrayViewFromImage(image)[:, 0].transpose(2, 1, 0)
    return values, (TAKEN.format(count=values.shape[2]), "the time between frames is not stated")


def _geometry(image: SimpleITK.Image | SimpleITK.ImageFileReader, path: Path) -> ItkHeader:
    """Geometry of the first three axes; a 2-D image lies in the plane z = 0 with 1 mm slices."""
    dims = image.GetDimension()
    direction = np.array(image.GetDirection(), dtype=np.float64).reshape(dims, dims)
    space = min(dims, 3)
    if np.any(direction[:space, space:]) or np.any(direction[space:, :space]):
        raise InputError(f"{path}: the fourth axis is mixed with the spatial ones", "extract one 3-D volume first")
    cosines = np.eye(3)
    cosines[:space, :space] = direction[:space, :space]
    spacing = (*image.GetSpacing()[:space], 1.0)[:3]
    origin = (*image.GetOrigin()[:space], 0.0)[:3]
    return ItkHeader(spacing, origin, tuple(cosines.ravel().tolist()), timed=dims == 4)


def _reason(error: RuntimeError) -> str:
    """The last telling line of an ITK exception, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("[nrrd] ") if lines else "no reason given"
