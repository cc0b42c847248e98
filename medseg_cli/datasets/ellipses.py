"""Whether the masks of a dataset are ellipses, as those of HC18 are: only then may a preset draw ellipses as masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg_cli.biometry import measures_ellipses, plane, view
from medseg_cli.datasets.case import Case
from medseg_cli.datasets.pairs import load_pair
from medseg_cli.ellipse import fit

MOST = 20
"""Cases that are looked at, evenly spaced where there are more."""
ALIKE = 0.98
"""Dice of a mask and its ellipse from which on it was drawn as one; masks of HC18 have 0.998, outlines by hand less."""
MOSTLY = 0.9
"""Share of the cases that must be ellipses: one slip of the hand in ten says nothing of the others."""


def drawn_as_ellipses(cases: Sequence[Case]) -> bool:
    """Whether nearly every mask is an ellipse, of the cases that are looked at.

    Args:
        cases: with masks of pictures or cines; volumes have no ellipses, and masks without an object say nothing.

    Raises:
        InputError: one cannot be read.
    """
    chosen = [cases[index] for index in np.unique(np.linspace(0, len(cases) - 1, min(len(cases), MOST)).astype(int))]
    alike = []
    for case in chosen:
        scan, labels = load_pair(case)
        if not measures_ellipses(scan):
            return False
        frames = np.moveaxis(labels > 0, 2, 0)[:, *view(scan)]
        fitted = [fit(frame, plane(scan))[0] for frame in frames if frame.any()]
        if fitted:
            alike.append(all(each is not None and each.overlap >= ALIKE for each in fitted))
    return bool(alike) and sum(alike) >= MOSTLY * len(alike)
