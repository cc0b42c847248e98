"""The modality of a scan whose file does not say it, as the user states it."""

from __future__ import annotations

from dataclasses import replace

from medseg_cli.errors import InputError, UsageError
from medseg_cli.scan import Scan

CODES = (
    *("CR", "CT", "DX", "ES", "IO", "IVOCT", "IVUS", "MG", "MR", "NM"),
    *("OP", "OPT", "OT", "PT", "PX", "RF", "US", "XA", "XC"),
)
"""DICOM's codes (PS3.3 C.7.3.1.1.1) for what makes pictures."""


def parse_modality(text: str) -> str:
    """The code that `--modality` means, in capitals.

    Raises:
        UsageError: no code of `CODES`.
    """
    code = text.strip().upper()
    if code not in CODES:
        raise UsageError(f"--modality '{text}' is no DICOM code of an imaging method", f"one of: {', '.join(CODES)}")
    return code


def with_modality(scan: Scan, code: str) -> Scan:
    """The scan as one of modality `code`, with a note that the user says so.

    Raises:
        InputError: its file says something else.
    """
    if scan.modality == code:
        return scan
    path = scan.provenance.path
    if scan.modality:
        raise InputError(
            f"{path} says that it is {scan.modality}, --modality that it is {code}", "leave --modality out"
        )
    notes = (*scan.provenance.notes, f"the modality {code} is what --modality says; the file says none")
    return replace(scan, modality=code, provenance=replace(scan.provenance, notes=notes))
