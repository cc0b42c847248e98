"""Option types that `medseg evaluate` alone has. No heavy import: `medseg evaluate --help` loads this file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medseg_cli.commands.options import READING, WRITING

PREDICTING = "With --preset"
SCORING = "Scoring"

First = Annotated[
    Path,
    typer.Argument(metavar="PRED|DATASET", help="Mask or folder of masks; with --preset, a dataset to predict first."),
]
Reference = Annotated[
    Path | None, typer.Argument(metavar="REF", help="Mask or folder of masks to compare with; names must match.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER|FILE",
        help="Folder for report.html, cases.csv and summary.json; or one of them by its suffix.",
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset", "-p", metavar="NAME|PATH", help="Predict DATASET with this preset.", rich_help_panel=PREDICTING
    ),
]
Cases = Annotated[
    Literal["test", "validation", "train", "all"],
    typer.Option(
        help="Part of the split; of a run's own split.json when --preset is a run folder.", rich_help_panel=PREDICTING
    ),
]
PromptKind = Annotated[
    Literal["usual", "click", "median-click", "box", "boxes", "text", "none"],
    typer.Option(
        help="What each reference gives: one random click, one at its middle pixel, its exact box, one box in each of "
        "its slices, or nothing; "
        "text = the words of --text instead; "
        "usual = what the preset is made for.",
        rich_help_panel=PREDICTING,
    ),
]
SplitSeed = Annotated[
    int, typer.Option(min=0, help="Seed of the split, for presets that are no run.", rich_help_panel=PREDICTING)
]
Splits = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="splits_final.json of nnU-Net or of `medseg dataset split`, or a run's split.json.",
        rich_help_panel=PREDICTING,
    ),
]
Fold = Annotated[
    int | None,
    typer.Option(min=0, help="Fold of --splits, or of the dataset's own folds.", rich_help_panel=PREDICTING),
]
Objects = Annotated[
    Literal["together", "apart"] | None,
    typer.Option(
        help="Score every label value by itself, or all values above 0 as one object. Usual: apart for files; with "
        "--preset, what it was trained for.",
        rich_help_panel=SCORING,
    ),
]
NsdMm = Annotated[
    str, typer.Option(metavar="MM[,MM]", help="Tolerances of the surface Dice, in mm.", rich_help_panel=SCORING)
]
ProtocolName = Annotated[
    Literal["ours", "samus"],
    typer.Option(
        "--protocol",
        help="samus: besides, what SAMUS's own evaluation computes in its frame of 256 pixels, row-wise HD included; "
        "with --preset, prompts as it gives them, one class after the other.",
        rich_help_panel=SCORING,
    ),
]
Ellipse = Annotated[
    bool,
    typer.Option(
        "--ellipse",
        help="Measure the ellipse of every object in pictures, too: circumference and axes. Labels that --preset "
        "declares ellipses, and cases whose dataset states a circumference, have it anyway.",
        rich_help_panel=SCORING,
    ),
]
Hit = Annotated[
    float,
    typer.Option(
        min=0.01, max=1, help="Share of a connected part that must be covered to be found.", rich_help_panel=SCORING
    ),
]
Against = Annotated[
    Path | None,
    typer.Option(
        metavar="PRED2|JSON",
        help="Another method on the same cases: its masks, or its summary.json; paired tests.",
        rich_help_panel=SCORING,
    ),
]
Missing = Annotated[
    Literal["fail", "empty"],
    typer.Option(
        help="A reference without a prediction fails, or is scored against an empty mask.", rich_help_panel=SCORING
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Names of label values: dataset.json, CSV, TSV, ITK-SNAP or Slicer table. Usual: the dataset.json beside "
        "or above REF.",
        rich_help_panel=READING,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FOLDER", help="Scans named like the references, for the pictures.", rich_help_panel=READING
    ),
]
ResampleTo = Annotated[
    Literal["ref"] | None,
    typer.Option(
        help="Move predictions onto the grid of their reference, nearest neighbour; else other grids are refused.",
        rich_help_panel=READING,
    ),
]
Worst = Annotated[int, typer.Option(min=0, max=100, help="Worst cases shown as pictures.", rich_help_panel=WRITING)]
