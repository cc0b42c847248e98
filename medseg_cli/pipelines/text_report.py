"""What reports say about texts: whether their things are there, and what the network did not read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.pipelines.slice_time import as_drawn
from medseg_cli.pipelines.text_classes import TextClass


def presence_of(
    number: int, name: str, probability: NDArray[np.float64], margin: NDArray[np.float64], threshold: float | None
) -> dict[str, Any]:
    """Whether one class is there, as reports say it.

    Args:
        number: of the class, from 0.
        name: of its label.
        probability, margin: (K,), of each slice.
        threshold: probability from which it counts as there; None where nobody asks.
    """
    best = int(probability.argmax())
    there = [int(index) for index in np.flatnonzero(probability >= (threshold or 0.0))]
    return {
        "label": number + 1,
        "name": name,
        "probability": round(float(probability[best]), 6),
        "margin": round(float(margin[best]), 6),
        "threshold": threshold,
        "present": bool(there),
        "slice": best,
        "slices_present": len(there),
    }


def judged(said: Sequence[dict[str, Any]], name: str, frames: NDArray[np.bool_] | None) -> dict[str, Any]:
    """What is thought of the mask of a class, as flags look for it: by the segmenter that drew it, if one did.

    Args:
        said: what each segmenter says of itself, with its `objects`.
        name: of the class.
        frames: (I, J, T) of a cine, the mask: its frames are compared where no segmenter has done so. Else None.
    """
    of_class = (each for facts in said for each in facts.get("objects", ()) if each["id"] == name)
    found: dict[str, Any] = next(of_class, {})
    told: dict[str, Any] = {key: found[key] for key in ("predicted_iou", "uncertainty", "time") if key in found}
    return told if frames is None or "time" in told else {**told, "time": as_drawn(frames)}


def cut_notes(classes: Sequence[TextClass]) -> list[str]:
    """A note for each class whose texts are longer than the network reads."""
    return [
        f"the text of {each.name} is longer than the network reads: its last {each.cut} tokens were left out"
        for each in classes
        if each.cut
    ]


def lost_notes(classes: Sequence[TextClass], lost: Sequence[int]) -> list[str]:
    """A note for each class of which voxels belong to a class that was named before it."""
    return [
        f"{each.name}: {count} of its voxels belong to what was named before it"
        for each, count in zip(classes, lost, strict=True)
        if count
    ]


def absent_notes(presence: Sequence[dict[str, Any]]) -> list[str]:
    """A note for each class that is not there, of what `presence_of` says."""
    return [
        f"{each['name']} was not found: the probability that it is there is {each['probability']:.3f}, "
        f"{each['threshold']:.3f} is asked for"
        for each in presence
        if not each["present"]
    ]
