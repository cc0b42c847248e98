"""What kept features of a frozen encoder save: processor seconds of a training step with `--peft decoder`.

    python examples/bench_features.py DATASET            # random weights of the published sizes: only time is measured

A step takes one picture of the first case with its boxes or clicks: loss and gradients of the decoder. "kept" is a step
whose features are there already.
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.torch import save_file

from medseg_cli import preset
from medseg_cli.datasets import read_cases
from medseg_cli.models import STARTS
from medseg_cli.pipelines.choices import Choices
from medseg_cli.training.recipe import recipe_of

PRESETS = ("chest-xray-lungs", "sam-unet", "sam-vit-b")
STEPS = 3


def random_weights(name: str, folder: Path) -> Path:
    """A file with random weights of a preset's sizes."""
    base = preset.find(name)
    module, function = STARTS[base.pipeline].split(":")
    network, _ = getattr(import_module(module), function)(base.model, 0)
    file = folder / f"{name}.safetensors"
    save_file(network.state_dict(), file)
    return file


def seconds(name: str, weights: Path, dataset: Path, cache: Literal["off", "on"]) -> tuple[float, float]:
    """Processor seconds of drawing a sample, and of a step with it; the best of several."""
    recipe: Any = recipe_of(preset.find(name), weights, Choices(peft="decoder", feature_cache=cache))
    network, study, rng = recipe.model(0).train(), recipe.load(read_cases(dataset)[0]), np.random.default_rng(0)
    drawing, steps = [], []
    for _ in range(1 + STEPS):
        started = time.process_time()
        samples = [recipe.sample(study, rng)]
        drawing.append(time.process_time() - started)
    for _ in range(1 + STEPS):  # the first one fills the cache
        started = time.process_time()
        recipe.loss(network, samples).backward()
        steps.append(time.process_time() - started)
    return min(drawing), min(steps[1:])


def main() -> None:
    """One line per preset."""
    dataset = Path(sys.argv[1])
    sys.stdout.write("| preset | draw a picture | step, computed | step, kept |\n|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder:
        for name in PRESETS:
            weights = random_weights(name, Path(folder))
            draw, computed = seconds(name, weights, dataset, "off")
            _, kept = seconds(name, weights, dataset, "on")
            sys.stdout.write(f"| `{name}` | {draw:.3f} s | {computed:.3f} s | {kept:.3f} s |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
