"""What a batch would do, from headers and records alone: nothing is read to its end, nothing is written."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg_cli.batch import estimate, inputs, plan, publish, records, resume
from medseg_cli.errors import MedsegError
from medseg_cli.readers.in_threads import in_threads

if TYPE_CHECKING:
    from medseg_cli.batch.budget import Needs
    from medseg_cli.batch.case import BatchCase
    from medseg_cli.batch.models import Models
    from medseg_cli.batch.record import Record
    from medseg_cli.readers.header import Header

SCHEMA = "medseg-dry-run/1"
RUN, FINISHED, FAILED_BEFORE, FAIL, LATER = "run", "finished", "failed before", "would fail", "later"
"""What becomes of a case: it is run; it is done; it is left as it failed; it will fail; --limit leaves it."""


def describe(
    cases: Sequence[BatchCase],
    models: Models,
    needs: Needs,
    memory: int,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """All cases and their totals, JSON-ready.

    Args:
        cases: of this shard.
        models: of the run; weights are looked up, not loaded.
        needs: predicted memory of a case.
        memory: bytes that cases may need.
        limit: most cases to run.
        retry_failed: whether failed cases are run again though nothing has changed.

    Raises:
        MedsegError: no case can be run, all for the same reason.
    """
    problems = plan.problems(cases, models)
    known = estimate.measured(records.read_all(models.settings.out)) if models.settings.out.is_dir() else {}
    with warnings.catch_warnings():
        heads = in_threads(_header, cases)
    rows, runs = [], 0
    for case, (header, fault) in zip(cases, heads, strict=True):
        row = _row(case, header, models, known)
        state, why = _state(case, models, retry_failed=retry_failed)
        error = problems.get(case.id) or fault or plan.check(case, needs, memory)
        if state == RUN and error is not None:
            state, why = FAIL, error.message
        if state == RUN:
            runs += 1
            state = LATER if limit is not None and runs > limit else RUN
        rows.append({**row, "state": state, "reason": why})
    return {"schema": SCHEMA, "output": str(models.settings.out), "cases": rows, "totals": _totals(rows)}


def _header(case: BatchCase) -> tuple[Header | None, MedsegError | None]:
    from medseg_cli.readers import read_header

    if case.problem is not None:
        return None, case.problem
    try:
        return read_header(case.scan, case.reading), None
    except MedsegError as error:
        return None, error


def _row(
    case: BatchCase, header: Header | None, models: Models, known: Mapping[str, estimate.Measured]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": case.id,
        "path": str(case.scan),
        "series": case.reading.series,
        "files": len(case.files) or 1,
        "bytes": inputs.bytes_of(case),
        "preset": case.preset or models.settings.preset,
        "prompts": prompts_of(case),
        "format": None,
        "modality": case.modality or None,
        "shape_ijk": None,
        "cine": None,
        "spacing_mm": None,
        "memory_bytes": None,
        "peak_bytes": None,
        "seconds": None,
        "basis": "the header cannot be used",
    }
    if header is None:
        return row
    row |= {
        "format": header.format,
        "modality": header.modality or case.modality or None,
        "shape_ijk": list(header.shape),
        "cine": header.cine,
        "spacing_mm": [round(size, 6) for size in header.spacing] if header.spacing_known else None,
        "memory_bytes": estimate.memory_of(header),
    }
    try:
        found = estimate.predict(header, models.preset(case.preset)[0].name, known)
    except MedsegError:
        return {**row, "basis": "the preset cannot be used"}
    seconds = None if found.seconds is None else round(found.seconds, 1)
    return {**row, "peak_bytes": found.peak, "seconds": seconds, "basis": found.basis}


def prompts_of(case: BatchCase) -> str:
    """What is asked of a case, in words."""
    asked = case.asked
    counts = ((len(asked.points), "point"), (len(asked.boxes), "box"), (len(asked.texts), "text"))
    words = [f"{count} {word}{'' if count == 1 else 'es' if word == 'box' else 's'}" for count, word in counts if count]
    words += [f"table {asked.table.name}"] if asked.table else []
    words += [f"mask {asked.mask.name}"] if asked.mask else []
    return ", ".join(words) or "none"


def _state(case: BatchCase, models: Models, *, retry_failed: bool) -> tuple[str, str]:
    """Whether it is run, and why not or why again. Unlike a run, this recovers and claims nothing."""
    out = models.settings.out
    record = _record(out, case.id) if out.is_dir() else None
    if record is None or record.status == "skipped":
        return RUN, ""
    try:
        fingerprint = models.preset(case.preset)[1]
    except MedsegError:
        fingerprint = ""
    again = resume.why_again(case, record, models.settings, fingerprint, retry_failed=retry_failed)
    if again:
        return RUN, again
    return (FAILED_BEFORE, record.reason) if record.status == "failed" else (FINISHED, record.status)


def _record(out: Path, case: str) -> Record | None:
    """The record that a run would find, which moves what a killed process had completed into its place."""
    pending = records.read_pending(out, case)
    return pending if pending is not None and publish.complete(out, pending) else records.read(out, case)


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers of the whole run; seconds are of one process that runs one case after the other."""
    run = [row for row in rows if row["state"] == RUN]
    timed = [row["seconds"] for row in run if row["seconds"] is not None]
    return {
        "cases": len(rows),
        "states": dict(Counter(row["state"] for row in rows)),
        "formats": dict(Counter(row["format"] or "unknown" for row in rows)),
        "bytes": sum(row["bytes"] for row in rows),
        "seconds": round(sum(timed), 1) if timed or not run else None,
        "seconds_unknown": len(run) - len(timed),
        "largest_memory_bytes": max((row["memory_bytes"] or 0 for row in run), default=0),
    }
