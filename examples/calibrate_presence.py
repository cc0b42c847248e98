"""Fit when a thing counts as there: `python examples/calibrate_presence.py PRESET DATA` prints the preset's numbers.

Every concept is asked of every validation scan. A logistic curve over the margins of single slices, both answers
counting alike, makes probabilities of them; slices with a few pixels of the thing are left out.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from text_cases import CONCEPTS, said, shown

from medseg_cli import device, pipelines, preset
from medseg_cli.slices import plane_of

FEW = 30
"""Pixels in a slice that are neither nothing nor enough."""


def main(name: str, data: str) -> None:
    """Print slope and offset, and what they make of the scans that they were fitted to."""
    pipeline = pipelines.build(preset.find(name), device.select("cpu"))
    margins, truths = [], []
    for each in shown(Path(data), "validation"):
        plane = plane_of(each.scan)
        for concept, text in CONCEPTS.items():
            pixels = np.full(plane.count, 0 if concept != each.concept else FEW)
            if each.drawn is not None and concept == each.concept:
                pixels = np.array([np.count_nonzero(plane.take(each.drawn, index)) for index in range(plane.count)])
            clear = (pixels == 0) | (pixels >= FEW)
            margins.append(pipeline.presence(each.scan, said(text))[0][0, clear])
            truths.append(pixels[clear] > 0)
    margin, truth = np.concatenate(margins), np.concatenate(truths)
    weight = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())

    def loss(line: np.ndarray) -> float:
        return float((weight * np.logaddexp(0, np.where(truth, -1, 1) * (line[0] * margin + line[1]))).sum())

    slope, offset = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    there = slope * margin + offset >= 0
    sys.stdout.write(
        f"slope: {slope:.4f}\noffset: {offset:.4f}\n# found in {there[truth].mean():.4f} of {truth.sum()} slices "
        f"with it and in {there[~truth].mean():.4f} of {(~truth).sum()} without\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
