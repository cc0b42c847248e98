"""`medseg info`: what a scan is and where it lies, and which series a DICOM folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg_cli.commands import options

if TYPE_CHECKING:
    from medseg_cli.readers.dicom.series import SeriesInfo
    from medseg_cli.readers.options import ReadOptions
    from medseg_cli.scan import Scan

SCAN_KINDS = ("volume", "slice", "frames", "cine")


def info(
    scan: Annotated[str, typer.Argument(metavar="SCAN", help="File or DICOM folder, zip or DICOMDIR.")] = "",
    input_: Annotated[str, typer.Option("--input", "-i", metavar="SCAN", help="The same as SCAN.")] = "",
    series: options.Series = None,
    channel: options.Channel = None,
    spacing: options.Spacing = None,
    cine: options.Cine = False,
    on_gap: options.OnGap = "error",
    on_tilt: options.OnTilt = "error",
    on_duplicate: options.OnDuplicate = "error",
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_json: options.LogJson = "",
) -> None:
    """Say what a scan is: format, grid, orientation, values, notes; for DICOM also the series there.

    medseg info brain.nii.gz

    medseg info DICOM_FOLDER --series 2

    medseg info loop.dcm
    """
    options.start_talking(quiet, verbose, debug, log_json)
    # The same reading as `load_scan`, without the seconds that importing MONAI takes.
    from medseg_cli.readers.files import read_file

    path = _path(scan, input_)
    reading = options.read_options(series, channel, spacing, on_gap, on_tilt, on_duplicate, cine)
    found = _series(path)
    if found and not json:
        _print_series(found)
    loaded = read_file(path, reading) if _is_one(found, reading) else None
    if json:
        from medseg_cli.writers import sidecar

        listed = [describe_series(one) for one in found]
        typer.echo(sidecar.to_json({"path": str(path), "series": listed, "scan": loaded and describe(loaded)}))
    elif loaded is not None:
        _print_scan(describe(loaded), loaded.cell)
    else:
        typer.echo("pick one with --series NUMBER" if any(one.kind in SCAN_KINDS for one in found) else "no scan here")


def _path(scan: str, input_: str) -> Path:
    from medseg_cli.errors import UsageError

    if bool(scan) == bool(input_):
        raise UsageError("two scans given" if scan else "no scan given", "medseg info SCAN")
    return Path(scan or input_).expanduser()


def _series(path: Path) -> list[SeriesInfo]:
    """The series of a DICOM path; empty for every other kind of file."""
    from medseg_cli.readers import detect, dicom

    if not path.is_dir() and (not path.exists() or path.stat().st_size == 0 or detect.detect(path).format != "dicom"):
        return []
    return dicom.list_series(path)


def _is_one(found: list[SeriesInfo], reading: ReadOptions) -> bool:
    """Whether it is clear which scan is meant; what is not DICOM is one scan."""
    if not found or reading.series is not None or reading.channel is not None:
        return True
    scans = [one for one in found if one.kind in SCAN_KINDS]
    localizers = [one for one in found if one.kind == "localizer"]
    return len(scans or localizers) == 1


def describe_series(one: SeriesInfo) -> dict[str, Any]:
    """A line of the listing as data."""
    return {
        "number": one.number,
        "uid": one.uid,
        "modality": one.modality,
        "kind": one.kind,
        "description": one.description,
        "detail": one.detail,
        "slices": one.slices,
        "columns": one.size[0],
        "rows": one.size[1],
    }


def describe(scan: Scan) -> dict[str, Any]:
    """A scan as data: mm, RAS, values in the scan's own units."""
    import numpy as np

    from medseg_cli.frame_areas import frame_rate
    from medseg_cli.readers import looks_like_mask

    corners = scan.voxel_to_world(np.array([[0.0, 0.0, 0.0], np.subtract(scan.shape, 1.0)]), "ras")
    finite = np.isfinite(scan.voxels)
    values = scan.voxels if finite.all() else scan.voxels[finite]
    notes = list(scan.provenance.notes)
    if values.size != scan.voxels.size:
        notes.append(f"{scan.voxels.size - values.size} {scan.cell}s are not finite numbers")
    if looks_like_mask(scan):
        notes.append("the values look like a mask, not like a scan")
    return {
        "format": scan.provenance.format,
        "modality": scan.modality or None,
        "shape": list(scan.shape),
        "channels": int(scan.voxels.shape[0]),
        "spacing_mm": [round(size, 6) for size in scan.spacing],
        "spacing_known": scan.spacing_known,
        "cine": scan.cine,
        "frames_per_second": frame_rate(scan.frame_seconds),
        "frame_seconds": None if scan.frame_seconds is None else list(scan.frame_seconds),
        "region_ij_inclusive": None if scan.region is None else [list(scan.region[:2]), list(scan.region[2:])],
        "orientation": scan.orientation,
        "affine_ras": [[round(float(value), 6) for value in row] for row in scan.affine],
        "first_voxel_ras_mm": [round(float(value), 3) for value in corners[0]],
        "last_voxel_ras_mm": [round(float(value), 3) for value in corners[1]],
        "intensity": {
            "min": float(values.min()) if values.size else None,
            "max": float(values.max()) if values.size else None,
            "mean": float(values.mean(dtype=np.float64)) if values.size else None,
        },
        "series_uid": scan.provenance.series_uid or None,
        "sha256": scan.provenance.sha256,
        "notes": notes,
    }


def _print_series(found: list[SeriesInfo]) -> None:
    """The listing as a table, one line per series."""
    heads = ("#", "modality", "kind", "size", "description", "detail", "series UID")
    rows = [
        (
            str(one.number),
            one.modality or "?",
            one.kind,
            f"{one.size[0]}x{one.size[1]}x{one.slices}" if one.kind != "other" else f"{one.slices} object(s)",
            one.description or "-",
            one.detail or "-",
            one.uid or "-",
        )
        for one in found
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    typer.echo("")


def _over_time(about: dict[str, Any]) -> dict[str, str]:
    """The line about frames over time; none for other scans."""
    if not about["cine"]:
        return {}
    rate, times, count = about["frames_per_second"], about["frame_seconds"], about["shape"][2]
    if rate is None:
        return {"frames": f"{count} over time, the file does not state how far apart"}
    return {"frames": f"{count} over time, {rate:.4g} per second, the last at {times[-1]:.4g} s"}


def _region(about: dict[str, Any]) -> dict[str, str]:
    """The line about the part of a picture that shows tissue, where the file says which."""
    if about["region_ij_inclusive"] is None:
        return {}
    (x0, y0), (x1, y1) = about["region_ij_inclusive"]
    return {"ultrasound region": f"x {x0} to {x1}, y {y0} to {y1}"}


def _print_scan(about: dict[str, Any], cell: str) -> None:
    """A scan's description, one property per line; `cell` as `Scan.cell`."""
    shape = " x ".join(map(str, about["shape"])) + (f", {about['channels']} channels" if about["channels"] > 1 else "")
    sizes = about["spacing_mm"][:2] if about["cine"] else about["spacing_mm"]
    spacing = " x ".join(f"{size:g}" for size in sizes) + " mm"
    values = about["intensity"]
    lines = {
        "format": about["format"],
        "modality": about["modality"] or "not stated",
        f"shape (i, j, {'frame' if about['cine'] else 'k'})": shape,
        **_over_time(about),
        "spacing": spacing if about["spacing_known"] else f"{spacing}, assumed: the file states none",
        **_region(about),
        "orientation": about["orientation"],
        f"first {cell} (ras mm)": ", ".join(f"{value:g}" for value in about["first_voxel_ras_mm"]),
        f"last {cell} (ras mm)": ", ".join(f"{value:g}" for value in about["last_voxel_ras_mm"]),
        "intensity": "none" if values["min"] is None else "{min:g} to {max:g}, mean {mean:g}".format(**values),
        "sha256": about["sha256"],
    }
    for name, value in lines.items():
        typer.echo(f"{name:<22}{value}")
    for number, row in enumerate(about["affine_ras"]):
        head = "affine (ijk to ras)" if number == 0 else ""
        typer.echo(f"{head:<22}" + " ".join(f"{value:>12.6g}" for value in row))
    for note in about["notes"]:
        typer.echo(f"{'note':<22}{note}")
