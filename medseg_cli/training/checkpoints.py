"""Checkpoints and the log of a run: written whole or not at all, the one before kept beside the last."""

from __future__ import annotations

import csv
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.training.plan import Progress
from medseg_cli.writers.atomic import atomic_output

CHECKPOINT = "last.pt"
PREVIOUS = "previous.pt"
DAMAGED = "damaged.pt"
LOG = "log.csv"
FORMAT = 1
PARTS = frozenset({"plan", "state", "network", "average", "optimizer", "scaler"})
"""What `snapshot.taken` puts into one."""
COLUMNS = ("step", "loss", "dice", "learning_rate", "seconds")

LOGGER = logging.getLogger("medseg.training")


def exists(run: Path) -> bool:
    """Whether the folder holds a run that was begun."""
    return (run / CHECKPOINT).is_file() or (run / PREVIOUS).is_file()


def write(run: Path, content: dict[str, Any]) -> None:
    """Make `content` the last checkpoint and the last one the previous.

    It is on the disk, not in a cache of the system, before the old one gives way: a power cut leaves one of the two.

    Raises:
        InputError: the folder cannot be written, or no space is left.
    """
    last = run / CHECKPOINT
    with atomic_output(last, overwrite=True) as part:
        with part.open("wb") as file:
            torch.save({**content, "format": FORMAT}, file)
            file.flush()
            os.fsync(file.fileno())
        if last.is_file():
            os.replace(last, run / PREVIOUS)
    _flush(run)


def read(run: Path) -> dict[str, Any] | None:
    """The last checkpoint that can be read; None where the folder holds none.

    Raises:
        ModelError: there are checkpoints and none can be read.
    """
    wrong: list[ModelError] = []
    for path in (run / CHECKPOINT, run / PREVIOUS):
        if not path.is_file():
            continue
        try:
            content = _read(path)
        except ModelError as error:
            wrong.append(error)
            continue
        if wrong:
            LOGGER.warning("%s; going on from %s, step %s", wrong[0].message, path.name, content["state"]["step"])
        return content
    if wrong:
        raise ModelError(wrong[0].message, "no checkpoint of this run can be read: start again with another -o")
    return None


def put_damaged_aside(run: Path) -> None:
    """Give a last checkpoint that cannot be read another name, so that it never becomes the previous one."""
    last = run / CHECKPOINT
    try:
        if last.is_file():
            _read(last)
    except ModelError:
        os.replace(last, run / DAMAGED)


def write_log(run: Path, history: list[Progress]) -> None:
    """All validations as CSV; the column of the score is called as what is measured."""
    names = {"dice": history[0].metric} if history else {}
    columns = [*COLUMNS, *(history[0].also if history else ())]
    with atomic_output(run / LOG, overwrite=True) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writerow({name: names.get(name, name).lower().replace(" ", "_") for name in columns})
        writer.writerows({**asdict(line), **line.also} for line in history)


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        # Damage of an archive's directory can look like another compression (RuntimeError) or like encryption.
        raise ModelError(f"{path} is damaged: {error}") from error
    if broken is not None:
        raise ModelError(f"{path} is damaged: the checksum of {broken} is wrong")
    content = read_tensors(path)
    if content.get("format") != FORMAT or not content.keys() >= PARTS:
        raise ModelError(f"{path} was written by another version of medseg")
    return {key: _own(value) for key, value in content.items()}


def _own(value: Any) -> Any:
    """A copy in memory: what is read stays tied to the file, which is to be replaced."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _own(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_own(each) for each in value)
    return value


def _flush(folder: Path) -> None:
    """The new names themselves are on the disk; Windows knows no such order."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
