"""`medseg finetune`: train a preset's network on a local dataset; the result is a preset again."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medseg_cli.commands import finetune_options as own
from medseg_cli.commands import options

if TYPE_CHECKING:
    from medseg_cli.preset import Preset

LOGGER = logging.getLogger("medseg.finetune")


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

    from medseg_cli import pipelines
    from medseg_cli import preset as presets
    from medseg_cli.commands.finetune_display import Display
    from medseg_cli.errors import UsageError
    from medseg_cli.pipelines.choices import Choices
    from medseg_cli.training import job
    from medseg_cli.training.members import PRESET as ENSEMBLE
    from medseg_cli.training.plan import GAMMA, KEEP, Resources, Wishes
    from medseg_cli.training.run import Setup, train

    if resume is not None:
        asked: dict[str, object] = {"--output": output, "--preset": preset, "--peft": peft, "--rank": rank}
        asked |= {
            "--objects": objects,
            "--start": start if start != "preset" else None,
            "--weights": weights,
            "--epochs": epochs,
            "--steps": steps,
        }
        asked |= {"--batch-size": batch_size, "--accumulate": accumulate, "--learning-rate": learning_rate}
        asked |= {"--validate-every": validate_every, "--patience": patience, "--splits": splits, "--fold": fold}
        asked |= {"--feature-cache": feature_cache if feature_cache != "auto" else None}
        asked |= {"--precision": precision if precision != "auto" else None, "--amp": amp, "--seed": seed}
        asked |= {"--gradient-checkpointing": gradient_checkpointing if gradient_checkpointing != "auto" else None}
        asked |= {"--cycles": cycles, "--gamma": gamma, "--keep": keep}
        asked |= {"--released-code": released_code or None, "--shortest-caption": shortest_caption}
        asked |= {"--cnn-weights": cnn_weights or None, "--text-table": text_table or None}
        asked |= {"--boxes": boxes or None}
        own.refuse_with_resume(asked)
        todo = job.resumed(resume, dataset)
        # The same bits come of the same kind of device; another one has to be asked for.
        where = todo.device if device == "auto" else device
        runtime = own.runtime(where, todo.plan.precision, None, todo.plan.seed, deterministic or todo.deterministic)
    else:
        if dataset is None or output is None or preset is None:
            raise UsageError(
                "a new run needs DATASET, -o RUN and --preset NAME",
                "medseg finetune DATASET -o RUN --preset NAME, or medseg finetune --resume RUN",
            )
        runtime = own.runtime(device, precision, amp, seed or 0, deterministic)
        wanted = 0 if batch_size is None else own.number_or_auto("--batch-size", batch_size, 1)
        wishes = Wishes(
            epochs=epochs,
            steps=steps,
            batch_size="auto" if wanted is None else wanted or None,
            accumulate=accumulate or 1,
            learning_rate=learning_rate,
            validate_every=validate_every,
            patience=patience or 0,
            seed=seed or 0,
            precision=runtime.precision,
            cycles=cycles or 1,
            gamma=gamma or GAMMA,
            keep=keep or KEEP,
            released_rate=released_code and cycles is not None,
        )
        base = presets.find(preset)
        prompts, by_text = base.prompts, pipelines.find(base.pipeline).words == "map"
        own.check_sources(base, {"cnn": cnn_weights, "text_table": text_table, "boxes": boxes})
        if objects == "together" and prompts.tells_apart:
            raise UsageError(f"--objects together: preset {preset} tells every label apart", "leave it out")
        if objects is not None and by_text:
            raise UsageError(f"--objects {objects}: preset {preset} learns captions, which have none", "leave it out")
        if gradient_checkpointing == "on" and not by_text:
            raise UsageError(
                f"--gradient-checkpointing on is for image-text networks, and preset {preset} has none",
                "use --amp or a smaller --batch-size with --accumulate",
            )
        if released_code and not by_text and cycles is None:
            raise UsageError(f"--released-code: nothing of preset {preset}'s training differs from it", "leave it out")
        if cycles is None and (gamma is not None or keep is not None):
            raise UsageError(f"{'--keep' if gamma is None else '--gamma'} is of --cycles", "add --cycles 3")
        if rank is not None and peft != "lora":
            LOGGER.warning("--rank %s has no effect: it is of --peft lora", rank)
        choices = Choices(
            peft or "method",
            rank or Choices.rank,
            objects or prompts.objects,
            feature_cache,
            released_loss=released_code and by_text,
            checkpointing=gradient_checkpointing,
            shortest_caption=shortest_caption or 0,
            cnn=own.path_or_name(cnn_weights),
            text_table=str(Path(text_table).expanduser().resolve()) if text_table else "",
            boxes=str(Path(boxes).expanduser().resolve()) if boxes else "",
        )
        if start == "scratch" and weights is not None:
            raise UsageError("--start scratch contradicts --weights", "give one of them")
        todo = job.new(
            dataset, preset, start == "scratch", wishes, output, choices, splits, fold, weights=weights or ""
        )
    resources = Resources(
        runtime.device.type,
        runtime.device.index or 0,
        own.number_or_auto("--workers", workers, 0),
        strict,
        checkpoint_minutes,
    )
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
