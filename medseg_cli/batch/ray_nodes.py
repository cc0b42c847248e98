"""The machines of a Ray cluster: how workers share them, and whether each can do what a worker does."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg_cli.batch import workspace
from medseg_cli.errors import DeviceError, InputError, UsageError

logger = logging.getLogger("medseg.batch.ray")


@dataclass(frozen=True)
class Share:
    """What the workers get.

    Args:
        workers: how many there are.
        cpus: CPUs, and so threads, of each.
        gpus: GPUs of each, 0 or 1.
    """

    workers: int
    cpus: int
    gpus: int


def share(nodes: Sequence[dict[str, Any]], device: str, jobs: int) -> Share:
    """How a machine or cluster is divided among workers: one per GPU, or `jobs` that share the CPUs.

    Args:
        nodes: as `ray.nodes()` gives them.
        device: as `--device` takes it.
        jobs: workers wanted; 0 = all GPUs, or on CPUs one per node with all of it.

    Raises:
        UsageError: a device with a number, or MPS on several machines.
        DeviceError: no GPU where one is asked for, or no CPU.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = [int(each.get("GPU", 0)) for each in resources]
    cpus = [int(each.get("CPU", 0)) for each in resources]
    all_gpus, all_cpus = sum(gpus), sum(cpus)
    kind, _, number = device.partition(":")
    if number:
        raise UsageError(
            f"--device {device} does not go with --engine ray: Ray gives every worker a GPU of its own",
            f"say --device {kind}, and choose GPUs with CUDA_VISIBLE_DEVICES",
        )
    if kind in ("cuda", "gpu") and not all_gpus:
        raise DeviceError("Ray has no GPU here", "look at `ray status`, or say --device cpu")
    if kind in ("auto", "cuda", "gpu") and all_gpus:
        least = min(cpu // gpu for cpu, gpu in zip(cpus, gpus, strict=True) if gpu)
        if jobs > all_gpus:
            logger.warning("%d workers and not %d: Ray has %d GPUs", all_gpus, jobs, all_gpus)
        return Share(min(jobs or all_gpus, all_gpus), least, 1)
    if kind == "mps" and (len(nodes) > 1 or jobs > 1):
        raise UsageError("MPS is one device of one machine: Ray cannot share it", "leave --engine ray out")
    if not all_cpus:
        raise DeviceError("Ray has no CPU here", "look at `ray status`")
    workers = min(jobs or sum(1 for each in cpus if each), all_cpus)
    if workers < jobs:
        logger.warning("%d workers and not %d: Ray has %d CPUs", workers, jobs, all_cpus)
    each = next(size for size in range(max(cpus), 0, -1) if sum(cpu // size for cpu in cpus) >= workers)
    return Share(workers, each, 0)


def check_nodes(ray: Any, out: Path, scans: Sequence[Path], need: Share) -> None:
    """Whether every node that may get a worker runs this medseg and sees the scans and the output folder.

    Args:
        ray: connected.
        out: the output folder; it exists.
        scans: some files or folders that cases are made of; the driver sees them.
        need: what a worker needs; nodes that have less get none.

    Raises:
        InputError: a node does not see or cannot write them.
        UsageError: a node cannot run medseg, or runs another version of it.
    """
    on = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    look = ray.remote(num_cpus=0, max_retries=1)(_look)
    token = workspace.own(out) / secrets.token_hex(8)
    token.touch()
    try:
        asked = {}
        for node in ray.nodes():
            has = node["Resources"]
            if node["Alive"] and has.get("CPU", 0) >= need.cpus and has.get("GPU", 0) >= need.gpus:
                there = look.options(scheduling_strategy=on(node["NodeID"], soft=False))
                answer = there.remote(str(out), str(token), [str(path) for path in scans])
                asked[answer] = f"node {node['NodeManagerHostname']}"
        for answer, name in asked.items():
            try:
                _check_answer(name, *ray.get(answer))
            except ray.exceptions.RayError as error:
                logger.info("%s: %s", name, error)
                raise UsageError(
                    f"{name} cannot run medseg: {last_line(error)}",
                    "install the same medseg, Ray and Python on every node",
                ) from error
    finally:
        token.unlink(missing_ok=True)


def _look(out: str, token: str, scans: Sequence[str]) -> tuple[str | None, str]:
    """On a node: (its medseg's version, what it does not see or cannot write; "" if all is well)."""
    from medseg_cli.versions import version

    unseen = next((path for path in scans if not os.path.exists(path)), "")
    try:
        beside = Path(f"{token}-{socket.gethostname()}-{os.getpid()}")
        beside.touch()
        beside.unlink()
        unseen = unseen or ("" if os.path.exists(token) else out)
    except OSError as error:
        unseen = unseen or f"{out} as a folder to write to ({error.strerror})"
    return version("medseg-cli"), unseen


def _check_answer(name: str, theirs: str | None, unseen: str) -> None:
    from medseg_cli.versions import version

    if theirs != version("medseg-cli"):
        raise UsageError(
            f"{name} has medseg {theirs}, this machine {version('medseg-cli')}",
            "install the same version on every node",
        )
    if unseen:
        raise InputError(
            f"{name} does not see {unseen}",
            "INPUT and OUT must lie on a file system that all nodes share, under the same path",
        )


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
