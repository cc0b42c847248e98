"""`medseg finetune`: train a preset's network on a local dataset; the result is a preset again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medseg_cli.commands import finetune_options as own
from medseg_cli.commands import options

if TYPE_CHECKING:
    from medseg_cli.preset import Preset


def finetune(
    dataset: own.Dataset = None,
    output: own.Output = None,
    preset: own.PresetName = None,
    resume: own.Resume = None,
    start: own.Start = "preset",
    cnn_weights: own.CnnWeights = "",
    text_table: own.TextTable = "",
    boxes: own.Boxes = "",
    weights: own.Weights = None,
    peft: own.Peft = None,
    rank: own.Rank = None,
    objects: own.Objects = None,
    feature_cache: own.FeatureCache = "auto",
    cycles: own.Cycles = None,
    gamma: own.Gamma = None,
    keep: own.Keep = None,
    gradient_checkpointing: own.Checkpointing = "auto",
    released_code: own.Released = False,
    epochs: own.Epochs = None,
    steps: own.Steps = None,
    batch_size: own.BatchSize = None,
    accumulate: own.Accumulate = None,
    learning_rate: own.LearningRate = None,
    validate_every: own.ValidateEvery = None,
    patience: own.Patience = None,
    splits: own.Splits = None,
    fold: own.Fold = None,
    shortest_caption: own.ShortestCaption = None,
    workers: own.Workers = "auto",
    checkpoint_minutes: own.CheckpointMinutes = 10.0,
    strict: own.Strict = False,
    tracker: own.Tracker = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    amp: own.Amp = None,
    seed: own.Seed = None,
    deterministic: options.Deterministic = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_json: options.LogJson = "",
) -> None:
    """Train a preset's network on your own scans and masks.

    The run folder gets preset.yaml and weights.safetensors: `medseg segment SCAN --preset RUN` uses them at once.
    15 % of the cases are held back as test cases, unless the dataset or --splits says otherwise; split.json lists them.
    A run that was interrupted goes on with --resume, to the same weights as if nothing had happened.

    medseg finetune hippocampus/ -o runs/hippocampus --preset hippocampus-mr --epochs 20

    medseg finetune --resume runs/hippocampus
    """
    first = own.is_first_process()
    # Only one of torchrun's processes talks; the others still say why they fail.
    talk = options.start_talking(quiet or not first, verbose and first, debug and first, log_json if first else "")

    from medseg_cli.commands import finetune_task as task
    from medseg_cli.commands.finetune_display import Display
    from medseg_cli.training.members import PRESET as ENSEMBLE
    from medseg_cli.training.plan import Resources
    from medseg_cli.training.run import Setup, train

    typed = task.Typed(
        output=output,
        preset=preset,
        peft=peft,
        rank=rank,
        objects=objects,
        start=start,
        weights=weights,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        validate_every=validate_every,
        patience=patience,
        splits=splits,
        fold=fold,
        feature_cache=feature_cache,
        precision=precision,
        amp=amp,
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
        cycles=cycles,
        gamma=gamma,
        keep=keep,
        released_code=released_code,
        shortest_caption=shortest_caption,
        cnn_weights=cnn_weights,
        text_table=text_table,
        boxes=boxes,
    )
    if resume is not None:
        todo, runtime = task.resumed(resume, dataset, typed, device, deterministic)
    else:
        todo, runtime = task.begun(dataset, typed, device, deterministic)
    processes = task.number_or_auto("--workers", workers, 0)
    place = runtime.device
    resources = Resources(place.type, place.index or 0, processes, strict, checkpoint_minutes)
    with Display(talk, todo.run.name) as display:
        if resume is None and todo.base.weights is None and start == "preset":
            display.note(f"preset {todo.base.name} has no weights: training starts from random ones")
        setup = Setup(
            resources=resources,
            splits=todo.splits,
            fold=todo.fold,
            tracker=tracker or todo.tracker,
            command=own.command_line(sys.argv[1:]),
            preset=todo.preset,
            start_sha256=todo.start_sha256,
            moved=todo.moved,
            deterministic=runtime.deterministic,
            weights=todo.weights,
            on_step=display.stepped,
            tell=display.note,
        )
        path = train(todo.dataset, todo.base, todo.start, todo.plan, todo.run, display.validated, todo.choices, setup)
    if talk != "quiet":
        typer.echo(f"done: {_usage(todo.base, path.parent)}", err=True)
        if (path.parent / ENSEMBLE).is_file():
            typer.echo(f"together: {_usage(todo.base, path.parent / ENSEMBLE)}", err=True)


def _usage(base: Preset, run: Path) -> str:
    """The command that uses a run."""
    kinds = base.prompts.kinds
    prompt = "--point X,Y,Z" if "point" in kinds else "--box X0,Y0,Z0,X1,Y1,Z1"
    if kinds == ("text",):
        prompt = '--text "..."'
    elif base.dims == 2:
        prompt = "" if base.prompts.whole_image else "--point X,Y" if "point" in kinds else "--box X0,Y0,X1,Y1"
    if base.prompts.automatic:
        prompt = ""
    name = "MASK.png" if base.dims == 2 else "MASK.nii.gz"
    return f"medseg segment SCAN -o {name} --preset {shlex.quote(str(run))} {prompt}".rstrip()
