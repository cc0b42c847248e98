"""What shows why a text's mask is where it is: its scores; the maps are `maps.Maps`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.prompt import Text


def scores_of(
    texts: Sequence[Text],
    margin: NDArray[np.float64],
    probability: NDArray[np.float64],
    looked: Sequence[Sequence[int]],
) -> list[dict[str, Any]]:
    """All numbers of the C labels of a run, JSON-ready.

    Args:
        texts: what was asked for.
        margin, probability: (C, K), of each slice.
        looked: slices with a map, of each label.
    """
    return [
        {
            "positive": list(text.positive),
            "negative": list(text.negative),
            "slices": [
                {
                    "slice": index,
                    "margin": round(float(margin[number, index]), 6),
                    "probability": round(float(probability[number, index]), 6),
                    "map": index in looked[number],
                }
                for index in range(margin.shape[1])
            ],
        }
        for number, text in enumerate(texts)
    ]
