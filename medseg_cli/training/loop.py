"""The one training loop: `fit(recipe, split, plan, run)`. Seeded, resumable, device handling by Lightning Fabric.

The randomness of step s comes from (seed, s) alone, so a resumed run draws the same samples as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medseg_cli.datasets import Split
from medseg_cli.errors import ModelError
from medseg_cli.training.checkpoints import resume, save
from medseg_cli.training.plan import Plan, Progress
from medseg_cli.training.recipe import Recipe


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
    done = resume(run, plan, network, average, optimizer, schedule)

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
            save(run, plan, line, network, average, optimizer, schedule)
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
