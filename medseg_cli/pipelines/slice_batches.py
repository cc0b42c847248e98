"""Slices of several scans in the batches of one network: what each scan asks for next is encoded together."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from medseg_cli.errors import MedsegError
from medseg_cli.pipelines.slice_run import Embeddings, SliceRun, Ways


def answer_together(
    looks: Sequence[tuple[SliceRun, Generator[list[int], Embeddings, Ways]]],
) -> list[Ways | MedsegError]:
    """Drive the `answers` of several scans under one network at once, whose slices share batches.

    Returns:
        Per scan what its generator returns, or the error that it ended with; the others go on.
    """
    results: list[Ways | MedsegError] = [[] for _ in looks]
    sent: dict[int, Embeddings | None] = dict.fromkeys(range(len(looks)))
    while sent:
        wanted: dict[int, list[int]] = {}
        for number, embeddings in sent.items():
            going = looks[number][1]
            try:
                wanted[number] = next(going) if embeddings is None else going.send(embeddings)
            except StopIteration as end:
                results[number] = end.value
            except MedsegError as error:
                results[number] = error
        numbers = list(wanted)
        sent = dict(zip(numbers, _embed([(looks[number][0], wanted[number]) for number in numbers]), strict=True))
    return results


def _embed(wanted: list[tuple[SliceRun, list[int]]]) -> list[Embeddings]:
    """The embeddings of slices of scans, from the cache or encoded in batches of the first scan's size."""
    known, missing = [], []
    for number, (run, indices) in enumerate(wanted):
        found, others = run.stored(indices)
        known.append(found)
        missing += [(number, index, key) for index, key in others.items()]
    size = wanted[0][0].batch if wanted else 1
    for first in range(0, len(missing), size):
        batch = missing[first : first + size]
        network = wanted[batch[0][0]][0].network
        images = torch.stack([wanted[number][0].image(index) for number, index, _ in batch]).to(network.device)
        with torch.inference_mode(), network.autocast():
            encoded = dict(network.model.encode(images))
            if network.draws is not None:
                encoded |= network.draws.encode(network.model, images, [index for _, index, _ in batch])
        for row, (number, index, key) in enumerate(batch):
            embedding = {name: value[row : row + 1].float() for name, value in encoded.items()}
            known[number][index] = embedding
            wanted[number][0].cache.put(key, {name: value.cpu() for name, value in embedding.items()})
    return known
