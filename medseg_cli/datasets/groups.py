"""Which cases are of one patient, where the dataset does not say and their names do."""

from __future__ import annotations

import re
from dataclasses import replace

from medseg_cli.datasets.case import Case, Dataset
from medseg_cli.errors import InputError, UsageError


def grouped(dataset: Dataset, pattern: str) -> Dataset:
    """The dataset with the patient taken from each case's name.

    Args:
        dataset: whose cases' own groups are replaced.
        pattern: regular expression, looked for anywhere in `Case.id`; its first group is the patient, or all of it.

    Raises:
        UsageError: no regular expression.
        InputError: a case whose name it does not match.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group-by {pattern!r} is no regular expression: {error}", "for example '^[^_]+'") from error
    return replace(dataset, cases=tuple(replace(case, group=_patient(case, found)) for case in dataset.cases))


def _patient(case: Case, pattern: re.Pattern[str]) -> str:
    match = pattern.search(case.id)
    patient = (match.group(1) if match.re.groups else match.group()) if match else None
    if not patient:
        raise InputError(f"--group-by {pattern.pattern!r} finds no patient in {case.id}", "match every case's name")
    return patient
