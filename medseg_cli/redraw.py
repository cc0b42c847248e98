"""Objects that are ellipses by the rule they were drawn by, such as heads in HC18: the fitted ellipse becomes the mask.

Sonographers set an ellipse round a fetal head, also where the skull is hidden; the border that a network draws there
wavers. The ellipse is that of `ellipse.fit`, to the network's largest part without holes: small waves go, a large dent
moves the ellipse and is not undone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.biometry import measures_ellipses, plane, view
from medseg_cli.ellipse import drawn, fit
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label


def redraw(
    mask: NDArray[np.unsignedinteger[Any]],
    labels: tuple[Label, ...],
    scan: Scan,
    tissue: NDArray[np.bool_] | None = None,
) -> dict[int, dict[str, Any]]:
    """Put ellipses in the place of those objects whose label asks for it; of a cine, frame by frame. In place.

    Args:
        mask: (I, J, K) label map, changed. Another object's pixels stay its own.
        labels: of its values.
        scan: on whose grid it lies. Volumes stay as they are.
        tissue: see `biometry.biometry_of`.

    Returns:
        Label value → JSON-ready: "frames" redrawn, "kept" frames where `ellipse.fit` finds none, "least_overlap" of
        the redrawn (see `ellipse.Fitted`; None where none was), "why" the last kept one was.
    """
    wanted = [label.value for label in labels if label.redraw] if measures_ellipses(scan) else []
    return {value: _redraw(mask, value, scan, tissue) for value in wanted}


def _redraw(
    mask: NDArray[np.unsignedinteger[Any]], value: int, scan: Scan, tissue: NDArray[np.bool_] | None
) -> dict[str, Any]:
    steps, box = plane(scan), view(scan)
    overlaps, kept, why = [], 0, ""
    for frame in range(mask.shape[2]):
        own = mask[..., frame] == value
        if not own.any():
            continue
        found, reason = fit(own[box], steps, None if tissue is None else tissue[box])
        if found is not None:
            overlaps.append(found.overlap)
            mask[own, frame] = 0
            picture = mask[(*box, frame)]
            picture[drawn(found.ellipse, picture.shape, steps) & (picture == 0)] = value
        else:
            kept, why = kept + 1, reason
    least = round(float(min(overlaps)), 4) if overlaps else None
    return {"frames": len(overlaps), "kept": kept, "least_overlap": least, "why": why}


def notes(told: dict[int, dict[str, Any]], labels: tuple[Label, ...]) -> list[str]:
    """What the user should know of `redraw`'s answer."""
    names = {label.value: label.name for label in labels}
    return [
        f"{names[value]}: the mask is what the network drew, not an ellipse, in {each['kept']} of "
        f"{each['kept'] + each['frames']} pictures ({each['why']})"
        for value, each in told.items()
        if each["kept"]
    ]
