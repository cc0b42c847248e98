"""From what happened to a case to its record."""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from medseg_cli.batch import inputs, publish
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.record import Record, Status
from medseg_cli.batch.settings import Settings
from medseg_cli.errors import MedsegError, explained

if TYPE_CHECKING:
    from medseg_cli.writers.sidecar import Run

logger = logging.getLogger("medseg.batch")


def failed(case: BatchCase, settings: Settings, error: Exception, started: str = "", **known: Any) -> Record:
    """Write the record of a case that cannot be done. What is no error of ours goes to the log with its traceback.

    Args:
        case: which.
        settings: of the run.
        error: what went wrong.
        started: when it began; "" = now.
        known: fields of the record that are known already.
    """
    told = explained(error)
    if told is not error:
        logger.error("case %s: %s", case.id, told.message, exc_info=error, extra={"fields": {"case": case.id}})
    record = begun(case, settings)
    source = {**record.input, "sha256": inputs.digest(case)}
    record = replace(
        record,
        status="failed",
        reason=" ".join(told.message.split()),
        error={
            "code": told.exit_code,
            "kind": type(error).__name__,
            "message": told.message,
            "hint": told.hint,
        },
        input=source,
        settings_sha256=known.pop("settings_sha256", "") or _asked(case, settings),
        started=started or record.started,
        finished=now(),
        **known,
    )
    return publish.publish_failed(settings.out, record)


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def status_of(report: dict[str, Any]) -> tuple[Status, str]:
    """Status and reason of a case that has outputs: what its report says is absent, else what it flags."""
    flags = report["flags"]
    absent = [each for each in flags if each["code"] == "presence"]
    chosen = absent or flags
    status: Status = "absent" if absent else "flagged" if flags else "ok"
    return status, "; ".join(each["message"] for each in chosen)


def begun(case: BatchCase, settings: Settings) -> Record:
    worker = {"host": platform.node(), "pid": os.getpid()}
    return Record(
        case.id,
        "failed",
        input={"path": str(case.scan), "bytes": inputs.bytes_of(case)},
        preset=case.preset or settings.preset,
        worker=worker,
        started=now(),
    )


def _asked(case: BatchCase, settings: Settings) -> str:
    """What was asked of a failed case; "" where even that is wrong."""
    try:
        return inputs.asked(case, settings.fingerprint(settings.find(case.preset)))
    except MedsegError:
        return ""


def described(record: Record, report: dict[str, Any], run: Run) -> Record:
    """The record with what the report beside the mask says."""
    status, reason = status_of(report)
    kept = ("name", "format", "modality", "series_uid", "shape_ijk", "channels", "spacing_mm", "frames", "orientation")
    peaks = [each["peak_rss_mib"] for each in run.stages.records if each["peak_rss_mib"]]
    return replace(
        record,
        status=status,
        reason=reason,
        input={**record.input, **{key: report["input"][key] for key in kept}},
        labels=tuple(report["labels"]),
        flags=tuple(report["flags"]),
        notes=tuple(report["notes"]),
        seconds=round(run.stages.seconds, 3),
        stages=tuple(run.stages.records),
        peak_rss_mib=max(peaks, default=None),
        versions=report["software"],
    )
