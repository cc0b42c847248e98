"""`medseg finetune`: train a preset's network on a local dataset; the result is a preset again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medseg_cli.commands import options

if TYPE_CHECKING:
    from medseg_cli.preset import Preset
    from medseg_cli.training.plan import Progress


def finetune(
    dataset: Annotated[Path, typer.Argument(help="Folder of scans with masks; docs/datasets.md lists the layouts.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder; a run that is there is resumed.")],
    preset: options.PresetName,
    start: Annotated[
        Literal["preset", "scratch"], typer.Option(help="Begin with the preset's weights, or with random ones.")
    ] = "preset",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the whole run.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Crops or pictures per step.")] = 2,
    learning_rate: Annotated[float, typer.Option(min=1e-7, max=1.0, help="Peak learning rate of AdamW.")] = 2e-4,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations and checkpoints.")] = 100,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_json: options.LogJson = "",
) -> None:
    """Train a preset's network on your own scans and masks.

    The run folder gets preset.yaml and weights.safetensors: `medseg segment SCAN --preset RUN` uses them at once.
    15 % of the cases are held back as test cases, unless the dataset names its own; split.json lists them. The same
    command resumes a stopped run.
    """
    # With JSON lines on stderr, nothing else may stand there.
    quiet = options.start_talking(quiet, verbose, debug, log_json) == "quiet" or log_json == "-"

    from medseg_cli import device as devices
    from medseg_cli import preset as presets
    from medseg_cli import weights
    from medseg_cli.training import run
    from medseg_cli.training.plan import Plan

    base = presets.find(preset)
    runtime = devices.select(device, precision, seed, deterministic)
    names = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    plan = Plan(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        validate_every=validate_every,
        seed=seed,
        precision=names[runtime.precision],
        accelerator=runtime.device.type,
        device=runtime.device.index or 0,
    )
    if base.weights is None and not quiet:
        typer.echo(f"preset {base.name} has no weights: training starts from random ones", err=True)
    initial = weights.resolve(base).path if start == "preset" and base.weights is not None else None
    path = run.train(dataset, base, initial, plan, output, lambda line: _tell(line, quiet))
    if not quiet:
        typer.echo(f"done: {_usage(base, path.parent)}", err=True)


def _usage(base: Preset, run: Path) -> str:
    """The command that uses a run."""
    kinds = base.prompts.kinds
    prompt = "--point X,Y,Z" if "point" in kinds else "--box X0,Y0,Z0,X1,Y1,Z1"
    if base.dims == 2:
        prompt = "" if base.prompts.whole_image else "--point X,Y" if "point" in kinds else "--box X0,Y0,X1,Y1"
    if base.prompts.automatic:
        prompt = ""
    name = "MASK.png" if base.dims == 2 else "MASK.nii.gz"
    return f"medseg segment SCAN -o {name} --preset {run} {prompt}".rstrip()


def _tell(line: Progress, quiet: bool) -> None:
    """One line per validation, and one log record."""
    import logging
    from dataclasses import asdict

    logging.getLogger("medseg.finetune").info("step %d", line.step, extra={"fields": asdict(line)})
    if not quiet:
        typer.echo(
            f"step {line.step}: loss {line.loss:.4f}, validation Dice {line.dice:.4f}, "
            f"learning rate {line.learning_rate:.2e}, {line.seconds:.0f} s",
            err=True,
        )
