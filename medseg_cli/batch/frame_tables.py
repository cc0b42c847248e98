"""`areas.csv`: the tables of areas over time of all cases in one, where `--format areas-csv` made any."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from medseg_cli.batch import records
from medseg_cli.batch.record import Record
from medseg_cli.writers.frame_table import COLUMNS, PLACE
from medseg_cli.writers.sidecar import sha256
from medseg_cli.writers.spreadsheet import harmless

KIND = "areas-csv"
NAME = "areas.csv"


def write(out: Path, found: Sequence[Record]) -> None:
    """Write the table anew from those of the cases; where no case has one, an earlier one goes.

    Args:
        out: the output folder; the caller holds the lock of its tables.
        found: all its records.
    """
    rows = [row for record in found for row in _rows(out, record)]
    if not rows:
        if _is_ours(out / NAME):
            (out / NAME).unlink()
        return
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    records.write_text(out, out / NAME, text.getvalue())


def _is_ours(path: Path) -> bool:
    """Whether a file is such a table: what people keep under that name is not for us to delete."""
    if not path.is_file():
        return False
    head = ",".join(PLACE).encode()
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _rows(out: Path, record: Record) -> Iterator[dict[str, str]]:
    """Of one case, called by its id; none of a table that somebody has moved away or changed since."""
    for output in record.outputs:
        path = out / output["path"]
        if output["kind"] == KIND and path.is_file() and sha256(path) == output["sha256"]:
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    yield {**row, "case": harmless(record.id)}
