"""One run of a batch: an engine does what is left to do; tables, a page and a summary tell what came out.

`OUT/run.json` is about the last run; each run keeps its own under `OUT/.medseg/runs`.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg_cli.batch import publish, records, tables, workspace
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.outcome import failed, now
from medseg_cli.batch.plan import Plan
from medseg_cli.batch.record import STATUSES, Record
from medseg_cli.batch.settings import Settings
from medseg_cli.errors import InputError, MedsegError
from medseg_cli.versions import versions

logger = logging.getLogger("medseg.batch")

SCHEMA = "medseg-batch-run/1"
EVERY = 30.0
"""Seconds between two updates of the tables while a run goes on, at least."""
LEISURE = 20.0
"""Times as long as an update took that the next one waits."""
PAGE = "report.html"
INTERRUPTED = "interrupted"

Engine = Callable[[Sequence[BatchCase], Callable[[Record], None]], None]
"""Runs cases and tells each record once it is on disk."""


class Enough(Exception):  # noqa: N818  # no error: it ends an engine
    """The first failure of a run that ends with it."""


class Hurry(KeyboardInterrupt):
    """A second interruption: nothing more is waited for or written."""


@dataclass(frozen=True)
class Watch:
    """Who wants to know how a run goes on.

    Args:
        begin: called with the plan before the first case.
        record: called with each record of this run, kept ones not included.
    """

    begin: Callable[[Plan], None] = lambda plan: None
    record: Callable[[Record], None] = lambda record: None


@dataclass(frozen=True)
class Result:
    """What a run has left.

    Args:
        records: of all cases of the run's shard that have one, by id.
        done: ids of those that were run now.
        summary: as in `run.json`.
    """

    records: tuple[Record, ...]
    done: frozenset[str]
    summary: dict[str, Any]
    interrupted: bool = False

    @property
    def failed(self) -> tuple[Record, ...]:
        """The failed ones."""
        return tuple(each for each in self.records if each.status == "failed")


@dataclass(eq=False)
class _Told:
    """What is known while the run goes on."""

    fail_fast: bool
    watch: Watch
    out: Path
    done: set[str] = field(default_factory=set)
    next_update: float = field(default_factory=lambda: time.monotonic() + EVERY)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, record: Record) -> None:
        """Of one case, from any thread."""
        fields = {"case": record.id, "status": record.status, "reason": record.reason, "seconds": record.seconds}
        logger.debug("case %s: %s", record.id, record.status, extra={"fields": fields})
        with self.lock:
            self.done.add(record.id)
            self.watch.record(record)
            if time.monotonic() >= self.next_update:
                self._update()
        if self.fail_fast and record.status == "failed":
            self.fail_fast = False
            raise Enough

    def _update(self) -> None:
        began = time.monotonic()
        tables.write(self.out)
        took = time.monotonic() - began
        self.next_update = time.monotonic() + max(EVERY, LEISURE * took)


def run(
    plan: Plan,
    settings: Settings,
    engine: Engine,
    watch: Watch,
    *,
    fail_fast: bool = False,
    facts: dict[str, Any] | None = None,
) -> Result:
    """Run what is planned.

    Tables, page and `run.json` are written whatever ends the run, Ctrl-C too.

    Args:
        plan: what is to be run.
        settings: of the run; the output folder exists.
        engine: that runs it.
        watch: who is told.
        fail_fast: whether the first failed case ends the run.
        facts: for `run.json` and the page.

    Raises:
        MedsegError: nothing can be run, as the engine says it, or a table cannot be written.
    """
    started, begun = now(), time.monotonic()
    told = _Told(fail_fast, watch, settings.out)
    ended, fault = "", None
    watch.begin(plan)
    try:
        for case, error in plan.wrong:
            told.record(failed(case, settings, error))
        engine(plan.run, told.record)
    except Enough:
        ended = "a case failed (--fail-fast)"
    except Hurry:
        raise
    except KeyboardInterrupt:
        ended = INTERRUPTED
    except MedsegError as error:
        ended, fault = error.message, error
    workspace.clear_dead(settings.out)
    _skip(plan, settings, told.done, ended)
    found = tables.write(settings.out)
    mine = {case.id for case in plan.cases}
    result = tuple(each for each in found if each.id in mine)
    summary = {
        "schema": SCHEMA,
        **(facts or {}),
        "started": started,
        "finished": now(),
        "seconds": round(time.monotonic() - begun, 3),
        "ended": ended or None,
        "cases": len(plan.cases),
        "run": len(told.done),
        "kept": len(plan.kept),
        "run_again": plan.again,
        "over_limit": plan.over,
        "status": counts(result),
        "worker": {"host": platform.node(), "pid": os.getpid()},
        "software": {**versions(), "platform": platform.platform()},
    }
    _write_summary(settings.out, summary)
    write_page(settings.out, found, summary)
    workspace.release(settings.out)
    if fault is not None:
        raise fault
    return Result(result, frozenset(told.done), summary, ended == INTERRUPTED)


def counts(found: Sequence[Record]) -> dict[str, int]:
    """How many records have each status, all of them named."""
    seen = Counter(each.status for each in found)
    return {status: seen[status] for status in STATUSES}


def write_page(out: Path, found: Sequence[Record], summary: dict[str, Any]) -> Path:
    """Write `report.html` about all records of an output folder."""
    from medseg_cli.batch_page import page, run_facts

    with records.locked(out, PAGE):
        return page.write_page(out, [each.to_json() for each in found], run_facts.of_run(out, summary))


def prepare(out: Path) -> None:
    """Make the output folder, and delete what dead processes left in it.

    Raises:
        InputError: it is a file, or cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        workspace.clear_dead(out)
        with records.locked(out, PAGE):
            for draft in out.glob(f".*.part-{PAGE}"):  # of a page whose process was killed
                draft.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to {out}: {error.strerror or error}", "choose another folder with -o"
        ) from error


def _skip(plan: Plan, settings: Settings, done: set[str], why: str) -> None:
    """A record for every case that was to be run and was not reached, unless it has one."""
    for case in plan.run if why else ():
        if case.id not in done and publish.recover(settings.out, case.id) is None:
            records.write_new(
                settings.out,
                Record(case.id, "skipped", f"not reached: {why}", input={"path": str(case.scan)}, finished=now()),
            )


def _write_summary(out: Path, summary: dict[str, Any]) -> None:
    host = "".join(letter if letter.isalnum() else "-" for letter in platform.node())
    stamp = summary["started"].replace(":", "").replace("+0000", "Z")
    records.write_json(out, workspace.hidden(out) / "runs" / f"{stamp}-{host}-{os.getpid()}.json", summary)
    records.write_json(out, out / "run.json", summary)
