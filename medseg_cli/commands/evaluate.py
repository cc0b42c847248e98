"""`medseg evaluate`: measure masks against references, from files or predicted by a preset first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from medseg_cli.commands import evaluate_options as own
from medseg_cli.commands import options
from medseg_cli.commands import segment_options as shared

if TYPE_CHECKING:
    from medseg_cli.evaluation import CaseResult, Evaluation

TOLD = ("Dice", "NSD", "HD95", "ASSD", "samus_Dice", "hd_rowwise", "frame_HD")
"""Beginnings of the metrics that the terminal shows."""


def evaluate(
    first: own.First,
    reference: own.Reference = None,
    output: own.Output = None,
    preset: own.Preset = "",
    cases: own.Cases = "test",
    prompt: own.PromptKind = "usual",
    text: shared.Texts = None,
    text_file: shared.TextFile = None,
    not_: shared.Nots = None,
    text_model: shared.TextModel = None,
    detector: shared.Detector = None,
    smooth_time: shared.SmoothTime = None,
    sector: shared.Sector = None,
    mirror: shared.Mirror = None,
    redraw: shared.Redraw = None,
    uncertainty: shared.Uncertainty = False,
    samples: shared.Samples = None,
    split_seed: own.SplitSeed = 0,
    splits: own.Splits = None,
    fold: own.Fold = None,
    objects: own.Objects = None,
    nsd_mm: own.NsdMm = "1,2",
    hit: own.Hit = 0.5,
    protocol: own.ProtocolName = "ours",
    ellipse: own.Ellipse = False,
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

    medseg evaluate xrays/ --preset medclip-sam --text "both lungs" -o report/
    """
    # With JSON lines on stderr, nothing else may stand there.
    quiet = options.start_talking(quiet, verbose, debug, log_json) == "quiet" or log_json == "-"
    from medseg_cli import evaluation
    from medseg_cli.commands.evaluate_task import Chosen, assemble, in_files, predicted
    from medseg_cli.errors import UsageError
    from medseg_cli.evaluation.summary import to_json
    from medseg_cli.overrides import Overrides
    from medseg_cli.prompt_text import texts_of

    report = evaluation.plan(output, overwrite) if output is not None else None
    measures = evaluation.Measures(_tolerances(nsd_mm), hit, protocol == "samus", evaluation.Shapes(ellipse))
    reading = options.read_options(None, None, spacing, "error", "error", "error")
    table = evaluation.read_table(labels) if labels else None
    words = texts_of(text or (), text_file, not_ or ())
    if text_model is not None and not preset:
        raise UsageError("--text-model goes with --preset and --text: it embeds what is said", "leave it out")
    if detector is not None and not preset:
        raise UsageError("--detector goes with --preset and --text: it finds what the words say", "leave it out")
    if words.targets and not preset:
        raise UsageError("--text goes with --preset: it says what to predict", "add --preset NAME")
    overrides = Overrides(
        smooth_time=smooth_time,
        sector=sector,
        mirror=mirror,
        redraw=redraw,
        uncertainty=uncertainty or None,
        samples=samples,
        text_model=text_model,
        detector=detector,
    )
    if overrides != Overrides() and not preset:
        raise UsageError(
            "--smooth-time, --sector, --mirror, --redraw and --uncertainty go with --preset: they say how to predict",
            "leave them out",
        )
    if preset:
        if reference is not None:
            raise UsageError(f"with --preset there is one dataset; {reference} is too many", "leave it out")
        for value, name in ((images, "--images"), (resample_to, "--resample-to"), (spacing, "--spacing")):
            if value is not None:
                raise UsageError(f"{name} goes with masks in files, not with --preset", f"leave {name} out")
        chosen = Chosen(first, preset, cases, split_seed, splits, fold, prompt, objects, seed, words, overrides)
        task = predicted(chosen, table, measures, (device, precision, deterministic), against)
    else:
        if reference is None:
            raise UsageError(
                f"nothing to compare {first} with",
                "give a reference after it, or --preset NAME to predict a dataset first",
            )
        facts, told = evaluation.sizes_beside(reference)
        rules = evaluation.Rules(
            table or evaluation.find_table(reference),
            objects or "apart",
            resample_to is not None,
            missing,
            reading,
            facts,
            measures,
        )
        task = in_files(first, reference, images, rules, against, seed, told)
    gathered = evaluation.Gathered([], [])
    interrupted = False
    try:
        evaluation.gather(task.scored, gathered, worst, lambda result: None if quiet else _tell_case(result))
    except KeyboardInterrupt:
        interrupted = True
    found = assemble(task, gathered.results, interrupted)
    if report is not None and not (task.total == 1 and found.failed):
        evaluation.write(report, found, gathered.pictures, overwrite)
    if as_json:
        typer.echo(to_json(evaluation.summary(found)), nl=False)
    elif not quiet:
        _tell(found)
    _end(found)


def _tell_case(result: CaseResult) -> None:
    """One line, however many labels the case has."""
    if result.failure:
        text = f"FAILED, {result.failure}"
    elif not result.objects:
        text = "both masks are empty"
    else:
        dice = [found.score.dice for found in result.objects]
        text = f"Dice {sum(dice) / len(dice):.4f}"
        if len(dice) > 1:
            worst = min(result.objects, key=lambda found: found.score.dice)
            text += f" over {len(dice)} labels, worst {worst.score.dice:.4f} (value {worst.value})"
    typer.echo(f"{result.id}: {text}", err=True)


def _tell(found: Evaluation) -> None:
    """Means and medians of every label, and what two methods differ by."""
    from medseg_cli.evaluation.doubt import told_doubts
    from medseg_cli.evaluation.ellipses import told_errors
    from medseg_cli.evaluation.statistics import metrics_of, spread
    from medseg_cli.evaluation.summary import comparisons

    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    for label in found.labels:
        rows = [row for row in found.rows if row.label == label]
        texts = []
        for name in metrics_of(rows):
            if name.startswith(TOLD) or name.endswith("error_relative"):
                figures = spread(rows, name, found.seed)
                if figures is not None:
                    undefined = f", undefined in {figures.undefined}" if figures.undefined else ""
                    texts.append(f"{name} {figures.mean:.4f} (median {figures.median:.4f}{undefined})")
        typer.echo(f"{found.label_name(label)}, {len(rows)} cases: {', '.join(texts)}", err=True)
        measured = [row.numbers for row in rows]
        for text in (*told_errors(measured), *told_doubts(measured)):
            typer.echo(f"{found.label_name(label)}: {text}", err=True)
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
        raise typer.Exit(errors.SOME_FAILED)


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
