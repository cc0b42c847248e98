"""A training run's folder: what goes in at the start, and the preset that comes out at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg_cli import pipelines
from medseg_cli.datasets import Case, Split, read_dataset, split_cases
from medseg_cli.errors import InputError, ModelError
from medseg_cli.pipelines.choices import Choices
from medseg_cli.preset import Preset
from medseg_cli.training.checkpoints import CHECKPOINT
from medseg_cli.training.export import export
from medseg_cli.training.facts import RunFacts
from medseg_cli.training.loop import fit
from medseg_cli.training.plan import Plan, Progress
from medseg_cli.training.recipe import recipe_of
from medseg_cli.writers.atomic import atomic_output

SPLIT = "split.json"
METHOD = Choices()


def train(
    dataset: Path,
    base: Preset,
    start: Path | None,
    plan: Plan,
    run: Path,
    report: Callable[[Progress], None],
    choices: Choices = METHOD,
) -> Path:
    """Train on a dataset and leave a usable preset in `run`.

    Args:
        dataset: folder in the Medical Segmentation Decathlon layout.
        base: preset that says what to train and how scans are fed.
        start: initial weights, None for random ones.
        plan: the training plan; `plan.seed` also makes the split.
        run: folder for checkpoint, log, split, weights and preset.
        report: called after each validation.
        choices: what is trained, and what an object is.

    Returns:
        The path of the run's preset.yaml.
    """
    found = read_dataset(dataset)
    split = split_cases(found.cases, plan.seed)
    # A preset of an automatic method is completed from the data; all others come back as they are.
    base = pipelines.plan(base, found.labels, split.train)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the run folder {run}: {error.strerror}", "give a writable folder with -o"
        ) from error
    _start_or_resume(run, {"dataset": dataset.resolve().name, "preset": base.name, **_ids(split)})
    model = fit(recipe_of(base, start, choices), split, plan, run, report)
    facts = RunFacts(dataset.resolve().name, plan, choices, "", {}, plan.steps, 0.0, 0.0)
    return export(model, base, facts, run)


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


def _ids(split: Split) -> dict[str, list[str]]:
    return {
        "train": [case.id for case in split.train],
        "validation": [case.id for case in split.validation],
        "test": [case.id for case in split.test],
    }


def _write_text(path: Path, text: str) -> None:
    with atomic_output(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")
