"""What `medseg batch` shows while it runs: a bar with the time left on a terminal, a line per case elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from medseg_cli.batch.plan import Plan
    from medseg_cli.batch.record import Record
    from medseg_cli.logs import Talk

CALM = ("ok",)
"""Statuses that need no line of their own beside a bar."""


class Display:
    """Shows a run.

    Args:
        talk: "quiet" shows nothing.
    """

    def __init__(self, talk: Talk) -> None:
        from medseg_cli import report

        self._talk = talk
        self._console = report.stderr()
        self._total = 0
        self._done = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def looking(self, cases: int) -> Iterator[Callable[[], None]]:
        """While records, scans and outputs of earlier runs are looked at; what is yielded counts a case."""
        if self._talk == "quiet" or not self._console.is_terminal:
            yield lambda: None
            return
        with Progress(
            BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("looking at what is done"),
            console=self._console, transient=True,
        ) as bar:  # fmt: skip
            task = bar.add_task("", total=cases)
            yield lambda: bar.advance(task)

    def begin(self, plan: Plan) -> None:
        """Say what is done and what is left."""
        from medseg_cli import report

        self._total = len(plan.run) + len(plan.wrong)
        if self._talk == "quiet":
            return
        failed = sum(each.status == "failed" for each in plan.kept)
        if plan.kept:
            self._console.print(f"{len(plan.kept) - failed} of {len(plan.cases)} cases are finished already")
        if failed:
            report.note(
                f"{failed} cases failed before and have not changed: --retry-failed tries them again", self._talk
            )
        for why, count in plan.again.items():
            self._console.print(f"{count} cases are run again: {why}")
        if plan.over:
            self._console.print(f"{plan.over} cases are left for later (--limit)")
        if self._console.is_terminal and self._total:
            self._bar = Progress(
                BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
                console=self._console,
            )  # fmt: skip
            self._task = self._bar.add_task("reading the first case", total=self._total)
            self._bar.start()

    def record(self, record: Record) -> None:
        """Show one case."""
        self._done += 1
        if self._talk == "quiet":
            return
        line = f"[{self._done}/{self._total}] {_line(record)}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, description=escape(f"{record.id}: {record.status}"))
            if record.status in CALM:
                return
        self._console.print(line, style={"failed": "red", "flagged": "yellow", "absent": "yellow"}.get(record.status))

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _line(record: Record) -> str:
    from medseg_cli import report

    if record.status == "failed":
        return f"{record.id}: FAILED, {record.reason}"
    sizes = [f"{label['name']} {report.size(label)}" for label in record.labels if not label["empty"]]
    more = f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""
    found = f", {', '.join(sizes[:3])}{more}" if sizes else ""
    reason = f" ({record.reason})" if record.reason else ""
    return f"{record.id}: {record.status}{reason}{found}, {record.seconds:.1f} s"
