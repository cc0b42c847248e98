"""`medseg doctor`: what works here, what does not, and what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg_cli.diagnosis import Check

COLORS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check Python, torch, devices, readers, memory, cache, presets and weights.

    Ends with 0 when medseg can segment here, otherwise with the exit code of the first problem.
    """
    from medseg_cli.diagnosis import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            _say(check)
    code = next((check.exit_code for check in checks if check.status == "fail"), 0)
    if as_json:
        found = {"usable": code == 0, "exit_code": code, "checks": [asdict(check) for check in checks]}
        typer.echo(json.dumps(found, indent=2))
    raise typer.Exit(code)


def _say(check: Check) -> None:
    status = typer.style(f"{check.status:<5}", fg=COLORS[check.status])
    typer.echo(f"{status} {check.name:<24} {check.found}")
    if check.advice:
        typer.echo(f"{'':5} {'':24} {check.advice}")
