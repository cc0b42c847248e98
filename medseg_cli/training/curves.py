"""Loss and validation of a run as one picture."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.training.facts import RunFacts
from medseg_cli.writers.atomic import atomic_output

FILE = "curves.png"


def draw(run: Path, facts: RunFacts) -> Path:
    """Write `curves.png`: mean training loss between validations, and what validations measured from the start on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    steps = [line.step for line in facts.history]
    left.plot(steps, [line.loss for line in facts.history], color="tab:blue")
    left.set_xlabel("optimiser steps")
    left.set_ylabel("training loss", color="tab:blue")
    right = left.twinx()
    right.plot([0, *steps], [facts.before, *(line.dice for line in facts.history)], color="tab:orange", marker=".")
    right.axvline(facts.step, color="grey", linewidth=0.8, linestyle=":")
    right.set_ylim(0, 1)
    right.set_ylabel(f"validation {facts.metric}", color="tab:orange")
    left.set_title(
        f"{facts.dataset}: validation {facts.metric} {facts.before:.3f} before, {facts.dice:.3f} at step {facts.step}"
    )
    with atomic_output(run / FILE, overwrite=True) as part:
        figure.savefig(part, format="png")
    return run / FILE
