"""A training run's folder: what goes in at the start, and the preset that comes out at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from medseg_cli import pipelines, preset
from medseg_cli.dataset import Split, read_cases, split_cases
from medseg_cli.errors import InputError, UsageError
from medseg_cli.preset import Preset
from medseg_cli.preset_format import ShippedWeights
from medseg_cli.trainer import Plan, Progress, Recipe, fit
from medseg_cli.weights.store import sha256_of
from medseg_cli.writers.atomic import atomic_output

WEIGHTS = "weights.safetensors"


def recipe_of(base: Preset, start: Path | None) -> Recipe:
    """The training recipe of a preset's pipeline.

    Raises:
        UsageError: the pipeline cannot be trained here.
    """
    target = pipelines.find(base.pipeline).recipe
    if not target:
        raise UsageError(f"pipeline {base.pipeline} of preset {base.name} cannot be trained yet")
    module, name = target.split(":")
    recipe: Recipe = getattr(import_module(module), name)(base, start)
    return recipe


def train(
    dataset: Path, base: Preset, start: Path | None, plan: Plan, run: Path, report: Callable[[Progress], None]
) -> Path:
    """Train on a dataset and leave a usable preset in `run`.

    Args:
        dataset: folder in the Medical Segmentation Decathlon layout.
        base: preset that says what to train and how scans are fed.
        start: initial weights, None for random ones.
        plan: the training plan; `plan.seed` also makes the split.
        run: folder for checkpoint, log, split, weights and preset.
        report: called after each validation.

    Returns:
        The path of the run's preset.yaml.
    """
    split = split_cases(read_cases(dataset), plan.seed)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the run folder {run}: {error.strerror}", "give a writable folder with -o"
        ) from error
    _write_text(run / "split.json", json.dumps(_ids(split), indent=1))
    model = fit(recipe_of(base, start), split, plan, run, report)
    return export(model, base, plan, dataset, run)


def export(model: nn.Module, base: Preset, plan: Plan, dataset: Path, run: Path) -> Path:
    """Write the weights as safetensors and a preset that uses them; returns the preset's path."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {
        "preset": base.name,
        "pipeline": base.pipeline,
        "plan": json.dumps(asdict(plan)),
        "dataset": dataset.name,
    }
    with atomic_output(run / WEIGHTS, overwrite=True) as part:
        save_file(tensors, part, metadata)
    weights = ShippedWeights(file=WEIGHTS, sha256=sha256_of(run / WEIGHTS))
    source = f"trained with medseg finetune on {dataset.name}, seed {plan.seed}, {plan.steps} steps"
    tuned = base.model_copy(update={"weights": weights, "accuracy": (), "source": source})
    _write_text(run / preset.RUN_FILE, preset.dump(tuned))
    return run / preset.RUN_FILE


def _ids(split: Split) -> dict[str, list[str]]:
    return {
        "train": [case.id for case in split.train],
        "validation": [case.id for case in split.validation],
        "test": [case.id for case in split.test],
    }


def _write_text(path: Path, text: str) -> None:
    with atomic_output(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")
