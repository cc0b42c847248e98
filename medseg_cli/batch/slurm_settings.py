"""What users say about the tasks of a job array, as submitit wants it said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from medseg_cli.errors import UsageError

MINUTES = 240
"""Time limit of a task unless the user says otherwise: submitit's own default is 5 minutes."""
NAMED = {"gpus": "gpus_per_node", "cpus": "cpus_per_task", "name": "name", "nodes": "nodes"}
"""What users type and submitit calls otherwise, or by its own name on every cluster."""
SIZES = {"M": 1 / 1024, "G": 1.0, "T": 1024.0}


def parse(settings: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE → value of each key, which may be written with "-" or "_".

    Raises:
        UsageError: no "=", or a key twice.
    """
    found: dict[str, str] = {}
    for each in settings:
        key, equals, value = each.partition("=")
        key = key.strip().removeprefix("--").replace("-", "_")
        if not equals or not key or not value.strip():
            raise UsageError(f"--slurm '{each}' is not KEY=VALUE", "for example --slurm partition=gpu")
        if key in found:
            raise UsageError(f"--slurm {key} is given twice", "once is enough")
        found[key] = value.strip()
    return found


def parameters(settings: dict[str, str]) -> dict[str, Any]:
    """Settings as submitit's `AutoExecutor` takes them; what it does not know becomes an option of sbatch.

    Raises:
        UsageError: a time, a size or a number that is none.
    """
    from submitit.slurm.slurm import SlurmExecutor

    known = SlurmExecutor._valid_parameters()
    found: dict[str, Any] = {"name": "medseg", "timeout_min": MINUTES}
    further: dict[str, str] = {}
    for key, value in settings.items():
        if key == "time":
            found["timeout_min"] = minutes(value)
        elif key == "mem":
            found["mem_gb"] = gigabytes(value)
        elif key in NAMED:
            found[NAMED[key]] = value if key == "name" else _whole(key, value)
        elif key in known:
            found[f"slurm_{key}"] = int(value) if value.isdecimal() else value
        else:
            further[key.replace("_", "-")] = value
    if further:
        found["slurm_additional_parameters"] = further
    return found


def minutes(text: str) -> int:
    """A time limit as Slurm takes it: minutes, "HH:MM:SS" or "D-HH:MM:SS"; seconds are rounded up.

    Raises:
        UsageError: something else.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d{2})(?::(\d{2}))?", text)
    if match:
        days, hours, mins, seconds = (int(part or 0) for part in match.groups())
        total = 60 * (24 * days + hours) + mins + bool(seconds)
    else:
        total = int(text) if text.isdecimal() else 0
    if total < 1:
        raise UsageError(f"--slurm time={text} is no time", "minutes, or HH:MM:SS: --slurm time=8:00:00")
    return total


def gigabytes(text: str) -> float:
    """Memory as Slurm takes it: "32G", "32GB", "500M"; a bare number is GB.

    Raises:
        UsageError: something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])?i?B?", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--slurm mem={text} is no amount of memory", "for example --slurm mem=32GB")
    return float(match[1]) * SIZES[(match[2] or "G").upper()]


def _whole(key: str, text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"--slurm {key}={text} is no whole number", f"for example --slurm {key}=1")
    return int(text)
