"""Where a report goes: a folder with all of it, or one file of the kind that its suffix names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from medseg_cli.errors import InputError, UsageError
from medseg_cli.evaluation.page import page
from medseg_cli.evaluation.summary import Evaluation, summary, to_csv, to_json
from medseg_cli.evaluation.worst import Picture
from medseg_cli.writers.atomic import atomic_output, check_output

FOLDER = {".json": "summary.json", ".csv": "cases.csv", ".html": "report.html"}
"""Suffix → name of the file in a folder."""


@dataclass(frozen=True)
class Report:
    """The files of a report.

    Args:
        files: suffix → path.
        folder: that holds them; None where one file was asked for.
    """

    files: dict[str, Path]
    folder: Path | None = None


def plan(output: Path, overwrite: bool) -> Report:
    """The files that `-o output` means, found out before any work is done for them.

    Raises:
        UsageError: a file of another kind.
        InputError: a file exists and may not be replaced, or its folder cannot be written to.
    """
    output = output.expanduser()
    suffix = output.suffix.lower()
    if suffix in FOLDER and not output.is_dir():
        check_output(output, overwrite)
        return Report({suffix: output})
    if output.is_file() or (
        suffix and not output.is_dir() and suffix in (".txt", ".pdf", ".xlsx", ".htm", ".yaml", ".md")
    ):
        raise UsageError(
            f"a report is a folder, or a file that ends in {', '.join(FOLDER)}; {output} is neither",
            "choose another -o",
        )
    report = Report({kind: output / name for kind, name in FOLDER.items()}, output)
    if output.is_dir():
        for path in report.files.values():
            check_output(path, overwrite)
    else:
        # As a file of that name would have to be writable.
        check_output(output, overwrite)
    return report


def write(report: Report, evaluation: Evaluation, pictures: Sequence[Picture], overwrite: bool) -> None:
    """Write all files or none; the summary appears last.

    Raises:
        InputError: they cannot be written.
    """
    data = summary(evaluation)
    texts: dict[str, Callable[[], str]] = {
        ".json": lambda: to_json(data),
        ".csv": lambda: to_csv(evaluation),
        ".html": lambda: page(evaluation, data, pictures),
    }
    created = report.folder is not None and not report.folder.exists()
    if report.folder is not None:
        _make(report.folder)
    try:
        with ExitStack() as stack:
            # Files move to their places in the opposite order.
            for suffix, path in report.files.items():
                part = stack.enter_context(atomic_output(path, overwrite=overwrite))
                part.write_text(texts[suffix](), encoding="utf-8")
    except BaseException:
        if created and report.folder is not None and not any(report.folder.iterdir()):
            report.folder.rmdir()
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}", "choose another -o") from error
