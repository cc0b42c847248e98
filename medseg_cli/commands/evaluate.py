"""`medseg evaluate`: measure a preset on labelled cases, prompted from their references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medseg_cli.commands import options

if TYPE_CHECKING:
    from medseg_cli.preset import Preset
    from medseg_cli.slices import PlaneName


def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Folder of scans with masks; docs/datasets.md lists the layouts.")],
    preset: options.PresetName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="JSON", help="Report with every case.")
    ] = None,
    cases: Annotated[
        Literal["test", "validation", "train", "all"],
        typer.Option(help="Part of the split; of a run's own split.json when --preset is a run folder."),
    ] = "test",
    prompt: Annotated[
        Literal["usual", "click", "box", "boxes", "none"],
        typer.Option(
            help="What each reference gives: one random click, its exact box, one box in each of its slices, or "
            "nothing; usual = what the preset is made for."
        ),
    ] = "usual",
    split_seed: Annotated[int, typer.Option(min=0, help="Seed of the split, for presets that are no run.")] = 0,
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
    """Dice, HD95 and volume error of a preset on a labelled dataset, each case prompted from its reference.

    medseg evaluate hippocampus-mr/ --preset hippocampus-mr -o scores.json

    medseg evaluate chest-xray-lungs/ --preset chest-xray-lungs --prompt box
    """
    # With JSON lines on stderr, nothing else may stand there.
    quiet = options.start_talking(quiet, verbose, debug, log_json) == "quiet" or log_json == "-"
    import json

    from medseg_cli import device as devices
    from medseg_cli import evaluation, pipelines
    from medseg_cli import preset as presets
    from medseg_cli.datasets import read_cases
    from medseg_cli.training.run import split_of
    from medseg_cli.writers.atomic import atomic_output, check_output

    if output is not None:
        check_output(output, overwrite=overwrite)
    chosen = presets.find(preset)
    kind = evaluation.usual_kind(chosen) if prompt == "usual" else prompt
    evaluation.check_kind(chosen, kind)
    found = read_cases(dataset)
    wanted = found if cases == "all" else getattr(split_of(found, chosen, split_seed), cases)
    pipeline = pipelines.build(chosen, devices.select(device, precision, seed, deterministic))

    def tell(result: evaluation.CaseScore) -> None:
        if not quiet:
            name = result.id if result.value is None else f"{result.id}, value {result.value}"
            typer.echo(f"{name}: Dice {result.score.dice:.4f}", err=True)

    results = evaluation.evaluate(pipeline, wanted, seed, tell, kind, _slices(chosen))
    summary = {
        "preset": chosen.name,
        "dataset": dataset.resolve().name,
        "part": cases,
        "split_seed": split_seed,
        "prompt": kind,
        "click_seed": seed if kind == "click" else None,
        **evaluation.summarise(results),
    }
    text = json.dumps({**summary, "metric_per_case": evaluation.rows(results)}, indent=1)
    if output is not None:
        with atomic_output(output, overwrite=overwrite) as part:
            part.write_text(text + "\n", encoding="utf-8")
    if as_json:
        typer.echo(text)
    elif not quiet:
        typer.echo(", ".join(f"{key} {value}" for key, value in summary.items()))


def _slices(chosen: Preset) -> PlaneName:
    """The plane in which a preset slices volumes."""
    name: PlaneName = chosen.options.get("slices", "finest")  # type: ignore[assignment]  # the pipeline has checked it
    return name
