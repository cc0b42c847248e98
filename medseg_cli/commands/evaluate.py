"""`medseg evaluate`: measure masks against references, from files or predicted by a preset first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medseg_cli.commands import evaluate_options as own
from medseg_cli.commands import options

if TYPE_CHECKING:
    from medseg_cli.datasets import Case
    from medseg_cli.evaluation import CaseResult, Evaluation, LabelTable, Measures, Row, Rules, Scored
    from medseg_cli.evaluation.prompting import Protocol
    from medseg_cli.preset import Preset

SOME_FAILED = 8
"""Exit code where some cases have scores and some have not."""


@dataclass(frozen=True)
class _Task:
    """Cases to come, and what the report says about them.

    Args:
        scored: the cases, worked out while they are asked for.
        total: how many.
        title, facts, notes, table: as in `Evaluation`.
        seed: of the bootstrap.
        fill: whether a label that a case lacks counts as empty there.
        against: rows of another method, and its name.
    """

    scored: Iterator[Scored]
    total: int
    title: str
    facts: dict[str, Any]
    notes: tuple[str, ...]
    table: LabelTable
    measures: Measures
    seed: int
    fill: bool
    against: tuple[Row, ...] = ()
    against_name: str = ""
    worst: int = field(default=6)


def evaluate(
    first: own.First,
    reference: own.Reference = None,
    output: own.Output = None,
    preset: own.Preset = "",
    cases: own.Cases = "test",
    prompt: own.PromptKind = "usual",
    split_seed: own.SplitSeed = 0,
    splits: own.Splits = None,
    fold: own.Fold = None,
    objects: own.Objects = None,
    nsd_mm: own.NsdMm = "1,2",
    hit: own.Hit = 0.5,
    against: own.Against = None,
    missing: own.Missing = "fail",
    labels: own.Labels = None,
    images: own.Images = None,
    resample_to: own.ResampleTo = None,
    spacing: options.Spacing = None,
    worst: own.Worst = 6,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_json: options.LogJson = "",
) -> None:
    """Dice, surface distances, volumes and parts found: masks against references, or a preset on a dataset.

    medseg evaluate predictions/ labelsTs/ -o report/

    medseg evaluate mine.nii.gz manual.nii.gz --images scan.nii.gz -o report.html

    medseg evaluate hippocampus-mr/ --preset hippocampus-mr -o report/
    """
    # With JSON lines on stderr, nothing else may stand there.
    quiet = options.start_talking(quiet, verbose, debug, log_json) == "quiet" or log_json == "-"
    from medseg_cli import evaluation
    from medseg_cli.errors import UsageError
    from medseg_cli.evaluation.summary import to_json

    report = evaluation.plan(output, overwrite) if output is not None else None
    measures = evaluation.Measures(_tolerances(nsd_mm), hit)
    reading = options.read_options(None, None, spacing, "error", "error", "error")
    table = evaluation.read_table(labels) if labels else None
    if preset:
        if reference is not None:
            raise UsageError(f"with --preset there is one dataset; {reference} is too many", "leave it out")
        for value, name in ((images, "--images"), (resample_to, "--resample-to"), (spacing, "--spacing")):
            if value is not None:
                raise UsageError(f"{name} goes with masks in files, not with --preset", f"leave {name} out")
        chosen = _Chosen(first, preset, cases, split_seed, splits, fold, prompt, objects, seed)
        task = _predicted(chosen, table, measures, (device, precision, deterministic), against)
    else:
        if reference is None:
            raise UsageError(
                f"nothing to compare {first} with",
                "give a reference after it, or --preset NAME to predict a dataset first",
            )
        rules = evaluation.Rules(
            table or evaluation.find_table(reference),
            objects or "apart",
            resample_to is not None,
            missing,
            reading,
            measures,
        )
        task = _in_files(first, reference, images, rules, against, seed)
    gathered = evaluation.Gathered([], [])
    interrupted = False
    try:
        evaluation.gather(task.scored, gathered, worst, lambda result: None if quiet else _tell_case(result))
    except KeyboardInterrupt:
        interrupted = True
    found = _assemble(task, gathered.results, interrupted)
    if report is not None and not (task.total == 1 and found.failed):
        evaluation.write(report, found, gathered.pictures, overwrite)
    if as_json:
        typer.echo(to_json(evaluation.summary(found)), nl=False)
    elif not quiet:
        _tell(found)
    _end(found)


@dataclass(frozen=True)
class _Chosen:
    """What the user said about a dataset that is predicted first."""

    dataset: Path
    preset: str
    part: str
    split_seed: int
    splits: Path | None
    fold: int | None
    prompt: str
    objects: Any
    seed: int


def _predicted(
    chosen: _Chosen,
    table: LabelTable | None,
    measures: Measures,
    computing: tuple[str, Any, bool],
    against: Path | None,
) -> _Task:
    """A dataset, predicted case by case."""
    from medseg_cli import device, evaluation, pipelines
    from medseg_cli import preset as presets
    from medseg_cli.datasets import read_dataset

    found = presets.find(chosen.preset)
    kind: Any = evaluation.usual_kind(found) if chosen.prompt == "usual" else chosen.prompt
    evaluation.check_kind(found, kind)
    objects = chosen.objects or evaluation.usual_objects(found, kind)
    protocol = evaluation.Protocol(kind, chosen.seed, objects, _slices(found))
    dataset = read_dataset(chosen.dataset)
    cases = _part(dataset.cases, found, chosen)
    rows, name = ((), "") if against is None else (_earlier(against), against.name)
    where, precision, deterministic = computing
    pipeline = pipelines.build(found, device.select(where, precision, chosen.seed, deterministic))
    return _Task(
        evaluation.score_preset(pipeline, cases, protocol, measures, found.name),
        len(cases),
        f"{found.name} on {chosen.dataset.resolve().name}",
        _preset_facts(found, chosen, protocol),
        dataset.notes,
        table or evaluation.LabelTable(dataset.labels),
        measures,
        chosen.seed,
        kind == "none",
        rows,
        name,
    )


def _part(cases: tuple[Case, ...], preset: Preset, chosen: _Chosen) -> tuple[Case, ...]:
    """The cases to measure.

    Raises:
        InputError: the split has none of them.
        UsageError: a split together with --cases all.
    """
    from medseg_cli.datasets import read_splits
    from medseg_cli.errors import InputError, UsageError
    from medseg_cli.training.run import split_of

    named = chosen.splits is not None or chosen.fold is not None
    if chosen.part == "all":
        if named:
            raise UsageError("--cases all takes no split", "leave --splits and --fold out, or choose other --cases")
        return cases
    split = read_splits(chosen.splits, cases, chosen.fold or 0) if named else split_of(cases, preset, chosen.split_seed)
    part: tuple[Case, ...] = getattr(split, chosen.part)
    if not part:
        raise InputError(f"the split has no {chosen.part} case", "choose --cases validation, train or all")
    return part


def _preset_facts(preset: Preset, chosen: _Chosen, protocol: Protocol) -> dict[str, Any]:
    return {
        "command": _command(),
        "preset": preset.name,
        "dataset": chosen.dataset.resolve().name,
        "part": chosen.part,
        "split_seed": None if chosen.splits or chosen.fold is not None else chosen.split_seed,
        "splits": str(chosen.splits) if chosen.splits else None,
        "fold": chosen.fold,
        "prompt": protocol.kind,
        "objects_are": protocol.objects,
        "click_seed": protocol.seed if protocol.kind == "click" else None,
    }


def _in_files(
    prediction: Path, reference: Path, images: Path | None, rules: Rules, against: Path | None, seed: int
) -> _Task:
    """Masks that exist already."""
    from medseg_cli import evaluation

    matched = evaluation.match(prediction, reference, images)
    notes = list(rules.table.notes)
    if matched.extra:
        names = ", ".join(path.name for path in matched.extra[:5]) + (" ..." if len(matched.extra) > 5 else "")
        notes.append(f"{len(matched.extra)} predictions have no reference and are not scored: {names}")
    rows: tuple[Row, ...] = ()
    if against is not None and against.suffix.lower() == ".json":
        rows = _earlier(against)
    elif against is not None:
        others = [each.result for each in evaluation.score_files(evaluation.match(against, reference).pairs, rules)]
        failed = [each for each in others if each.failure]
        if failed:
            notes.append(f"{len(failed)} cases of {against.name} failed: {failed[0].id}: {failed[0].failure}")
        rows = tuple(evaluation.rows_of(evaluation.completed(others, rules.measures)))
    facts = {
        "command": _command(),
        "prediction": str(prediction),
        "reference": str(reference),
        "objects_are": rules.objects,
        "resampled_to": "reference" if rules.resample else None,
        "missing_predictions": rules.missing,
        "label_names_from": rules.table.source or None,
        "ignored_label": rules.table.ignore,
    }
    return _Task(
        evaluation.score_files(matched.pairs, rules),
        len(matched.pairs),
        f"{prediction.resolve().name} against {reference.resolve().name}",
        facts,
        tuple(notes),
        rules.table,
        rules.measures,
        seed,
        True,
        rows,
        against.name if against else "",
    )


def _earlier(path: Path) -> tuple[Row, ...]:
    """Rows of an earlier report: its summary.json, or the folder that holds it."""
    from medseg_cli.evaluation import read_rows

    return read_rows(path / "summary.json" if path.is_dir() else path)


def _assemble(task: _Task, results: list[CaseResult], interrupted: bool) -> Evaluation:
    from medseg_cli import evaluation

    notes = list(task.notes)
    results = evaluation.completed(results, task.measures) if task.fill else results
    said: dict[str, int] = {}
    for note in (note for result in results for note in result.notes):
        said[note] = said.get(note, 0) + 1
    if len(results) == 1:
        notes += said
    elif said:
        notes.append(f"{sum(said.values())} notes on single cases are in summary.json, such as: {next(iter(said))}")
    found = evaluation.Evaluation(
        task.title,
        tuple(results),
        task.facts,
        task.table,
        task.measures,
        task.seed,
        tuple(notes),
        interrupted,
        task.total,
        task.against,
        task.against_name,
    )
    have = {(row.case, row.label) for row in found.rows}
    if task.against and not any((row.case, row.label) in have for row in task.against):
        notes.append(f"{task.against_name} has no case and label in common with this evaluation")
    return found if not notes else _with_notes(found, tuple(notes))


def _with_notes(found: Evaluation, notes: tuple[str, ...]) -> Evaluation:
    from dataclasses import replace

    return replace(found, notes=notes)


def _tell_case(result: CaseResult) -> None:
    if result.failure:
        typer.echo(f"{result.id}: FAILED, {result.failure}", err=True)
    for each in result.objects:
        name = result.id if each.value is None else f"{result.id}, value {each.value}"
        typer.echo(f"{name}: Dice {each.score.dice:.4f}", err=True)


def _tell(found: Evaluation) -> None:
    """Means and medians of every label, and what two methods differ by."""
    from medseg_cli.evaluation.statistics import metrics_of, spread
    from medseg_cli.evaluation.summary import comparisons

    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    for label in found.labels:
        rows = [row for row in found.rows if row.label == label]
        texts = []
        for name in metrics_of(rows):
            if name.startswith(("Dice", "NSD", "HD95", "ASSD")) or name.endswith("error_relative"):
                figures = spread(rows, name, found.seed)
                if figures is not None:
                    texts.append(f"{name} {figures.mean:.4f} (median {figures.median:.4f})")
        typer.echo(f"{found.label_name(label)}, {len(rows)} cases: {', '.join(texts)}", err=True)
    for each in comparisons(found):
        if each.label == "all":
            p = "no p value" if each.p is None else f"p {each.p:.3g}"
            typer.echo(
                f"{each.metric}: {each.difference:+.4f} against {found.against_name}, {each.n} objects, {p}", err=True
            )
    typer.echo(f"{len(found.scored)} of {found.total} cases scored", err=True)


def _end(found: Evaluation) -> None:
    """End as `docs/exit-codes.md` has it.

    Raises:
        KeyboardInterrupt: somebody stopped the run; what there was has been written.
        MedsegError: no case has a score.
        typer.Exit: some have none.
    """
    from medseg_cli import errors

    if found.interrupted:
        raise KeyboardInterrupt
    if found.failed and not found.scored:
        first = found.failed[0]
        kinds = {each.exit_code: each for each in (errors.ModelError, errors.DeviceError, errors.UsageError)}
        kind = kinds.get(first.exit_code, errors.InputError)
        if len(found.failed) == 1:
            raise kind(first.failure, first.hint)
        raise kind(f"none of {len(found.failed)} cases could be scored; {first.id}: {first.failure}", first.hint)
    if found.failed:
        raise typer.Exit(SOME_FAILED)


def _tolerances(text: str) -> tuple[float, ...]:
    """Raises: UsageError, unless it is positive numbers with commas between them."""
    from medseg_cli.errors import UsageError

    try:
        limits = tuple(sorted({float(part) for part in text.replace(" ", ",").split(",") if part}))
    except ValueError:
        limits = ()
    if not limits or not all(0 < limit < 1e4 for limit in limits):
        raise UsageError(f"--nsd-mm '{text}' is not a list of mm", "for example --nsd-mm 1,2")
    return limits


def _command() -> str:
    import shlex

    return shlex.join(["medseg", *sys.argv[1:]])


def _slices(chosen: Preset) -> Any:
    """The plane in which a preset slices volumes; the pipeline has checked it."""
    return chosen.options.get("slices", "finest")
