"""Options of `medseg finetune`. Heavy imports have no place here: `medseg --help` loads this file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from medseg_cli.commands.options import COMPUTING

LEARNING, DATA, RUN = "Learning", "Data", "Run"

Dataset = Annotated[
    Path | None,
    typer.Argument(help="Folder or listing of scans with masks; docs/datasets.md lists the layouts."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="RUN", help="Run folder; the same command resumes a run that is there."),
]
PresetName = Annotated[
    str | None,
    typer.Option("--preset", "-p", metavar="NAME|PATH", help="Preset: a name of `medseg presets list` or a YAML file."),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Go on with a run as its folder says; DATASET only if it was moved."),
]
Start = Annotated[
    Literal["preset", "scratch"],
    # torchrun takes --start, wherever it stands, for the beginning of an option of its own.
    typer.Option("--start", "--begin", help="Begin with the preset's weights, or with random ones."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="NAME|FILE|RUN", help="Weights to begin with instead of the preset's, or an earlier RUN's."
    ),
]
Peft = Annotated[
    Literal["method", "adapter", "lora", "full", "decoder"] | None,
    typer.Option(
        help="What of the network learns; method = what the method's paper trains (default: method).",
        rich_help_panel=LEARNING,
    ),
]
Rank = Annotated[int | None, typer.Option(min=1, help="Rank of --peft lora (default: 8).", rich_help_panel=LEARNING)]
FeatureCache = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        help="Keep what a frozen encoder makes of a picture; auto = where the recipe can.", rich_help_panel=LEARNING
    ),
]
Objects = Annotated[
    Literal["together", "apart"] | None,
    typer.Option(
        help="All label values are one object, or each is one of its own (default: as the preset says).",
        rich_help_panel=LEARNING,
    ),
]
Checkpointing = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--gradient-checkpointing",
        help="Less memory, more time: image-text networks compute again what they need; auto = large ones.",
        rich_help_panel=LEARNING,
    ),
]
Released = Annotated[
    bool,
    typer.Option(
        "--released-code",
        help="As the method's published code computes it where that differs from the paper; docs/finetune.md.",
        rich_help_panel=LEARNING,
    ),
]
CnnWeights = Annotated[
    str,
    typer.Option(
        "--cnn-weights",
        metavar="FILE|NAME|random",
        help="Weights of CC-SAM's frozen CNN: a ResNet, or a SAM-UNet.",
        rich_help_panel=LEARNING,
        show_default=False,
    ),
]
TextTable = Annotated[
    str,
    typer.Option(
        "--text-table",
        metavar="FILE",
        help="Embedded texts that CC-SAM learns as prompts (medseg weights embed-text).",
        rich_help_panel=LEARNING,
        show_default=False,
    ),
]
Boxes = Annotated[
    str,
    typer.Option(
        "--boxes",
        metavar="JSON",
        help="Boxes that a detector found in the dataset (medseg dataset boxes), which CC-SAM learns from besides.",
        rich_help_panel=LEARNING,
        show_default=False,
    ),
]
ShortestCaption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Leave out captions of fewer characters.", rich_help_panel=DATA),
]
Cycles = Annotated[
    int | None,
    typer.Option(
        min=2, help="Let the rate fall and start again so often, and make an ensemble.", rich_help_panel=LEARNING
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(min=0.01, max=1.0, help="Share of a cycle in which its rate falls (0.8).", rich_help_panel=LEARNING),
]
Keep = Annotated[
    int | None,
    typer.Option(min=1, help="Checkpoints that a cycle gives to the ensemble (3).", rich_help_panel=LEARNING),
]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Length: an epoch shows every training case once.", rich_help_panel=LEARNING),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Length in optimiser steps.", rich_help_panel=LEARNING)]
BatchSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto", help="Samples that go through the network together; auto tries.", rich_help_panel=LEARNING
    ),
]
Accumulate = Annotated[
    int | None, typer.Option(min=1, help="Batches per optimiser step (default: 1).", rich_help_panel=LEARNING)
]
LearningRate = Annotated[
    float | None, typer.Option(min=1e-7, max=1.0, help="Peak learning rate of AdamW.", rich_help_panel=LEARNING)
]
ValidateEvery = Annotated[
    int | None, typer.Option(min=1, help="Optimiser steps between validations.", rich_help_panel=LEARNING)
]
Patience = Annotated[
    int | None,
    typer.Option(min=1, help="End after that many validations without a better Dice.", rich_help_panel=LEARNING),
]
Amp = Annotated[
    bool | None,
    typer.Option(
        "--amp/--no-amp", help="Mixed precision: bf16 where the device has it, else fp16.", rich_help_panel=COMPUTING
    ),
]
Splits = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Who trains and validates: splits_final.json, or a split.json.", rich_help_panel=DATA
    ),
]
Fold = Annotated[
    int | None, typer.Option(min=0, help="Which fold of --splits, or of the dataset itself.", rich_help_panel=DATA)
]
Workers = Annotated[
    str,
    typer.Option(
        metavar="N|auto", help="Processes that draw samples; 0 = none. No effect on results.", rich_help_panel=DATA
    ),
]
CheckpointMinutes = Annotated[
    float, typer.Option(min=0.0, help="Longest time between checkpoints, in minutes.", rich_help_panel=RUN)
]
Strict = Annotated[
    bool, typer.Option("--strict/--no-strict", help="Stop when memory runs out, halve nothing.", rich_help_panel=RUN)
]
Tracker = Annotated[
    Literal["tensorboard", "mlflow", "wandb", "none"] | None,
    typer.Option(help="Where curves go besides the run folder (default: tensorboard).", rich_help_panel=RUN),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Start of every random number (default: 0).", rich_help_panel=COMPUTING)
]


def is_first_process() -> bool:
    """Whether this is the process that talks and writes: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ


def command_line(words: list[str]) -> str:
    """The command as it was typed, for the record; of torchrun the number of processes."""
    import shlex

    typed = shlex.join(words)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return f"medseg {typed}"
    return f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']} -m medseg_cli {typed}"
