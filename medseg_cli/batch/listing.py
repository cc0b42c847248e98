"""What INPUT means: a folder of any mix of files, a BIDS dataset, a manifest, a dataset's own list, or one scan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

from medseg_cli.asked import Asked
from medseg_cli.batch import bids, dataset, manifest, series
from medseg_cli.batch.case import BatchCase, Cases
from medseg_cli.batch.content import Sorted, look, reading_of, sort_files
from medseg_cli.batch.names import name_of, ordered
from medseg_cli.batch.patterns import matches
from medseg_cli.batch.walk import Selection, Walked, walk
from medseg_cli.errors import InputError
from medseg_cli.readers import detect
from medseg_cli.readers.options import ReadOptions

NOTHING = Asked((), (), "ijk", "", None, None, None)
"""No prompt."""
LISTS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".yaml", ".yml")


def list_cases(
    source: Path,
    *,
    out: Path | None = None,
    reading: ReadOptions | None = None,
    asked: Asked = NOTHING,
    modality: str = "",
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> Cases:
    """The cases of a batch, in a stable order, from names and headers alone.

    Args:
        source: folder, zip, scan, manifest (CSV, TSV, JSON, JSON lines, YAML) or a dataset's list.
        out: folder of the outputs, which is left out where it lies inside `source`.
        reading: how every scan is read; rows of a manifest may say otherwise.
        asked: prompts of every case that has none of its own.
        modality: DICOM code of files that do not say it, as for `reading`.
        include, exclude: patterns of paths, see `patterns.matches`, and of ids.

    Raises:
        InputError: no such path, no case in it, or a manifest that cannot be used.
    """
    source = source.expanduser()
    reading = reading or ReadOptions()
    wanted = Selection(tuple(include), tuple(exclude), out)
    if not source.exists():
        raise InputError(f"there is no input {source}", "check the path")
    if source.is_dir() and not dataset.is_list(source / dataset.LISTING):
        found = _folder(source, reading, asked, wanted)
    elif source.is_dir() or (detect.suffix_of(source) in LISTS and dataset.is_list(source)):
        found = dataset.cases_of(source, reading, asked)
    elif detect.suffix_of(source) in LISTS:
        found = manifest.cases_of(source, reading, asked)
    else:
        found = _file(source, reading, asked)
    cases = tuple(case for case in found.cases if _is_wanted(case, found.root, wanted))
    if modality:
        cases = tuple(case if case.modality else replace(case, modality=modality) for case in cases)
    notes = found.notes
    if len(cases) < len(found.cases):
        notes += (f"{len(found.cases) - len(cases)} cases were left out by --include and --exclude",)
    if not cases:
        raise InputError(f"{source} holds no scan" + "".join(f"; {note}" for note in notes), _hint(wanted))
    return replace(found, cases=ordered(cases), notes=notes)


def _hint(wanted: Selection) -> str:
    if wanted.include or wanted.exclude:
        return "check --include and --exclude"
    return f"name a folder with scans, a manifest or one scan; readable are {detect.READABLE}"


def _is_wanted(case: BatchCase, root: Path, wanted: Selection) -> bool:
    """Whether patterns let a case in: by its id, or by a file of it."""
    if matches(case.id, wanted.exclude):
        return False
    if not wanted.include or matches(case.id, wanted.include):
        return True
    files = (case.files or (case.scan,))[:]
    return any(
        file.is_relative_to(root) and matches(file.relative_to(root).as_posix(), wanted.include) for file in files
    )


def _folder(root: Path, reading: ReadOptions, asked: Asked, wanted: Selection) -> Cases:
    dataset_of = bids.find(root)
    walked = walk(root, wanted, dataset_of)
    files = sort_files(walked.files)
    cases, left_out = _of_files(files, root, reading, asked)
    for folder, error in walked.closed:
        id_ = name_of(PurePosixPath(folder.relative_to(root).as_posix()))
        cases.append(BatchCase(id_, folder, reading, asked, problem=error))
    kind = "BIDS dataset" if dataset_of else "folder"
    return Cases(tuple(cases), _notes(walked, files, left_out), root, kind)


def _of_files(files: Sorted, root: Path, reading: ReadOptions, asked: Asked) -> tuple[list[BatchCase], Counter[str]]:
    """Scans, series and what archives hold; and what of DICOM is no scan."""
    cases = []
    for file, members, fault in files.scans:
        id_ = name_of(PurePosixPath(file.relative_to(root).as_posix()))
        cases.append(BatchCase(id_, file, reading_of(file, reading), asked, problem=fault, files=members))
    left_out: Counter[str] = Counter()
    if files.dicom:
        found, refused = series.cases_of(files.dicom, root, reading, asked)
        cases += found
        left_out += refused
    for file, fault in files.zips:
        id_ = name_of(PurePosixPath(file.relative_to(root).as_posix()))
        if fault is not None:
            cases.append(BatchCase(id_, file, reading, asked, problem=fault, files=(file,)))
            continue
        found, refused = series.cases_of_zip(file, id_, reading, asked)
        cases += found
        left_out += refused
    return cases, left_out


def _file(source: Path, reading: ReadOptions, asked: Asked) -> Cases:
    """One scan, zip or DICOMDIR."""
    root = source.parent
    if source.name.upper() == "DICOMDIR":
        from medseg_cli.readers.dicom import dicomdir

        found = dicomdir.referenced(source)
        cases, left_out = series.cases_of([each.path for each in found.sources], root, reading, asked)
        lost = (f"{len(found.broken)} files that {source} names are not there",) if found.broken else ()
        return Cases(tuple(cases), (*_refused(left_out), *lost), root, "DICOMDIR")
    what, members, fault = look(source)
    files = Sorted()
    if what == "zip":
        files.zips.append((source, fault))
    elif what == "dicom":
        files.dicom.append(source)
    else:
        files.scans.append((source, members or (source,), fault))
    cases, left_out = _of_files(files, root, reading, asked)
    return Cases(tuple(cases), _refused(left_out), root, "one scan" if what != "zip" else "zip")


def _notes(walked: Walked, files: Sorted, refused: Counter[str]) -> tuple[str, ...]:
    left_out = [f"left out {count}: {why}" for why, count in sorted(walked.left_out.items())]
    others = [f"passed over {files.others}: neither scans nor DICOM"] if files.others else []
    return (*left_out, *_refused(refused), *others)


def _refused(left_out: Counter[str]) -> tuple[str, ...]:
    return tuple(f"left out {count} DICOM: {what}" for what, count in sorted(left_out.items()))
