"""Which cases need not be run again: what is recorded, with the same input and settings, and is all there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from medseg_cli.batch import inputs, publish
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.errors import DeviceError

MACHINE = tuple(
    number
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE")
    if (number := getattr(errno, name, None)) is not None
)
"""What the system says when a disk is full, gone or read-only."""


@dataclass(frozen=True)
class Decided:
    """A case, and its record if it is kept.

    Args:
        case: which.
        record: None for a case that is to be run.
        why: why it is run although it has a record; "" for a new case.
    """

    case: BatchCase
    record: Record | None = None
    why: str = ""


def decide(
    cases: Sequence[BatchCase],
    settings: Settings,
    fingerprint: Callable[[BatchCase], str],
    *,
    retry_failed: bool,
) -> Iterator[Decided]:
    """Each case, and whether its record is kept. Inputs and outputs of recorded cases are hashed for it.

    Args:
        cases: of the run.
        settings: of the run.
        fingerprint: of the preset of a case; "" where it has none that can be used.
        retry_failed: whether failed cases are run again though nothing has changed.
    """
    for case in cases:
        record = publish.recover(settings.out, case.id)
        if record is None or record.status == "skipped":
            yield Decided(case)
            continue
        why = why_again(case, record, settings, fingerprint(case), retry_failed=retry_failed)
        yield Decided(case, None, why) if why else Decided(case, record)


def why_again(case: BatchCase, record: Record, settings: Settings, preset: str, *, retry_failed: bool) -> str:
    """Why a case with a record is run again, in words; "" where its record is kept."""
    if record.settings_sha256 != (inputs.asked(case, preset) if preset else ""):
        return "other settings"
    if record.status == "failed":
        if _of_the_machine(record):
            return "the machine was at fault, not the case"
        return "failed before" if retry_failed else "" if _same_input(case, record) else "the input has changed"
    if not publish.complete(settings.out, record):
        return "an output is missing or not as it was written"
    return "" if _same_input(case, record) else "the input has changed"


def _of_the_machine(record: Record) -> bool:
    """Whether a case failed for want of disk, memory or device: another day it may not."""
    error = record.error or {}
    said = f"{error.get('message')} {error.get('hint')}"
    return error.get("code") == DeviceError.exit_code or any(os.strerror(number) in said for number in MACHINE)


def _same_input(case: BatchCase, record: Record) -> bool:
    return bool(record.input.get("sha256") == inputs.digest(case))
