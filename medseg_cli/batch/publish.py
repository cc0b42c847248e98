"""Outputs and record of a case put into their places, so that whatever kills the process costs at most this case.

The record is written first, as pending, then the files are moved, then the record is made the case's. Files that are
there already are replaced only if a record says that they are the case's own and they are still what it says.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg_cli.batch import records, workspace
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.record import Record
from medseg_cli.errors import InputError
from medseg_cli.writers.sidecar import sha256


@dataclass(frozen=True)
class Made:
    """A finished file that waits for its place.

    Args:
        path: where it lies now.
        place: where it belongs.
        kind: a format's name, "report" or "preview".
    """

    path: Path
    place: Path
    kind: str

    def entry(self, out: Path) -> dict[str, Any]:
        """As in `Record.outputs`."""
        return {
            "path": self.place.relative_to(out).as_posix(),
            "sha256": sha256(self.path),
            "bytes": self.path.stat().st_size,
            "kind": self.kind,
        }


def complete(out: Path, record: Record) -> bool:
    """Whether every output of a record is there as it was written."""
    return bool(record.outputs) and all(_is(out / each["path"], each) for each in record.outputs)


def recover(out: Path, case: str) -> Record | None:
    """The record of a case, after what a killed process left: files that were all moved are taken as done.

    Call it while nobody works on the case. What was moved in part stays until the case is done again; its pending
    record still says whose it is.
    """
    with records.locked(out, case):
        pending = records.read_pending(out, case)
        if pending is not None and complete(out, pending):
            records.settle(out, case)
        return records.read(out, case)


def check_free(case: BatchCase, out: Path, places: Iterable[Path], *, overwrite: bool) -> None:
    """Find out before the work whether outputs can go to their places.

    Raises:
        InputError: there is something else, or the input itself.
    """
    own = _own(out, case.id)
    for place in places:
        if not place.exists():
            continue
        if any(each.exists() and place.samefile(each) for each in (*case.files, case.scan)):
            raise InputError(f"output {place} is the input itself", "choose another output folder")
        members = sorted(place.iterdir()) if place.is_dir() else [place]
        for path in members:
            if path.relative_to(out).as_posix() not in own and not overwrite:
                raise InputError(
                    f"output {path} exists, and no record in {out} says that it is this case's",
                    "move it away, choose another output folder, or add --overwrite",
                )


def publish(
    out: Path,
    record: Record,
    made: Sequence[Made],
    *,
    overwrite: bool,
    view: Sequence[tuple[Path, Path]] = (),
) -> Record:
    """Put the files of a case into their places and its record beside the others; the record as it then is.

    A file that was changed since medseg wrote it is kept under `.medseg/replaced`, and a note says so. Earlier outputs
    of the case that are not made any more are deleted. If another run has finished the same case meanwhile, with the
    same input and settings, its files stay and these are dropped.

    Args:
        out: the output folder.
        record: of the case; its outputs are filled in.
        made: the files, the mask last.
        overwrite: whether files that no record claims may be replaced.
        view: what the page shows of the case, as (file, its place); it goes with the outputs, so that the page never
            shows another mask than the record tells of.

    Raises:
        InputError: a file is in the way, or cannot be moved.
    """
    with records.locked(out, record.id):
        now = records.read(out, record.id)
        same = now is not None and (now.input.get("sha256"), now.settings_sha256) == (
            record.input.get("sha256"),
            record.settings_sha256,
        )
        if now is not None and now.done and same and now.started > record.started and complete(out, now):
            return now
        own = _own(out, record.id)
        for each in made:
            path = each.place.relative_to(out).as_posix()
            if each.place.exists() and path not in own and not overwrite:
                raise InputError(f"output {each.place} appeared meanwhile", "choose another folder, or add --overwrite")
        record = replace(record, outputs=tuple(each.entry(out) for each in made))
        written = {each["path"] for each in record.outputs}
        kept = [path for path in own if (out / path).is_file() and sha256(out / path) not in own[path]]
        kept = [path for path in kept if path in written]
        if kept:
            aside = _aside(out, record.id)
            record = replace(record, notes=(*record.notes, f"changed by hand, kept in {aside}: {', '.join(kept)}"))
            _copy(out, kept, out / aside)
        records.write_pending(out, record)
        for each in made:
            each.place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(each.path, each.place)
        for source, place in view:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, place)
        for path in own.keys() - written:
            if (out / path).is_file() and sha256(out / path) in own[path]:
                (out / path).unlink()
        records.settle(out, record.id)
    return record


def publish_failed(out: Path, record: Record) -> Record:
    """Write the record of a failed case; files that the case had before stay, and the record still claims them."""
    with records.locked(out, record.id):
        own = [
            each
            for known in (records.read_pending(out, record.id), records.read(out, record.id))
            if known is not None
            for each in (*known.outputs, *known.left)
            if _is(out / each["path"], each)
        ]
        left = tuple({each["path"]: each for each in own}.values())
        note = ("files of an earlier run with other input or settings are still there",) if left else ()
        record = replace(record, left=left, notes=(*record.notes, *note))
        records.write(out, record)
        records.drop_pending(out, record.id)
    return record


def _own(out: Path, case: str) -> dict[str, set[str]]:
    """Path → hashes that records of the case, the pending one too, say it had."""
    found: dict[str, set[str]] = {}
    for record in (records.read(out, case), records.read_pending(out, case)):
        for each in (*record.outputs, *record.left) if record else ():
            found.setdefault(each["path"], set()).add(each["sha256"])
    return found


def _is(path: Path, entry: dict[str, Any]) -> bool:
    try:
        return path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]
    except OSError:
        return False


def _aside(out: Path, case: str) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    return f"{workspace.HIDDEN}/replaced/{records.name_of(case)}/{stamp}"


def _copy(out: Path, paths: Sequence[str], folder: Path) -> None:
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(out / path, target)
