"""Option types that `medseg batch` alone has. No heavy import: `medseg batch --help` loads this file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medseg_cli.commands.options import COMPUTING, WRITING

CASES, RUN = "Cases", "Running"

Input = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="Folder with all below it, BIDS dataset, DICOM tree or zip, manifest (CSV, JSON, YAML), dataset's list.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="Folder of masks, cases.csv, cases.jsonl and report.html."),
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Only paths or cases like this; may be repeated.", rich_help_panel=CASES),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Not these; may be repeated.", rich_help_panel=CASES),
]
Shard = Annotated[
    str,
    typer.Option(metavar="I/N", help="The I-th of N equal parts, I from 1: for job arrays.", rich_help_panel=CASES),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Run N cases at most; those that are finished do not count.", rich_help_panel=CASES
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed", help="Try failed cases again though nothing has changed since.", rich_help_panel=CASES
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="List cases, sizes, expected time and memory; read headers alone, write nothing.",
        rich_help_panel=CASES,
    ),
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="End with the first failed case.", rich_help_panel=RUN)]
Engine = Annotated[
    Literal["local", "ray", "slurm"],
    typer.Option(help="Where: on this machine, over a Ray cluster, or as a Slurm job array.", rich_help_panel=RUN),
]
RayAddress = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT|auto",
        help="Cluster of --engine ray.",
        show_default="a Ray of its own on this machine",
        rich_help_panel=RUN,
    ),
]
Shards = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Tasks of the job array of --engine slurm.", rich_help_panel=RUN),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Of each task: partition, time, gpus, mem, cpus, account...; may be repeated.",
        rich_help_panel=RUN,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Worker processes, each with its own model; 0 works in this process.",
        show_default="one per GPU; one without",
        rich_help_panel=COMPUTING,
    ),
]
Together = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Cases whose slices or crops may share batches of the network; masks then agree to rounding.",
        show_default="8 on a GPU; 1 on a CPU and with --deterministic",
        rich_help_panel=COMPUTING,
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=1e6,
        metavar="GIB",
        help="What all cases in flight may need together.",
        show_default="80 % of what is free",
        rich_help_panel=COMPUTING,
    ),
]
OverwriteUnclaimed = Annotated[
    bool,
    typer.Option(
        "--overwrite/--no-overwrite",
        help="Replace files in the output folder that are not from a batch, too.",
        rich_help_panel=WRITING,
    ),
]
