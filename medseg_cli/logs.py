"""Where log records go: standard logging, one handler for people (in `report`) and one for machines (JSON lines)."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from medseg_cli.errors import InputError

LOGGER = logging.getLogger("medseg")
"""Ours; modules log to children of it ("medseg.stages"). Attach values as `extra={"fields": {...}}`."""

Talk = Literal["quiet", "normal", "verbose", "debug"]
LEVELS: dict[Talk, int] = {
    "quiet": logging.ERROR,
    "normal": logging.WARNING,
    "verbose": logging.INFO,
    "debug": logging.DEBUG,
}


_case: ContextVar[str] = ContextVar("case", default="")


@contextmanager
def case_of_log(case: str) -> Iterator[None]:
    """What this thread logs in the block is about a case of many."""
    token = _case.set(case)
    try:
        yield
    finally:
        _case.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The values of a record, the case it is about among them."""
    case = _case.get()
    return {**({"case": case} if case else {}), **getattr(record, "fields", {})}


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message, the record's fields, a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(console: logging.Handler, talk: Talk = "normal", json_path: str = "") -> None:
    """Send records to `console` as far as `talk` allows, and all of them as JSON lines to `json_path`.

    Args:
        console: handler that writes for people.
        talk: how much of it; tracebacks only at "debug".
        json_path: file to append to, "-" for stderr (people then get nothing there), "" for none.

    Raises:
        InputError: the file cannot be opened.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if handler.name in ("medseg-people", "medseg-json")]:
        root.removeHandler(old)
        old.close()
    if json_path:
        lines = logging.StreamHandler(sys.stderr) if json_path == "-" else _file(json_path)
        lines.name = "medseg-json"
        lines.setFormatter(JsonLines())
        root.addHandler(lines)
    if json_path != "-":
        console.name = "medseg-people"
        console.setLevel(LEVELS[talk])
        root.addHandler(console)
    # Libraries debug at length; their warnings belong in the log, and on the terminal only when asked for.
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.DEBUG)
    logging.captureWarnings(True)


def _file(path: str) -> logging.Handler:
    """A handler that appends to a log; anything else of that name is left alone."""
    try:
        if os.path.isfile(path) and os.path.getsize(path):
            with open(path, "rb") as file:
                if file.read(1) != b"{":
                    raise InputError(f"{path} exists and is no log of JSON lines", "choose another --log-json")
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write the log {path}: {error.strerror or error}", "choose another --log-json"
        ) from error
