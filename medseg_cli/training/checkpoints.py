"""Checkpoint and log of a run."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import InputError, ModelError
from medseg_cli.training.plan import Plan, Progress
from medseg_cli.writers.atomic import atomic_output

CHECKPOINT = "last.pt"
LOG = "log.csv"


def save(
    run: Path, plan: Plan, line: Progress, network: nn.Module, average: AveragedModel, optimizer: Any, schedule: Any
) -> None:
    """Write checkpoint and log line; the checkpoint is whole or not there."""
    state = {
        "plan": asdict(plan),
        "step": line.step,
        "model": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    with atomic_output(run / CHECKPOINT, overwrite=True) as part, part.open("wb") as file:
        torch.save(state, file)
    try:
        fresh = line.step <= plan.validate_every or not (run / LOG).is_file()
        with (run / LOG).open("w" if fresh else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(line)))
            if fresh:
                writer.writeheader()
            writer.writerow(asdict(line))
    except OSError as error:
        raise InputError(
            f"cannot write the run folder {run}: {error.strerror}", "give a writable folder with -o"
        ) from error


def resume(run: Path, plan: Plan, network: nn.Module, average: AveragedModel, optimizer: Any, schedule: Any) -> int:
    """Load `last.pt` if there is one; the number of steps it had done, else 0."""
    path = run / CHECKPOINT
    if not path.is_file():
        return 0
    state = read_tensors(path)
    try:
        if state["plan"] != asdict(plan):
            changed = {
                key: (state["plan"].get(key), value)
                for key, value in asdict(plan).items()
                if state["plan"].get(key) != value
            }
            raise ModelError(
                f"{path} belongs to another plan: {changed}", "use the same options, or another folder with -o"
            )
        network.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} cannot be resumed: {str(error).splitlines()[0]}", "use another folder with -o"
        ) from error
    return int(state["step"])
