"""The objects of one scan in one label map, in whatever order they are found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import MedsegError
from medseg_cli.pipelines.objects import empty_targets
from medseg_cli.postprocess import clean
from medseg_cli.preset_format import Postprocessing
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Scan


@dataclass(frozen=True, eq=False)
class Found:
    """One object as the network has it.

    Args:
        probability: on the part `place` of the scan's grid, zero elsewhere.
        place: that part.
        crops: that were predicted.
        complete: False where the limit on crops ended it.
    """

    probability: NDArray[np.float32]
    place: tuple[slice, slice, slice]
    crops: int
    complete: bool


@dataclass(eq=False)
class Objects:
    """One scan, what was asked of it, and what of that has been found.

    Args:
        scan: to be segmented.
        prompt: one target per object.
        clicks: (N, 3) continuous voxel index ijk per object.
        postprocessing: how each object is cleaned.
        error: why the scan cannot be segmented.
    """

    scan: Scan
    prompt: Prompt
    clicks: list[NDArray[np.float64]]
    postprocessing: Postprocessing
    error: MedsegError | None = None
    mask: NDArray[np.unsignedinteger[Any]] = field(init=False)
    _best: NDArray[np.float32] | None = field(init=False)
    _crops: dict[int, tuple[int, bool]] = field(init=False, default_factory=dict)
    _steps: dict[int, list[Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.mask = np.zeros(self.scan.shape, np.uint8 if len(self.clicks) < 256 else np.uint16)
        self._best = np.zeros(self.scan.shape, np.float32) if len(self.clicks) > 1 else None

    def add(self, value: int, found: Found) -> None:
        """Clean an object and put it on the map; where several are, the likeliest is, of equal ones the first.

        Args:
            value: of the object, from 1 in the order of the prompt.
            found: what it is.
        """
        place, probability = found.place, found.probability
        clicks = self.clicks[value - 1] - [part.start for part in place]
        cleaned = clean(probability > 0.5, clicks, self.scan.spacing, self.postprocessing)
        inside = cleaned.mask
        if self._best is not None:
            mask, best = self.mask[place], self._best[place]
            inside &= (mask == 0) | (probability > best) | ((probability == best) & (mask > value))
            best[inside] = probability[inside]
        self.mask[place][inside] = value
        self._crops[value] = (found.crops, found.complete)
        self._steps[value] = cleaned.steps

    @property
    def crops(self) -> list[int]:
        """Crops of each object."""
        return [count for _, (count, _) in sorted(self._crops.items())]

    @property
    def cleaning(self) -> list[dict[str, Any]]:
        """What cleaning did to each object."""
        return [{"id": each.id, "steps": self._steps[value]} for value, each in enumerate(self.prompt.targets, start=1)]

    @property
    def notes(self) -> list[str]:
        """What the user must know of the objects: those that were not finished, and those that are empty."""
        unfinished = [
            f"object '{self.prompt.targets[value - 1].id}' was not finished: "
            f"it still grew after {count} crops (options.max_crops)"
            for value, (count, complete) in sorted(self._crops.items())
            if not complete
        ]
        return unfinished + empty_targets(set(np.unique(self.mask).tolist()), self.prompt)
