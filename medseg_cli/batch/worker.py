"""A process of a batch: it holds its models and asks for cases until there are none.

Messages to the process that started it are tuples, a word first: ("ready",), ("broken", message, hint, code),
("want",), ("segment", id), ("write", id), ("record", Record), ("log", LogRecord). The answer to "want" is a case or
None. Signals are the other process's to deal with; when that ends, this one does.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from typing import Any

from medseg_cli import logs
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.models import Models
from medseg_cli.batch.settings import Settings
from medseg_cli.errors import DeviceError, explained

UNUSABLE = 3
"""Exit code of a process whose device is of no more use; it is replaced."""


class _Line:
    """The connection, for several threads."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def say(self, *message: Any) -> None:
        with self._lock:
            self._pipe.send(message)

    def ask(self) -> BatchCase | None:
        self.say("want")
        case: BatchCase | None = self._pipe.recv()
        return case


class Forward(logging.Handler):
    """Log records for the other process; tracebacks as text, because they do not travel.

    Args:
        say: called with "log" and the record.
    """

    def __init__(self, say: Callable[[str, logging.LogRecord], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        fields = logs.fields_of(record)
        if record.exc_info:
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        plain = logging.makeLogRecord({**record.__dict__, "msg": record.getMessage(), "args": (), "exc_info": None})
        plain.__dict__["fields"] = fields
        try:
            self._say("log", plain)
        except (OSError, ValueError, TypeError):
            self.handleError(record)


def main(pipe: Connection, settings: Settings, threads: int) -> None:
    """What the process does.

    Args:
        pipe: to the process that started it.
        settings: of the run, with the device of this process.
        threads: for computing on the CPU, unless OMP_NUM_THREADS says otherwise.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    threading.Thread(target=_end_with_parent, name="medseg-parent", daemon=True).start()
    line = _Line(pipe)
    forward = Forward(line.say)
    logging.getLogger().addHandler(forward)
    logging.getLogger().setLevel(logging.WARNING)
    logs.LOGGER.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    try:
        _work(line, settings)
    except (BrokenPipeError, EOFError, ConnectionResetError):
        return
    except Exception as error:
        told = explained(error)
        line.say("broken", told.message, told.hint, told.exit_code)


def _work(line: _Line, settings: Settings) -> None:
    from medseg_cli.batch.overlap import overlap

    models = Models(settings)
    models.start()
    line.say("ready")
    try:
        overlap(
            _cases(line),
            settings,
            models,
            lambda record: line.say("record", record),
            lambda case, step: line.say(step, case),
        )
    except DeviceError as error:
        logs.LOGGER.warning(error.message)
        raise SystemExit(UNUSABLE) from error


def _cases(line: _Line) -> Iterator[BatchCase]:
    while (case := line.ask()) is not None:
        yield case


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        # At once, wherever the other threads are: outputs and records appear whole or not at all.
        os._exit(1)
