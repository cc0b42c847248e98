"""The one training loop: `fit(recipe, split, plan, run)`. Seeded, resumable, device handling by Lightning Fabric.

The randomness of step s comes from (seed, s) alone, so a resumed run draws the same samples as an uninterrupted one.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.random import Generator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.dataset import Case, Split
from medseg_cli.errors import InputError, ModelError
from medseg_cli.writers.atomic import atomic_output

CHECKPOINT = "last.pt"
LOG = "log.csv"


class Recipe(Protocol):
    """What a method adds to the loop; `pipelines/sam3d_recipe.py` is one."""

    def model(self, seed: int) -> nn.Module:
        """The network with seeded initial weights."""
        ...

    def load(self, case: Case) -> Any:
        """A case in memory."""
        ...

    def sample(self, volume: Any, rng: Generator) -> Any:
        """One random training sample of a case."""
        ...

    def fixed_sample(self, volume: Any, rng: Generator) -> Any:
        """One validation sample of a case, nothing augmented."""
        ...

    def loss(self, model: nn.Module, samples: list[Any]) -> Tensor:
        """Mean loss of a batch."""
        ...

    def score(self, model: nn.Module, samples: list[Any]) -> list[float]:
        """Dice of each sample, 0 to 1."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Args:
        steps: optimiser steps of the whole run.
        batch_size: samples per step.
        learning_rate: peak of AdamW's; warmed up linearly over 3 % of the steps, then cosine down to 1 % of it.
        weight_decay: AdamW's, on matrices and kernels only.
        ema: decay of the averaged weights, which are what is validated and exported.
        validate_every: steps between validations and checkpoints.
        seed: of weights, samples and order.
        precision: Fabric's name: "32-true" or "bf16-mixed".
        accelerator: Fabric's name: "cpu", "cuda" or "mps".
        device: index among that accelerator's devices.
    """

    steps: int = 4000
    batch_size: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    ema: float = 0.998
    validate_every: int = 250
    seed: int = 0
    precision: Any = "32-true"
    accelerator: str = "cpu"
    device: int = 0


@dataclass(frozen=True)
class Progress:
    """One line of the log: the mean loss since the line before, and the seconds since this start of the loop."""

    step: int
    loss: float
    dice: float
    learning_rate: float
    seconds: float


def fit(recipe: Recipe, split: Split, plan: Plan, run: Path, report: Callable[[Progress], None]) -> nn.Module:
    """Train from scratch, or go on where `run` stopped.

    Args:
        recipe: the method.
        split: `train` is learned from, `validation` is scored every `validate_every` steps; `test` is not touched.
        plan: must equal the plan of a run that is resumed.
        run: folder for `last.pt` and `log.csv`; made if missing.
        report: called after each validation.

    Returns:
        The averaged model, in eval mode, on the CPU.

    Raises:
        ModelError: the folder holds a run with another plan or network, or the loss is not finite.
    """
    devices: Any = 1 if plan.accelerator == "cpu" else [plan.device]
    fabric = Fabric(accelerator=plan.accelerator, devices=devices, precision=plan.precision)
    torch.manual_seed(plan.seed)
    network = recipe.model(plan.seed)
    optimizer = torch.optim.AdamW(_groups(network, plan), lr=plan.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan))
    model, optimizer = fabric.setup(network, optimizer)
    # With buffers: a BatchNorm's running statistics must belong to the weights they stand beside.
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(plan.ema), use_buffers=True)
    done = _resume(run, plan, network, average, optimizer, schedule)

    volumes = [recipe.load(case) for case in split.train]
    held = [recipe.load(case) for case in split.validation]
    started, losses = time.monotonic(), []
    for step in range(done, plan.steps):
        rng = np.random.default_rng([plan.seed, step])
        chosen = rng.integers(len(volumes), size=plan.batch_size)
        network.train()
        loss = recipe.loss(model, [recipe.sample(volumes[index], rng) for index in chosen])
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss of step {step} is {loss.item()}", "lower --learning-rate, or resume the last checkpoint"
            )
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        losses.append(loss.item())
        if (step + 1) % plan.validate_every == 0 or step + 1 == plan.steps:
            dice = _validate(recipe, average.module, held, plan)
            line = Progress(
                step + 1, float(np.mean(losses)), dice, float(schedule.get_last_lr()[0]), time.monotonic() - started
            )
            _save(run, plan, line, network, average, optimizer, schedule)
            report(line)
            losses = []
    return average.module.eval().cpu()


def _groups(network: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for norms, biases and embeddings' one-dimensional parts."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _rate(step: int, plan: Plan) -> float:
    """Learning rate of a step as a share of its peak."""
    warm = max(1, round(0.03 * plan.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, plan.steps - warm)))


def _validate(recipe: Recipe, model: nn.Module, volumes: Sequence[Any], plan: Plan) -> float:
    """Mean Dice over the held volumes, each clicked at the same place every time."""
    model.eval()
    scores: list[float] = []
    with torch.inference_mode():
        for index, volume in enumerate(volumes):
            scores += recipe.score(model, [recipe.fixed_sample(volume, np.random.default_rng([plan.seed, index]))])
    return float(np.mean(scores))


def _save(
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


def _resume(run: Path, plan: Plan, network: nn.Module, average: AveragedModel, optimizer: Any, schedule: Any) -> int:
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
