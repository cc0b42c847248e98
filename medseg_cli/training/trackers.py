"""Where the curves of a run go besides its folder: TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from medseg_cli.errors import UsageError
from medseg_cli.training.record import Record, TrackerName

Log = Callable[[int, dict[str, float]], None]
"""`log(step, {name: value})`."""


@contextmanager
def tracker_of(name: TrackerName, run: Path, record: Record) -> Iterator[Log]:
    """The tracker of that name; nothing of it is imported before.

    TensorBoard writes into `run/tensorboard`, MLflow into `run/mlflow` unless MLFLOW_TRACKING_URI names a server, and
    Weights & Biases into `run/wandb` unless WANDB_MODE says "online".

    Raises:
        UsageError: it is not installed.
    """
    if name == "none":
        yield lambda step, values: None
    elif name == "tensorboard":
        with _tensorboard(run) as log:
            yield log
    elif name == "mlflow":
        with _mlflow(run, record) as log:
            yield log
    else:
        with _wandb(run, record) as log:
            yield log


@contextmanager
def _tensorboard(run: Path) -> Iterator[Log]:
    from tensorboard.summary import Writer

    writer = Writer(str(run / "tensorboard"))

    def log(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def _mlflow(run: Path, record: Record) -> Iterator[Log]:
    mlflow = _extra("mlflow")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri((run / "mlflow").resolve().as_uri())
    mlflow.set_experiment("medseg")
    with mlflow.start_run(run_name=run.resolve().name):
        mlflow.log_params(_parameters(record))
        yield lambda step, values: mlflow.log_metrics({_plain(name): each for name, each in values.items()}, step=step)


@contextmanager
def _wandb(run: Path, record: Record) -> Iterator[Log]:
    wandb = _extra("wandb")
    mode = os.environ.get("WANDB_MODE", "offline")
    name = run.resolve().name
    started = wandb.init(project="medseg", name=name, dir=str(run), mode=mode, config=_parameters(record))
    try:
        yield lambda step, values: started.log(values, step=step)
    finally:
        started.finish()


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f"--tracker {name} needs {name}: {error}", f"pip install 'medseg-cli[{name}]'") from error


def _parameters(record: Record) -> dict[str, Any]:
    """What a tracker shows of a run; no path of this machine."""
    dataset = Path(record.dataset).name
    return {"preset": Path(record.preset).name, "dataset": dataset, **asdict(record.choices), **asdict(record.plan)}


def _plain(name: str) -> str:
    return name.replace("/", ".")
