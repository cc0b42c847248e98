"""What a segmentation can be written as: one table from the names that users type to the functions that write."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, cast

from medseg_cli.errors import UsageError
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import masks
from medseg_cli.writers.masks import Values

Needs = Literal["any", "picture", "volume", "cine", "dicom"]
Content = Literal["voxels", "shapes", "table", "maps"]


@dataclass(frozen=True)
class Choices:
    """What users choose about formats; each writer is given those that it `takes`.

    Args:
        values: what PNG masks hold.
        mesh_frame: world axes of meshes, mm.
        mesh_smooth: rounds of smoothing; 0 leaves the steps of the voxels.
        seg_type: how a DICOM SEG holds its segments.
    """

    values: Values = "auto"
    mesh_frame: Literal["lps", "ras"] = "lps"
    mesh_smooth: int = 10
    seg_type: Literal["binary", "fractional", "labelmap"] = "binary"


@dataclass(frozen=True)
class Format:
    """One kind of output.

    Args:
        name: what users type.
        suffix: end of the file's name, or of the folder's. One that begins with "_" comes in place of the "_seg" of
            `<case>_seg`: `scan_seg.nii.gz`, `scan_seg.dcm`, `scan_rtstruct.dcm`, `scan_stl/`.
        target: "module:function", called as `function(segmentation, path, overwrite, **choices)`. It writes `path`
            whole or not at all and returns notes: what the user should know, one sentence each.
        needs: the scans it can hold: one slice ("picture"), more than one ("volume"), frames over time ("cine"), or
            those read from DICOM.
        summary: for people, in a few words.
        content: "voxels": every voxel's label. "shapes": surfaces or outlines; where all labels are empty, nothing is
            written. "table": names and colours, or numbers. "maps": why the labels are where they are, or how
            surely, beside a mask.
        members: suffix of the files of a folder, or several; "" for a single file.
        takes: fields of `Choices` that the function has as keywords.
        check: "module:function", called with the scan before the work; it raises what speaks against writing it. ""
            where `needs` says it all.
        also: other suffixes under which users may name such a file with -o.
    """

    name: str
    suffix: str
    target: str
    needs: Needs
    summary: str
    content: Content = "voxels"
    members: str | tuple[str, ...] = ""
    takes: tuple[str, ...] = ()
    check: str = ""
    also: tuple[str, ...] = ()


MASKS = "medseg_cli.writers.masks:write"
"""Writer of the formats whose values `masks.encoding` describes."""
_TABLES = "medseg_cli.writers.label_tables"
_MESHES, _MESH = "medseg_cli.writers.meshes", ("mesh_frame", "mesh_smooth")

FORMATS = {
    each.name: each
    for each in (
        Format("nifti", ".nii.gz", MASKS, "any", "NIfTI label map", takes=("values",), also=(".nii",)),
        Format("nrrd", ".nrrd", MASKS, "any", "NRRD label map", takes=("values",)),
        Format("mha", ".mha", MASKS, "any", "MetaImage label map", takes=("values",)),
        Format("mgz", ".mgz", MASKS, "any", "FreeSurfer label map", takes=("values",), also=(".mgh",)),
        Format(
            "seg-nrrd", ".seg.nrrd", MASKS, "any", "3D Slicer segmentation: names, colours, codes", takes=("values",)
        ),
        Format(
            "nifti-split",
            "_labels",
            "medseg_cli.writers.split:write",
            "any",
            "a 0/1 NIfTI per structure, in a folder",
            members=".nii.gz",
        ),
        Format("npz", ".npz", "medseg_cli.writers.npz:write", "any", "NumPy archive in MedSAM's layout"),
        Format(
            "dicom-seg",
            "_seg.dcm",
            "medseg_cli.writers.dicom_seg:write",
            "dicom",
            "DICOM Segmentation of the series, coded in SNOMED CT",
            takes=("seg_type",),
            check="medseg_cli.writers.dicom_seg:check",
            also=(".dcm",),
        ),
        Format(
            "rtstruct",
            "_rtstruct.dcm",
            "medseg_cli.writers.rtstruct:write",
            "dicom",
            "DICOM RT structure set: contours on the series' slices",
            "shapes",
            check="medseg_cli.writers.rtstruct:check",
        ),
        Format("png", ".png", MASKS, "picture", "picture of one slice", takes=("values",)),
        Format(
            "labels-itksnap", ".label.txt", f"{_TABLES}:write_itk_snap", "any", "ITK-SNAP label descriptions", "table"
        ),
        Format("labels-slicer", ".ctbl", f"{_TABLES}:write_slicer", "any", "3D Slicer colour table", "table"),
        Format(
            "areas-csv", "_areas.csv", "medseg_cli.writers.frame_table:write", "cine", "area in each frame", "table"
        ),
        Format("labels-tsv", ".tsv", f"{_TABLES}:write_tsv", "any", "label table as in BIDS", "table"),
        Format(
            "stl", "_stl", f"{_MESHES}:write_stl", "volume", "surface per object, in a folder", "shapes", ".stl", _MESH
        ),
        Format("ply", "_ply", f"{_MESHES}:write_ply", "volume", "the same with colours", "shapes", ".ply", _MESH),
        Format("obj", "_obj", f"{_MESHES}:write_obj", "volume", "the same with colours", "shapes", ".obj", _MESH),
        Format(
            "glb", ".glb", f"{_MESHES}:write_glb", "volume", "surfaces of all objects, one scene", "shapes", "", _MESH
        ),
        Format(
            "explain",
            "_explain",
            "medseg_cli.writers.explain:write",
            "any",
            "maps, pictures and scores of every text, in a folder",
            "maps",
            (".nii.gz", ".png", ".json"),
        ),
        Format(
            "uncertainty",
            "_uncertainty",
            "medseg_cli.writers.uncertainty:write",
            "any",
            "how far answers lie apart, per voxel, in a folder",
            "maps",
            (".nii.gz", ".png", ".json"),
        ),
    )
}
"""Name → format."""


def parse(words: Iterable[str]) -> tuple[str, ...]:
    """Names as typed, "a,b" or one by one, with hyphens or underscores → names in `FORMATS`, each once, in order.

    Raises:
        UsageError: no such format.
    """
    names = [word.strip().lower().replace("_", "-") for each in words for word in each.split(",")]
    for name in names:
        if name not in FORMATS:
            close = difflib.get_close_matches(name, FORMATS, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"there is no format '{name}'", f"{meant}--format takes {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def of_file(path: Path) -> tuple[Format, str]:
    """The format that a file's name means, and the suffix that says so.

    Raises:
        UsageError: no format of single files ends so.
    """
    name = path.name.lower()
    known = [(each, suffix) for each in FORMATS.values() for suffix in (each.suffix, *each.also) if not each.members]
    fitting = [(each, suffix) for each, suffix in known if each.content != "table" and name.endswith(suffix)]
    if fitting:
        return max(fitting, key=lambda pair: len(pair[1]))
    own = path.suffix.lower()
    others = [each.name for each in FORMATS.values() if own and own in (each.members, Path(each.suffix).suffix)]
    if path.suffix and others:
        hint = f"name a mask file or a folder with a slash, and add --format {others[0]}"
        raise UsageError(f"{path.name} does not name a mask", hint)
    suffix = masks.mask_suffix(path)
    raise AssertionError(f"no format for {suffix}")


def check_fits(formats: Sequence[Format], scan: Scan, choices: Choices) -> None:
    """Find out before the work whether a segmentation of `scan` can be written in all `formats`.

    Raises:
        UsageError: a format that does not go with the scan, or a choice with none of the formats.
        InputError: from a format's own check.
    """
    for each in formats:
        if each.needs == "picture" and scan.shape[2] != 1:
            raise UsageError(
                f"{each.name} is one picture, but the scan has {scan.shape[2]} {_planes(scan)}",
                "write a .nii.gz, or --format nifti",
            )
        if each.needs == "volume" and (scan.shape[2] == 1 or scan.cine):
            has = f"{scan.shape[2]} {_planes(scan)}" if scan.cine else "one slice"
            raise UsageError(f"{each.name} needs a volume, but the scan has {has}", "leave that format out")
        if each.needs == "cine" and not scan.cine:
            raise UsageError(
                f"{each.name} is a curve over the frames of a cine, and the scan is none",
                "leave that format out; --cine reads the third axis of a 3-D file as time",
            )
        if each.name == "mgz" and scan.cine:
            raise UsageError("mgz holds volumes, but the scan has frames over time", "write .nii.gz instead")
        if each.needs == "dicom" and scan.provenance.format != "dicom":
            raise UsageError(
                f"{each.name} refers to the DICOM series of its scan, but {scan.provenance.path} is "
                f"{scan.provenance.format}",
                "segment the DICOM series itself, or choose nifti, nrrd, seg-nrrd or mha",
            )
        if each.check:
            _named(each.check)(scan)
    if choices.values == "binary" and not any(each.needs == "picture" for each in formats):
        raise UsageError(
            "only PNG masks are written as 0 and 255: other formats hold label values", "leave --no-ml out"
        )


def _planes(scan: Scan) -> str:
    return "frames over time" if scan.cine else "slices along k"


def write(
    which: Format, segmentation: Segmentation, path: Path, overwrite: bool = False, choices: Choices | None = None
) -> tuple[str, ...]:
    """Write a segmentation as `which` says; the notes of its writer.

    Raises:
        UsageError: the format cannot hold it.
        InputError: `path` may not or cannot be written.
    """
    chosen = {name: getattr(choices or Choices(), name) for name in which.takes}
    return cast(tuple[str, ...], _named(which.target)(segmentation, path, overwrite, **chosen))


def _named(target: str) -> Callable[..., object]:
    module, _, function = target.partition(":")
    return cast(Callable[..., object], getattr(import_module(module), function))
