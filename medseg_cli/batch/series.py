"""From DICOM files anywhere below a folder to cases: one per series, whatever folders its files lie in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.names import name_of, safe
from medseg_cli.errors import InputError

if TYPE_CHECKING:
    from medseg_cli.asked import Asked
    from medseg_cli.readers.dicom.series import SeriesInfo
    from medseg_cli.readers.dicom.tree import Series
    from medseg_cli.readers.options import ReadOptions

BROKEN = "slices may be missing: export the series again, or --exclude the damaged file"


def cases_of(
    files: Sequence[Path], root: Path, reading: ReadOptions, asked: Asked
) -> tuple[list[BatchCase], Counter[str]]:
    """The series that `files` make, and what of them is no scan → how many files.

    Args:
        files: DICOM by content or by suffix, below `root`.
        root: where ids start.
        reading: how all are read, without series and files.
        asked: the prompts of all.
    """
    from medseg_cli.readers.dicom import tree

    found = tree.find_series(files)
    folders = [tree.common_folder(each.files) for each in found.series]
    shared = Counter(folder for folder, each in zip(folders, found.series, strict=True) if _is_folder(each))
    cases = []
    for folder, each in zip(folders, found.series, strict=True):
        problem = _problem(folder, each)
        # For scans that state no pixel size; the others would refuse it.
        how = replace(reading, spacing=None) if each.spaced else reading
        if not _is_folder(each):
            id_ = name_of(PurePosixPath(each.files[0].relative_to(root).as_posix()))
            id_ += "" if each.pick is None else f"/{title(each.number, each.description, each.pick)}"
            chosen = replace(how, series=each.pick)
            cases.append(BatchCase(id_, each.files[0], chosen, asked, problem=problem, files=each.files))
            continue
        id_ = folder.relative_to(root).as_posix()
        id_ = "" if id_ == "." else id_
        if shared[folder] > 1:
            id_ += f"/{title(each.number, each.description, '')}"
        members = tuple(sorted({*each.files, *(file for file, _ in each.broken)}))
        names = tuple(file.relative_to(folder).as_posix() for file in members)
        chosen = replace(how, series=each.pick, files=names)
        cases.append(BatchCase(safe(id_ or root.name), folder, chosen, asked, problem=problem, files=members))
    for file, reason in found.broken:
        id_ = name_of(PurePosixPath(file.relative_to(root).as_posix()))
        error = InputError(f"{file}: {reason}", "copy or export it again")
        cases.append(BatchCase(id_, file, reading, asked, problem=error, files=(file,)))
    return cases, found.left_out


def title(number: int | None, description: str, otherwise: str) -> str:
    """ "3-T1_axial": what a series is called beside others."""
    words = [str(number) if number is not None else "", description.replace("/", "-")]
    return safe("-".join(word for word in words if word) or otherwise or "series")


def _is_folder(each: Series) -> bool:
    return len(each.files) > 1 or bool(each.broken)


def _problem(folder: Path, each: Series) -> InputError | None:
    if not each.broken:
        return None
    listed = "; ".join(f"{file.name}: {reason}" for file, reason in each.broken[:3])
    more = f" and {len(each.broken) - 3} more" if len(each.broken) > 3 else ""
    return InputError(f"{folder}: {len(each.broken)} DICOM file(s) cannot be used: {listed}{more}", BROKEN)


def cases_of_zip(archive: Path, id_: str, reading: ReadOptions, asked: Asked) -> tuple[list[BatchCase], Counter[str]]:
    """The series in a zip, as `cases_of`; a zip that cannot be used is one case with a problem."""
    from medseg_cli.readers import dicom

    try:
        listed = dicom.list_series(archive)
    except InputError as error:
        if "no DICOM files in this zip" in error.message:
            return [], Counter({"zip archives without DICOM": 1})
        return [BatchCase(id_, archive, reading, asked, problem=error, files=(archive,))], Counter()
    left_out = Counter(_what(one) for one in listed if one.kind in ("other", "localizer"))
    scans = [one for one in listed if one.kind not in ("other", "localizer")]
    cases = []
    for one in scans:
        named = id_ if len(scans) == 1 else f"{id_}/{title(one.number, one.description, one.uid)}"
        chosen = replace(reading, series=None if len(scans) == 1 else str(one.number))
        cases.append(BatchCase(named, archive, chosen, asked, files=(archive,)))
    return cases, left_out


def _what(one: SeriesInfo) -> str:
    return "localizer (scout)" if one.kind == "localizer" else one.detail.split(":")[0]
