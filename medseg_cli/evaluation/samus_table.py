"""SAMUS's scores of all pictures, as tables of SAMUS and CC-SAM have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg_cli.evaluation.samus_scores import FRAME, SMOOTHING
from medseg_cli.evaluation.statistics import DIGITS, Row, metrics_of

_NAMES = ("samus_", "hd_rowwise", "frame_")
"""Beginnings of the metrics."""


def samus_table(groups: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Mean and standard deviation over pictures of each metric, for each group of rows."""
    return {
        "frame_px": FRAME,
        "smoothing": SMOOTHING,
        "labels": {
            label: {name: _spread(rows, name) for name in metrics_of(rows) if name.startswith(_NAMES)}
            for label, rows in groups.items()
        },
    }


def _spread(rows: Sequence[Row], name: str) -> dict[str, float | int | None]:
    have = [value for row in rows if (value := row.numbers.get(name)) is not None]
    mean, deviation = (float(np.mean(have)), float(np.std(have))) if have else (None, None)
    return {
        "mean": None if mean is None else round(mean, DIGITS),
        "sd": None if deviation is None else round(deviation, DIGITS),
        "n": len(have),
    }
