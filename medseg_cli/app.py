"""The `medseg` command: registers the commands, and turns every exception into one line, a hint and an exit code."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from medseg_cli.errors import explained

COMMANDS = ("segment", "batch", "info", "finetune", "evaluate", "report", "doctor")
"""Functions of that name in `commands/<name>.py`, in the order of `medseg --help`."""
GROUPS = ("dataset", "presets", "weights")
"""Typer apps called `app` in `commands/<name>.py`."""

INTERRUPTED = 130

app = typer.Typer(
    name="medseg",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # Both --on-gap and --on_gap are typed daily.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from medseg_cli.versions import versions

    found = versions()
    for name in ("medseg", "torch", "triton", "cuda", "python"):
        typer.echo(f"{name} {found[name] or 'none'}")
    raise typer.Exit


@app.callback()
def _medseg(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Versions of medseg, torch and Python."),
    ] = False,
) -> None:
    """Segment medical scans: clicks in, masks on the scan's own grid out."""


for _name in COMMANDS:
    app.command(_name)(getattr(importlib.import_module(f"medseg_cli.commands.{_name}"), _name))
for _name in GROUPS:
    app.add_typer(importlib.import_module(f"medseg_cli.commands.{_name}").app, name=_name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, as `docs/exit-codes.md` lists them.

    Args:
        arguments: without the program's name; None takes the process's own.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    # A closed terminal ends a run as Ctrl-C does, unless nohup said that it must not.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        code = app(args=arguments, prog_name="medseg", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our stdout is gone; what is left in its buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _explain(error)
    if code == INTERRUPTED:
        _say("interrupted: no output is half-written", "", None)
    return code if isinstance(code, int) else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _explain(error: Exception) -> int:
    """Tell what went wrong; the exit code."""
    if isinstance(error, typer.exceptions.TyperException):
        if error.format_message():
            context: Any = getattr(error, "ctx", None)
            _say(error.format_message(), f"{context.command_path if context else 'medseg'} --help", error)
        return error.exit_code
    known = explained(error)
    _say(known.message, known.hint, error)
    return known.exit_code


def _say(message: str, hint: str, error: Exception | None) -> None:
    """Through logging, so that a --log-json file gets the error with its traceback."""
    from medseg_cli import logs, report

    if not any(handler.name in ("medseg-people", "medseg-json") for handler in logging.getLogger().handlers):
        logs.configure(report.ConsoleLog())
    fields = {"hint": hint, "error": type(error).__name__ if error else "KeyboardInterrupt"}
    logs.LOGGER.error(message, exc_info=error, extra={"fields": fields})
