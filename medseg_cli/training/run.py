"""A training run and its folder: what goes in at the start, and the preset that comes out at the end."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
from lightning_fabric import Fabric

from medseg_cli import pipelines, preset
from medseg_cli.datasets import Case, Split, read_dataset, read_splits, split_cases
from medseg_cli.datasets.captions import without_short
from medseg_cli.datasets.ellipses import drawn_as_ellipses
from medseg_cli.datasets.limits import quality_of
from medseg_cli.errors import InputError, MedsegError, ModelError, UsageError
from medseg_cli.pipelines.choices import Choices
from medseg_cli.preset import Preset
from medseg_cli.preset_quality import Quality
from medseg_cli.training import checkpoints, record
from medseg_cli.training.batch_probe import largest_batch
from medseg_cli.training.card import write_card
from medseg_cli.training.curves import draw
from medseg_cli.training.export import export
from medseg_cli.training.facts import RunFacts
from medseg_cli.training.loop import Fitted, fit
from medseg_cli.training.plan import Plan, Progress, Resources, Stepped, Wishes
from medseg_cli.training.processes import fabric_of, gathered, machine
from medseg_cli.training.recipe import Recipe, recipe_of
from medseg_cli.training.record import SPLIT, Record, TrackerName
from medseg_cli.training.trackers import tracker_of
from medseg_cli.writers.atomic import atomic_output

LOGGER = logging.getLogger("medseg.training")

METHOD = Choices()
LOCK = ".lock"
FEATURES = "features"
"""Folder of what a frozen encoder made of the training pictures."""


@dataclass(frozen=True)
class Setup:
    """How a run is carried out; nothing here is the method's.

    Args:
        resources: device, workers.
        splits, fold: who trains and validates (`read_splits`); both None = drawn by the plan's seed.
        tracker: where curves go besides log.csv and curves.png.
        command: the command line, for the record.
        preset: the preset as the user named it.
        start_sha256: of the weights it begins with; "" = random ones.
        moved: the run is resumed by its folder, and the dataset may have another name than at its start.
        deterministic: only algorithms are used that give the same bits again, for the record.
        weights: those that the user named instead of the preset's, for the record; "" = none.
        on_step: called after each step.
        tell: called with what a user wants to know at the beginning.
    """

    resources: Resources = Resources()  # noqa: RUF009  # frozen
    splits: Path | None = None
    fold: int | None = None
    tracker: TrackerName = "none"
    command: str = ""
    preset: str = ""
    start_sha256: str = ""
    moved: bool = False
    deterministic: bool = False
    weights: str = ""
    on_step: Callable[[Stepped], None] = lambda stepped: None
    tell: Callable[[str], None] = lambda text: None


HERE = Setup()


def train(
    dataset: Path,
    base: Preset,
    start: Path | None,
    plan: Plan | Wishes,
    run: Path,
    report: Callable[[Progress], None],
    choices: Choices = METHOD,
    setup: Setup = HERE,
) -> Path:
    """Train on a dataset and leave a usable preset in `run`; a run that is there is resumed.

    Args:
        dataset: folder or listing, in any layout of `datasets`.
        base: preset that says what to train and how scans are fed.
        start: initial weights, None for random ones.
        plan: the training plan, or what is wished of it; its seed also makes the split.
        run: folder for checkpoint, log, split, weights and preset.
        report: called after each validation.
        choices: what is trained, and what an object is.
        setup: device, split, tracker.

    Returns:
        The path of the run's preset.yaml.

    Raises:
        InputError: the dataset or the folder cannot be used.
        ModelError: the folder holds another run, or training diverged.
    """
    if plan.cycles > 1 and not pipelines.find(base.pipeline).ensemble:
        can = ", ".join(name for name, each in pipelines.PIPELINES.items() if each.ensemble)
        raise UsageError(f"--cycles makes an ensemble, which pipeline {base.pipeline} cannot be", f"{can} can")
    fabric = fabric_of(setup.resources, plan.precision)
    found = read_dataset(dataset)
    if choices.shortest_caption:
        found = without_short(found, choices.shortest_caption)
    for note in found.notes:
        setup.tell(note)
    split = (
        split_cases(found.cases, plan.seed)
        if setup.splits is None and setup.fold is None
        else read_splits(setup.splits, found.cases, setup.fold or 0)
    )
    # A preset of an automatic method is completed from the data; all others come back as they are.
    base = pipelines.plan(base, found.labels, split.train)
    recipe = recipe_of(base, start, replace(choices, features=run / FEATURES))
    with _owned(run, fabric):
        settled = _settled(plan, recipe, split, run, fabric, setup.tell)
        asked = Record(
            setup.command,
            str(dataset.resolve()),
            setup.preset or base.name,
            preset.dump(base),
            setup.start_sha256,
            choices,
            settled,
            setup.tracker,
            record.installed(),
            setup.resources.accelerator,
            setup.deterministic,
            setup.weights,
        )
        # A resumed run has its record before its first checkpoint.
        if setup.moved or checkpoints.exists(run):
            begun = record.continued(run, asked, base.name, split, setup.moved)
        else:
            begun = asked
            if fabric.is_global_zero:
                record.begin(run, begun, base.name, split)
        fabric.barrier()
        with tracker_of(setup.tracker if fabric.is_global_zero else "none", run, begun) as tracker:

            def validated(line: Progress) -> None:
                measured = {line.metric.lower(): line.dice, **line.also}
                validation = {f"{name}/validation": value for name, value in measured.items()}
                tracker(line.step, {"loss/train": line.loss, **validation})
                report(line)

            def stepped(step: Stepped) -> None:
                tracker(step.step, {"loss/step": step.loss, "learning_rate": step.learning_rate})
                setup.on_step(step)

            fitted = fit(recipe, split, settled, run, validated, setup.resources, stepped, fabric, setup.tell)
        if fabric.is_global_zero:
            _finish(fitted, recipe, base, begun, split, run, machine(fabric))
        fabric.barrier()
    return run / preset.RUN_FILE


def _finish(fitted: Fitted, recipe: Recipe, base: Preset, begun: Record, split: Split, run: Path, machine: str) -> None:
    """Weights, preset, curves and model card."""
    state = fitted.state
    facts = RunFacts(
        Path(begun.dataset).name,
        begun.plan,
        begun.choices,
        begun.start,
        {part: len(ids) for part, ids in record.ids_of(split).items()},
        state.best_step,
        state.best_dice,
        -1.0 if state.before is None else state.before,
        tuple(state.history),
        begun.command,
        recipe.defaults.metric,
        captions=any(case.captioned for case in split.train),
    )
    for needed in getattr(recipe, "beside", ()):
        with atomic_output(run / needed.name, overwrite=True) as part:
            shutil.copyfile(needed, part)
    base = _with_true_shapes(base, facts, split)
    export(fitted.network, base, facts, run, _quality(base, facts, split))
    draw(run, facts)
    write_card(run, base, facts, begun, machine, state.seconds)
    if facts.start and facts.dice < facts.before:
        LOGGER.warning(
            "the best validation %s, %.4f, is lower than that of the weights it began with, %.4f",
            facts.metric,
            facts.dice,
            facts.before,
        )


def _with_true_shapes(base: Preset, facts: RunFacts, split: Split) -> Preset:
    """The preset, which draws ellipses as masks, and says how much wider masks are than what is measured, only where
    the masks that were learnt are ellipses: `rim` is that of drawn ones."""
    if not any(label.redraw or label.rim for label in base.labels):
        return base
    try:
        if drawn_as_ellipses(split.train):
            return base
        why = f"the masks of {facts.dataset} are no ellipses"
    except MedsegError as error:
        why = error.message
    LOGGER.warning(
        "labels are not redrawn as ellipses any more, and ellipses are measured as large as they are "
        "(redraw: false, rim: 0 in the preset): %s",
        why,
    )
    plain = {"redraw": False, "rim": 0.0}
    return base.model_copy(update={"labels": tuple(label.model_copy(update=plain) for label in base.labels)})


def _quality(base: Preset, facts: RunFacts, split: Split) -> Quality | None:
    """Limits of the flags from the training cases; training is not lost where the cases are gone by now."""
    if any(case.captioned for case in split.train):
        return None  # what is segmented with it has no sizes yet
    try:
        source = f"training cases of {facts.dataset}, medseg finetune"
        return quality_of(split.train, base, facts.choices.objects, source)
    except MedsegError as error:
        LOGGER.warning("the preset flags less, for its limits could not be measured: %s", error.message)
        return None


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


@contextmanager
def _owned(run: Path, fabric: Fabric) -> Iterator[None]:
    """The folder exists, and no other run writes it meanwhile.

    Raises:
        InputError: it cannot be made, another process trains in it, or it holds a preset that no checkpoint belongs to.
    """
    if not fabric.is_global_zero:
        fabric.barrier()
        yield
        return
    lock = filelock.FileLock(run / LOCK, timeout=0)
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"another process is training in {run}", "wait for it, or give another folder with -o"
        ) from error
    except NotImplementedError:
        LOGGER.warning("the file system of %s knows no locks: see to it that no other run writes there", run)
    except OSError as error:
        raise InputError(
            f"cannot write the run folder {run}: {(error.strerror or str(error)).lower()}",
            "give a writable folder with -o",
        ) from error
    try:
        if (run / preset.RUN_FILE).exists() and not checkpoints.exists(run):
            raise InputError(
                f"{run} holds a {preset.RUN_FILE}, and no checkpoint that belongs to it", "give another folder with -o"
            )
        fabric.barrier()
        yield
    finally:
        lock.release()


def _settled(
    plan: Plan | Wishes, recipe: Recipe, split: Split, run: Path, fabric: Fabric, tell: Callable[[str], None]
) -> Plan:
    """The plan of the run: the recorded one's batch size where it was to be found out, for a run that goes on."""
    if isinstance(plan, Plan):
        return plan
    wished = plan.batch_size
    if wished == "auto" and checkpoints.exists(run):
        wished = record.read(run).plan.batch_size
    if wished == "auto":
        largest = largest_batch(fabric, recipe, split.train[0], max(1, len(split.train) // fabric.world_size))
        # The least of all processes, each of which has a device of its own.
        wished = int(min(gathered(fabric, largest))) * fabric.world_size
        tell(f"{wished} samples go through the network together (--batch-size auto)")
    defaults = recipe.defaults
    return plan.plan(defaults, wished or defaults.batch_size, len(split.train))
