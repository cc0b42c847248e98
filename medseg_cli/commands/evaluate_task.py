"""What `medseg evaluate` is asked to measure: masks in files, or a dataset that a preset predicts first."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg_cli.datasets import Case
    from medseg_cli.evaluation import CaseResult, Evaluation, LabelTable, Measures, Protocol, Row, Rules, Scored, Shapes
    from medseg_cli.overrides import Overrides
    from medseg_cli.preset import Preset
    from medseg_cli.prompt import Prompt


@dataclass(frozen=True)
class Task:
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


@dataclass(frozen=True)
class Chosen:
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
    texts: Prompt
    overrides: Overrides


def predicted(
    chosen: Chosen,
    table: LabelTable | None,
    measures: Measures,
    computing: tuple[str, Any, bool],
    against: Path | None,
) -> Task:
    """A dataset, predicted case by case."""
    from medseg_cli import device, evaluation, pipelines
    from medseg_cli import preset as presets
    from medseg_cli.datasets import read_dataset
    from medseg_cli.overrides import with_options

    found = with_options(presets.find(chosen.preset), chosen.overrides)
    kind: Any = evaluation.usual_kind(found) if chosen.prompt == "usual" else chosen.prompt
    evaluation.check_kind(found, kind)
    objects = chosen.objects or evaluation.usual_objects(found, kind)
    _check_texts(kind, found, chosen)
    dataset = read_dataset(chosen.dataset)
    values = evaluation.values_of(chosen.texts, dataset.labels) if kind == "text" else (None,)
    classes = evaluation.classes_of(dataset.labels, kind, objects) if measures.samus else ()
    protocol = evaluation.Protocol(
        kind, chosen.seed, objects, _slices(found), chosen.texts, values, measures.samus, classes
    )
    measures = replace(measures, shapes=_shapes(found, measures.shapes.every))
    cases = _part(dataset.cases, found, chosen)
    rows, name = ((), "") if against is None else (_earlier(against), against.name)
    where, precision, deterministic = computing
    pipeline = pipelines.build(found, device.select(where, precision, chosen.seed, deterministic))
    return Task(
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


def _shapes(preset: Preset, every: bool) -> Shapes:
    """Which of a preset's objects have an ellipse; what is prompted takes after its first label."""
    from medseg_cli.evaluation import Shapes

    rims = {label.value: label.rim for label in preset.labels if label.shape == "ellipse"}
    prompted = not preset.prompts.automatic and bool(preset.labels) and preset.labels[0].shape == "ellipse"
    return Shapes(every, rims, preset.labels[0].rim if prompted else None)


def _check_texts(kind: str, preset: Preset, chosen: Chosen) -> None:
    """Raises: UsageError, where there are texts and nobody asks for them, or the other way round."""
    from medseg_cli.errors import UsageError
    from medseg_cli.pipelines.text_known import check_texts, example

    if kind == "text" and not chosen.texts.targets:
        hint = f'add --text "{example(preset)}", the same for all cases'
        raise UsageError(f"preset {preset.name} needs a text", hint)
    if chosen.texts.targets and "text" not in preset.prompts.kinds:
        raise UsageError(f"preset {preset.name} takes no text", "leave --text out")
    if kind != "text" and chosen.overrides.detector is not None:
        raise UsageError("--detector finds what --text says", 'add --prompt text and --text "WHAT", or leave it out')
    if kind != "text" and chosen.overrides.text_model is not None:
        raise UsageError("--text-model embeds what --text says", 'add --prompt text and --text "WHAT", or leave it out')
    if kind != "text" and chosen.texts.targets:
        raise UsageError(f"--text goes with --prompt text, not with {kind}", f"leave it out: {preset.name}")
    check_texts(preset, chosen.texts)


def _part(cases: tuple[Case, ...], preset: Preset, chosen: Chosen) -> tuple[Case, ...]:
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


def _preset_facts(preset: Preset, chosen: Chosen, protocol: Protocol) -> dict[str, Any]:
    own = chosen.overrides
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
        "texts": [asdict(target.text) for target in protocol.texts.targets if target.text],
        "detector": None if own.detector is None else Path(own.detector).name,
        "text_model": None if own.text_model is None else Path(own.text_model).name,
        "smooth_time": own.smooth_time,
        "sector": own.sector,
        "mirror": own.mirror,
        "redraw": own.redraw,
        "samples": own.samples,
        "click_seed": protocol.seed if protocol.kind == "click" else None,
        "protocol": "samus" if protocol.samus else "ours",
    }


def in_files(
    prediction: Path,
    reference: Path,
    images: Path | None,
    rules: Rules,
    against: Path | None,
    seed: int,
    told: tuple[str, ...] = (),
) -> Task:
    """Masks that exist already."""
    from medseg_cli import evaluation

    matched = evaluation.match(prediction, reference, images)
    notes = [*rules.table.notes, *told]
    if matched.extra:
        names = ", ".join(path.name for path in matched.extra[:5]) + (" ..." if len(matched.extra) > 5 else "")
        notes.append(f"predictions without a reference are not scored ({len(matched.extra)}): {names}")
    rows: tuple[Row, ...] = ()
    if against is not None and (against.suffix.lower() == ".json" or (against / "report.html").is_file()):
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
        "protocol": "samus" if rules.measures.samus else "ours",
    }
    return Task(
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


def assemble(task: Task, results: list[CaseResult], interrupted: bool) -> Evaluation:
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
    return replace(found, notes=notes)


def _command() -> str:
    return shlex.join(["medseg", *sys.argv[1:]])


def _slices(chosen: Preset) -> Any:
    """The plane in which a preset slices volumes; the pipeline has checked it."""
    return chosen.options.get("slices", "finest")
