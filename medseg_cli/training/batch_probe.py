"""How many samples go through a network together on this device, found by trying."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from medseg_cli.errors import DeviceError
from medseg_cli.machine import free_memory, resident
from medseg_cli.training.average import learned
from medseg_cli.training.recipe import Recipe
from medseg_cli.training.step import is_out_of_memory

SHARE = 0.8
"""Share of the free memory that a step may take."""
MOST = 64
"""Samples beyond which a larger batch is no gain worth looking for."""
COPIES = 3
"""Of the learned weights, that a step does not show yet: two moments of AdamW and the average."""


def largest_batch(fabric: Fabric, recipe: Recipe, case: Any, most: int) -> int:
    """The largest power of two whose forward and backward pass, doubled once more, would not fill the memory.

    The network that is tried is thrown away, so that trying changes nothing of the run.

    Args:
        case: a training case.
        most: e.g. the number of training cases.

    Raises:
        DeviceError: not even one sample fits.
    """
    network = recipe.model(0).to(fabric.device).train()
    volume = recipe.load(case)
    samples = [recipe.sample(volume, np.random.default_rng([0, index])) for index in range(min(most, MOST))]
    state = COPIES * sum(value.numel() * value.element_size() for value in learned(network).values())
    room = SHARE * _free(fabric.device) - state

    def work(size: int) -> None:
        with fabric.autocast():
            loss = recipe.loss(network, samples[:size])
        loss.backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)

    size = 1
    try:
        while 2 * size <= len(samples) and 2 * _peak(fabric.device, work, size) < room:
            size *= 2
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        size //= 2
    finally:
        if fabric.device.type == "cuda":
            torch.cuda.empty_cache()
    if not size:
        raise DeviceError("out of memory with a single sample", "use --amp, --peft decoder, or another device")
    return size


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def _peak(device: torch.device, work: Callable[[int], None], size: int) -> int:
    """Bytes that a step takes at its peak."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work(size)
        return torch.cuda.max_memory_allocated(device) - before
    before, highest, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work(size)
    finally:
        done.set()
        watcher.join()
    return max(0, highest[0] - before)
