"""A training run's folder: what goes in at the start, and the preset that comes out at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from medseg_cli import pipelines, preset
from medseg_cli.dataset import Case, Split, read_cases, split_cases
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.preset import Preset
from medseg_cli.preset_format import ShippedWeights
from medseg_cli.trainer import CHECKPOINT, Plan, Progress, Recipe, fit
from medseg_cli.weights.store import sha256_of
from medseg_cli.writers.atomic import atomic_output

WEIGHTS = "weights.safetensors"
SPLIT = "split.json"


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
    _start_or_resume(run, {"dataset": dataset.resolve().name, "preset": base.name, **_ids(split)})
    model = fit(recipe_of(base, start), split, plan, run, report)
    return export(model, base, plan, dataset, run)


def split_of(cases: tuple[Case, ...], of: Preset, seed: int) -> Split:
    """The split a run was trained with, when `of` is a run's preset; else the one that `seed` makes.

    Raises:
        ModelError: the run's split.json is unreadable or names cases that are not among `cases`.
    """
    path = of.path.parent / SPLIT if of.path is not None else Path(SPLIT)
    if of.path is None or not path.is_file():
        return split_cases(cases, seed)
    known = {case.id: case for case in cases}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        parts = [tuple(known[name] for name in facts[part]) for part in ("train", "validation", "test")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} does not fit this dataset: {error!r}", "evaluate on the dataset of the run, or with --cases all"
        ) from error
    return Split(*parts)


def _start_or_resume(run: Path, facts: dict[str, Any]) -> None:
    """Write split.json for a new run; refuse to resume a run of another preset, dataset or split.

    Raises:
        ModelError: the folder holds a checkpoint that was trained on something else.
    """
    path = run / SPLIT
    if not (run / CHECKPOINT).is_file():
        _write_text(path, json.dumps(facts, indent=1))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{run} holds a checkpoint, but {path.name} cannot be read: {error}", "use another -o"
        ) from error
    differing = [key for key in facts if before.get(key) != facts[key]]
    if differing:
        raise ModelError(
            f"{run} holds a run with another {', '.join(differing)}", "use the same options, or another folder with -o"
        )


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
        # safetensors makes files that only their owner can read; a run folder is often shared.
        part.chmod(0o644)
    weights = ShippedWeights(file=WEIGHTS, sha256=sha256_of(run / WEIGHTS))
    source = f"trained with medseg finetune on {dataset.name}, seed {plan.seed}, {plan.steps} steps"
    tuned = base.model_copy(
        update={
            "name": _preset_name(run),
            "title": f"{base.title} (trained on {dataset.resolve().name})",
            "weights": weights,
            "accuracy": (),
            "source": source,
            "licence": "not stated",
        }
    )
    _write_text(run / preset.RUN_FILE, preset.dump(tuned))
    return run / preset.RUN_FILE


def _preset_name(run: Path) -> str:
    """The run folder's name as presets spell names."""
    return re.sub(r"[^a-z0-9._-]+", "-", run.resolve().name.lower()).strip("-._")[:64] or "run"


def _ids(split: Split) -> dict[str, list[str]]:
    return {
        "train": [case.id for case in split.train],
        "validation": [case.id for case in split.validation],
        "test": [case.id for case in split.test],
    }


def _write_text(path: Path, text: str) -> None:
    with atomic_output(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")
