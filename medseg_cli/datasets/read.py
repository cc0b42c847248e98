"""The one door to datasets on disk: which layout it is, and whether all that it lists is there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from medseg_cli.datasets import dataset_json, folders, sa_med2d
from medseg_cli.datasets.case import Case, Dataset
from medseg_cli.datasets.files import LAYOUTS
from medseg_cli.errors import InputError

_LAYOUTS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], list[Case]]], ...] = (
    ("dataset.json", lambda folder: (folder / "dataset.json").is_file(), dataset_json.read),
    ("SA-Med2D", sa_med2d.is_there, sa_med2d.read),
    ("two folders", folders.has_two_folders, folders.two_folders),
    ("masks beside images", folders.has_side_by_side, folders.side_by_side),
)


def read_cases(path: Path) -> tuple[Case, ...]:
    """The cases of `read_dataset`.

    Raises:
        InputError: as there.
    """
    return read_dataset(path).cases


def read_dataset(path: Path) -> Dataset:
    """A dataset in any of the layouts, its cases sorted by id.

    Raises:
        InputError: no known layout, a damaged listing, a listed file that is missing, or no case at all.
    """
    layout, reader = next(((name, read) for name, test, read in _LAYOUTS if test(path)), ("", None))
    if reader is None:
        raise InputError(f"{path} holds no dataset.json and nothing else that tells scans from masks", LAYOUTS)
    cases = tuple(sorted(reader(path), key=lambda case: case.id))
    for case in cases:
        for file in (case.image, case.label):
            if not file.is_file():
                raise InputError(f"{path} lists {file}, which does not exist")
    ids = [case.id for case in cases]
    twice = next((name for name, after in pairwise(ids) if name == after), None)
    if twice is not None:
        raise InputError(f"{path} holds two cases called {twice}", "rename one image and its mask")
    return Dataset(cases, layout=layout)
