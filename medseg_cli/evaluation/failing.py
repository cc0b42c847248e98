"""A case that fails is a row of the report: the others are scored all the same."""

from __future__ import annotations

import logging
from dataclasses import replace

from medseg_cli.errors import MedsegError
from medseg_cli.evaluation.results import CaseResult

logger = logging.getLogger("medseg.evaluation")


def failed(case: CaseResult, error: Exception) -> CaseResult:
    """The case with its reason. What is no error of ours goes to the log with its traceback, as it would end a run."""
    if isinstance(error, MedsegError):
        return replace(case, failure=error.message, hint=error.hint, exit_code=error.exit_code)
    logger.error("case %s: unexpected %s: %s", case.id, type(error).__name__, error, exc_info=error)
    return replace(
        case, failure=f"unexpected {type(error).__name__}: {error}", hint="--debug shows the traceback", exit_code=1
    )
