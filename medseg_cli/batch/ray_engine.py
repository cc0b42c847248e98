"""The cases of a batch over Ray: resident workers, each with its model; one that dies costs no other case.

Actors and not Ray Data: `map_batches` runs blocks of rows again when an actor dies and gives up the whole dataset when
that does not help, without a word on the row that did it. One call of an actor per case says which cases it had.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from medseg_cli.batch import ray_cluster, ray_nodes, workspace
from medseg_cli.batch.budget import Budget
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.models import TOGETHER
from medseg_cli.batch.ray_crew import RayCrew
from medseg_cli.batch.ray_worker import DEPTH, Loop, RayWorker, segmenting
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings

logger = logging.getLogger("medseg.batch.ray")

SEEN = 20
"""Scans at most that every node must see before the first case; the others are found missing when they are read."""


def run(
    cases: Sequence[BatchCase],
    settings: Settings,
    on_record: Callable[[Record], None],
    *,
    address: str = "",
    jobs: int = 0,
    budget: Budget | None = None,
    begin: Callable[[Settings], Loop] = segmenting,
) -> None:
    """Run the cases; each ends with a record on disk, which `on_record` gets too, in the order in which they end.

    Args:
        cases: those to be run; what is finished has been left out.
        settings: of the run; the output folder exists.
        on_record: called in this process; what it raises ends the run, and the workers with it.
        address: "" starts a Ray of our own on this machine; "auto" or host:port joins a cluster.
        jobs: workers; 0 = one per GPU, or on CPUs one per node.
        budget: of memory; None where nothing is known of that, as of the nodes of a cluster.
        begin: makes what a worker does, in the worker's process.

    Raises:
        UsageError: Ray is not installed; a node runs another medseg; the device does not go with Ray.
        InputError: a node does not see the scans or the output folder.
        DeviceError: no such cluster, nothing to compute on, or workers that die before they begin.
        MedsegError: what a worker raised when it began: no such device, for instance.
    """
    if not cases:
        return
    try:
        with ray_cluster.connected(address, jobs) as ray:
            share = _shared(ray, cases, settings, jobs)
            depth = DEPTH * _together(settings, share)
            actor = ray.remote(RayWorker).options(
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                max_restarts=0,
                max_task_retries=0,
                # A call waits for its case; one more finds out whether the worker is ready.
                max_concurrency=depth + 1,
            )
            hire = partial(actor.remote, settings, begin)
            crew = RayCrew(ray, hire, share.workers, depth, budget, cases, settings, on_record)
            try:
                crew.work()
            finally:
                crew.dismiss()
    finally:
        # What killed workers were writing; those of this machine are gone by now.
        workspace.clear_dead(settings.out)


def _shared(ray: Any, cases: Sequence[BatchCase], settings: Settings, jobs: int) -> ray_nodes.Share:
    """What workers get, once every node is known to see what they need."""
    share = ray_nodes.share(ray.nodes(), settings.device, jobs)
    scans = dict.fromkeys(case.scan.resolve() for case in cases if case.scan.exists())
    ray_nodes.check_nodes(ray, settings.out, list(scans)[:SEEN], share)
    logger.info("%d workers with %d CPUs and %d GPUs each", share.workers, share.cpus, share.gpus)
    return replace(share, workers=min(share.workers, len(cases)))


def _together(settings: Settings, share: ray_nodes.Share) -> int:
    """Cases that a worker may segment in one call, as `Models.together` has it there."""
    if settings.deterministic:
        return 1
    return settings.together or (TOGETHER if share.gpus else 1)
