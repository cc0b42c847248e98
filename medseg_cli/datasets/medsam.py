"""MedSAM's `.npz`: image (`imgs`) and label values (`gts`) of a case in one file."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.datasets.case import Case, Dataset

SUFFIX = ".npz"


def is_there(folder: Path) -> bool:
    """Whether such files lie in the folder or one folder further down."""
    return any(_files(folder))


def read(folder: Path) -> Dataset:
    """One case per file."""
    return Dataset(tuple(Case(path.stem, path, path) for path in _files(folder)), "MedSAM npz")


def read_file(path: Path) -> Dataset:
    """One file as a dataset of one case."""
    return Dataset((Case(path.stem, path, path),), "MedSAM npz")


def _files(folder: Path) -> list[Path]:
    found = [*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*/*{SUFFIX}")] if folder.is_dir() else []
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))
