"""The processes of a run: this one alone, or those that torchrun started."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, Strategy
from torch import Tensor

from medseg_cli.device import Precision
from medseg_cli.errors import UsageError
from medseg_cli.training.plan import Plan, Resources

_FABRIC_NAMES: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def under_torchrun() -> bool:
    """Whether torchrun started this process, as one of several or by itself."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Number of this process among those of the run; the first one writes and talks."""
    return int(os.environ.get("RANK", 0)) if under_torchrun() else 0


def fabric_of(resources: Resources, precision: Precision) -> Fabric:
    """Fabric on the device of `resources`; under torchrun one device per process, gradients averaged (DDP).

    Raises:
        UsageError: torchrun with MPS, which has one device and no process group.
    """
    name = _FABRIC_NAMES[precision]
    if not under_torchrun():
        devices: Any = 1 if resources.accelerator == "cpu" else [resources.device]
        return Fabric(accelerator=resources.accelerator, devices=devices, precision=name)
    if resources.accelerator == "mps":
        raise UsageError("MPS has one device: torchrun cannot use it", "start medseg without torchrun")
    here, all_of_them = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    strategy: str | Strategy = "auto"
    if all_of_them > 1:
        backend = "gloo" if resources.accelerator == "cpu" else "nccl"
        # What the loss of one batch does not need (a branch for another kind of prompt) gets no gradient.
        strategy = DDPStrategy(process_group_backend=backend, find_unused_parameters=True)
    fabric = Fabric(
        accelerator=resources.accelerator,
        devices=here,
        num_nodes=all_of_them // here,
        precision=name,
        strategy=strategy,
    )
    fabric.launch()
    return fabric


def machine(fabric: Fabric) -> str:
    """One line for people: system, device, and the number of processes if there are several."""
    device = str(fabric.device)
    if fabric.device.type == "cuda":
        device = f"{device} ({torch.cuda.get_device_name(fabric.device)})"
    several = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
    return f"{platform.platform()}, {device}{several}"


def check_batch(plan: Plan, world: int) -> None:
    """Whether every process gets the same share of every batch.

    Raises:
        UsageError: the batch cannot be divided.
    """
    if plan.batch_size % world:
        raise UsageError(
            f"a batch of {plan.batch_size} cannot be divided among {world} processes",
            f"--batch-size counts the samples of all processes together: give a multiple of {world}",
        )


def total(fabric: Fabric, values: list[float]) -> list[float]:
    """Each value summed over all processes, the same everywhere."""
    if fabric.world_size == 1:
        return values
    summed: Any = fabric.all_reduce(torch.tensor(values, dtype=torch.float64, device=fabric.device), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return [float(value) for value in summed.cpu()]


def share(fabric: Fabric, values: Iterable[Tensor]) -> None:
    """Give every process the values that the first one has, in place."""
    if fabric.world_size > 1:
        for value in values:
            torch.distributed.broadcast(value, 0)


def gathered(fabric: Fabric, value: float) -> list[float]:
    """The value of every process."""
    zeros = [0.0] * fabric.world_size
    zeros[fabric.global_rank] = value
    return total(fabric, zeros)
