"""Crops of several objects, of one scan or of many, in the batches of one network.

An object is looked at by a generator that yields one crop after the other, each chosen by what was found in those
before. What all of them ask for next is encoded together; features are then decoded together where crops have the same
number of clicks, since the network attends to a click that is repeated as to two.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.device import Runtime
from medseg_cli.errors import MedsegError
from medseg_cli.models.sam3d.network import Sam3d
from medseg_cli.pipelines.sam3d_objects import Found

logger = logging.getLogger("medseg.sam3d")

HELD = 1 << 26
"""Voxels that looks under way may hold together before all but the first wait: about 0.6 GiB."""


@dataclass(frozen=True, eq=False)
class Crop:
    """What the network is asked next about an object.

    Args:
        image: (1, P, P, P) in (D, H, W), normalised.
        points: (N, 3) clicks in the crop, columns (d, w, h) in voxels.
        held: voxels of earlier crops that the look keeps until it ends.
    """

    image: Tensor
    points: NDArray[np.float64]
    held: int


Look = Generator[Crop, NDArray[np.float32], Found]
"""Yields crops; is sent the object's probability (P, P, P) in (D, H, W); returns what was found."""


@dataclass(eq=False)
class Batches:
    """The network with the number of crops that it takes at a time.

    Args:
        model: on the runtime's device.
        runtime: where and how precisely to compute.
        size: most crops at a time; halved for good where the device's memory does not suffice.
    """

    model: Sam3d
    runtime: Runtime
    size: int

    def __call__(self, crops: Sequence[Crop]) -> list[NDArray[np.float32]]:
        """The object's probability (P, P, P) in (D, H, W) in each crop.

        Raises:
            torch.OutOfMemoryError: a single crop is too much.
        """
        answers: list[NDArray[np.float32]] = []
        while len(answers) < len(crops):
            part = crops[len(answers) : len(answers) + self.size]
            found = self._tried(part)
            if found is None:
                self.size = len(part) // 2
                torch.cuda.empty_cache()
                logger.info("%d crops are too many for the device's memory, %d from now on", len(part), self.size)
            else:
                answers += found
        return answers

    def _tried(self, crops: Sequence[Crop]) -> list[NDArray[np.float32]] | None:
        """The answers; None where memory ran out and fewer crops may do."""
        try:
            return self._predict(crops)
        except torch.OutOfMemoryError:
            if len(crops) == 1:
                raise
            return None

    def _predict(self, crops: Sequence[Crop]) -> list[NDArray[np.float32]]:
        device = self.runtime.device
        alike: dict[int, list[int]] = {}
        for number, crop in enumerate(crops):
            alike.setdefault(len(crop.points), []).append(number)
        answers: dict[int, NDArray[np.float32]] = {}
        with torch.inference_mode(), self.runtime.autocast():
            images = torch.stack([crop.image for crop in crops]).to(device)
            features = self.model.encoder(images)
            for numbers in alike.values():
                points = np.stack([crops[number].points for number in numbers], axis=1)
                own = features if len(alike) == 1 else [each[numbers] for each in features]
                image = images if len(alike) == 1 else images[numbers]
                logits = self.model.decode(own, image, torch.from_numpy(points).float().to(device))
                answers.update(zip(numbers, logits.float().softmax(1)[:, 1].cpu().numpy(), strict=True))
        return [answers[number] for number in range(len(crops))]


def answered(looks: Iterable[Look], batches: Batches) -> Iterator[tuple[int, Found | MedsegError]]:
    """Drive looks, as many at once as a batch has room for; the number of each that ends, and its result or error.

    Args:
        looks: the next is asked for when there is room.
        batches: answers their crops.
    """
    waiting = enumerate(looks)
    going: dict[int, tuple[Look, Crop]] = {}
    while True:
        while len(going) < batches.size and sum(crop.held for _, crop in going.values()) <= HELD:
            number, look = next(waiting, (-1, None))
            if look is None:
                break
            step = _step(look, None)
            if isinstance(step, Crop):
                going[number] = (look, step)
            else:
                yield number, step
        if not going:
            return
        chosen = _affordable({number: crop.held for number, (_, crop) in going.items()})
        for number, answer in zip(chosen, batches([going[number][1] for number in chosen]), strict=True):
            look, _ = going.pop(number)
            step = _step(look, answer)
            if isinstance(step, Crop):
                going[number] = (look, step)
            else:
                yield number, step
            # What was found is the caller's now: it must not stay in memory here.
            del step, look


def _step(look: Look, answer: NDArray[np.float32] | None) -> Crop | Found | MedsegError:
    try:
        return next(look) if answer is None else look.send(answer)
    except StopIteration as end:
        found: Found = end.value
        return found
    except MedsegError as error:
        return error


def _affordable(held: dict[int, int]) -> list[int]:
    """The looks that go on, first come first served: at least one, the others as long as little is held."""
    chosen: list[int] = []
    total = 0
    for number in sorted(held):
        total += held[number]
        if chosen and total > HELD:
            break
        chosen.append(number)
    return chosen
