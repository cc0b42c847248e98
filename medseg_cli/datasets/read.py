"""The one door to datasets on disk: which layout it is, and whether all that it lists is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from medseg_cli.datasets import batch_folder, captions, entries, folders, hc18, medsam, nnunet, sa_med2d, samus, table
from medseg_cli.datasets.case import Case, Dataset, Finding
from medseg_cli.datasets.files import LAYOUTS, read_json
from medseg_cli.errors import InputError

TASK = ("task.yaml", "task.yml")


def read_cases(path: Path) -> tuple[Case, ...]:
    """The cases of `read_dataset`.

    Raises:
        InputError: as there.
    """
    return read_dataset(path).cases


def read_dataset(path: Path, channel: int = 0) -> Dataset:
    """A dataset in any of the layouts of docs/datasets.md, its cases sorted by id.

    Args:
        path: a folder, or a listing: JSON, CSV, `task.yaml` or one `.npz`.
        channel: which channel of images that have several is read (0-based); the notes say so.

    Raises:
        InputError: no known layout, a damaged listing, a listed file that is missing, or no case at all.
    """
    found = list_dataset(path, channel)
    if found.findings:
        first, more = found.findings[0], len(found.findings) - 1
        raise replace(first, text=first.text + (f" (and {more} more)" if more else "")).error()
    return found


def list_dataset(path: Path, channel: int = 0) -> Dataset:
    """The same, with missing files and cases listed twice among its findings instead of raised.

    Raises:
        InputError: no known layout, a damaged listing, or no case at all.
    """
    path = path.expanduser()
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the spelling of the path")
    try:
        found = _read_folder(path, channel) if path.is_dir() else _read_file(path, channel)
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror}", "check its permissions") from error
    cases = tuple(sorted(found.cases, key=lambda case: case.id))
    findings = (*found.findings, *_missing(cases, path), *_misnamed(cases, path))
    if not cases and not findings:
        raise InputError(f"{path} holds no case with a scan and a mask", LAYOUTS)
    return replace(found, cases=cases, findings=findings)


def _read_folder(folder: Path, channel: int) -> Dataset:
    listing = folder / "dataset.json"
    if listing.is_file():
        return _read_json(listing, channel)
    layouts: tuple[tuple[Callable[[Path], bool], Callable[[Path], Dataset]], ...] = (
        (batch_folder.is_there, batch_folder.read),
        (sa_med2d.is_there, sa_med2d.read),
        (samus.is_there, samus.read),
        (lambda _: bool(_lists(folder)), lambda _: _read_list(folder, channel)),
        (folders.has_two_folders, folders.two_folders),
        (medsam.is_there, medsam.read),
        (hc18.is_there, hc18.read),
        (folders.has_side_by_side, folders.side_by_side),
        (captions.is_there, captions.beside),
    )
    reader = next((read for test, read in layouts if test(folder)), None)
    if reader is None:
        raise InputError(f"{folder} holds no dataset.json and nothing else that tells scans from masks", LAYOUTS)
    return reader(folder)


def _read_list(folder: Path, channel: int) -> Dataset:
    """The one list that a folder holds."""
    lists = _lists(folder)
    if len(lists) > 1:
        names = ", ".join(path.name for path in lists)
        raise InputError(f"{folder} holds several lists of cases: {names}", "name the one that you mean")
    return _read_file(lists[0], channel)


def _lists(folder: Path) -> list[Path]:
    """Files of a folder that list cases; a task.yaml hides the list that it names."""
    tasks = [folder / name for name in TASK if (folder / name).is_file()]
    if tasks:
        return tasks
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in table.SUFFIXES]
    jsons = [path for path in sorted(folder.glob("*.json")) if _is_datalist(path)]
    lines = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in captions.LINES]
    listed = [path for path in tables if table.is_list(path) and table.names_files(path)]
    return [*jsons, *listed, *(path for path in tables if table.is_caption_list(path)), *lines]


def _is_datalist(path: Path) -> bool:
    try:
        return isinstance(read_json(path).get("training"), list)
    except InputError:
        return False


def _read_file(path: Path, channel: int) -> Dataset:
    suffix = path.suffix.lower()
    if path.name in (sa_med2d.TRAIN_LISTING, sa_med2d.TEST_LISTING):
        return sa_med2d.read(path.parent)
    if suffix == ".json":
        return _read_json(path, channel)
    if suffix in (".yaml", ".yml"):
        return entries.read_task(path, channel)
    if suffix in table.SUFFIXES:
        return table.read(path)
    if suffix in captions.LINES:
        return captions.lines(path)
    if suffix == medsam.SUFFIX:
        return medsam.read_file(path)
    raise InputError(f"{path} is no list of cases: known are .json, .jsonl, .csv, .tsv, task.yaml and .npz", LAYOUTS)


def _read_json(listing: Path, channel: int) -> Dataset:
    facts = read_json(listing)
    if "file_ending" in facts and not isinstance(facts.get("training"), list):
        return nnunet.read(listing, channel)
    return entries.read(listing, channel)


def _missing(cases: tuple[Case, ...], path: Path) -> list[Finding]:
    findings = []
    for case in cases:
        for file in dict.fromkeys((case.image, case.label, *case.channels)):
            if not file.exists():
                text = f"{path} lists {file}, which does not exist"
                findings.append(Finding("missing", text, f"add the file, or take {case.id} out", file))
    return findings


def _misnamed(cases: tuple[Case, ...], path: Path) -> list[Finding]:
    """Names that two cases bear, and names that would be paths if a file were called like them."""
    findings = [
        Finding("twice", f"{path} holds two cases called {case.id}", "rename one image and its mask", case.image)
        for case, after in pairwise(cases)
        if case.id == after.id
    ]
    for case in cases:
        if not case.id or "/" in case.id or "\\" in case.id or case.id in (".", ".."):
            text = f"{path} calls a case {case.id!r}, which no file could be called"
            findings.append(Finding("listing", text, "name cases without / and \\", case.image))
    return findings
