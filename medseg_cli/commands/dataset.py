"""`medseg dataset`: look through one, split it by patient, measure it, ask a detector about it, change its layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from medseg_cli.commands.dataset_display import how_many, progress, show

app = typer.Typer(
    no_args_is_help=True, help="Datasets: check one, split it by patient, measure what is usual, find boxes, convert."
)

DatasetPath = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder, or a JSON, CSV or task.yaml; docs/datasets.md lists layouts.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]
Channel = Annotated[int, typer.Option("--channel", min=0, help="Which channel of images with several, from 0.")]
Overwrite = Annotated[bool, typer.Option("--overwrite/--no-overwrite", help="Replace an output that exists.")]
GroupBy = Annotated[
    str,
    typer.Option(
        "--group-by", metavar="REGEX", help="Patient = what it matches in a case's name, or its first (group)."
    ),
]


@app.command("check")
def check(
    path: DatasetPath,
    preset: Annotated[str, typer.Option("--preset", "-p", help="Say also what this preset cannot learn from.")] = "",
    splits: Annotated[Path | None, typer.Option("--splits", help="File of splits to look through as well.")] = None,
    group_by: GroupBy = "",
    channel: Channel = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Open every scan and mask and list what is wrong. Ends with 3 if anything is, with 0 if nothing is.

    $ medseg dataset check hippocampus-mr/ --preset hippocampus-mr
    """
    from medseg_cli import preset as presets
    from medseg_cli.datasets import check as checking
    from medseg_cli.datasets.groups import grouped
    from medseg_cli.datasets.read import list_dataset
    from medseg_cli.datasets.summary import as_json as summarised
    from medseg_cli.errors import InputError

    chosen = presets.find(preset) if preset else None
    found = list_dataset(path, channel)
    found = grouped(found, group_by) if group_by else found
    beside = (path if path.is_dir() else path.parent) / "splits_final.json"
    files = [splits] if splits is not None else [beside] if beside.is_file() else []
    with progress("checking", len(found.cases), quiet or as_json) as tell:
        facts, findings = checking.check(found, chosen, files, tell)
    if as_json:
        typer.echo(json.dumps(summarised(str(path), found, facts, findings), indent=2, ensure_ascii=False))
    else:
        show(path, found, facts, findings)
    if findings:
        raise typer.Exit(InputError.exit_code)


@app.command("split")
def split(
    path: DatasetPath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="For example splits_final.json.")],
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validation of so many folds; 5 if nothing is said.")
    ] = None,
    test: Annotated[float | None, typer.Option(min=0, max=0.9, help="Share of the patients to hold back.")] = None,
    validation: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="Share that validates: one split instead of folds.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and cases give the same file everywhere.")] = 0,
    group_by: GroupBy = "",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Split a dataset by patient into a file that nnU-Net reads, and so do finetune and evaluate with --splits.

    $ medseg dataset split hippocampus-mr/ -o splits_final.json --folds 5

    $ medseg dataset split scans/ -o splits_final.json --test 0.15 --validation 0.07 --group-by '^[^_]+'
    """
    from medseg_cli.datasets import read_dataset, split_cases
    from medseg_cli.datasets.groups import grouped
    from medseg_cli.datasets.splits import as_nnunet, folds_of
    from medseg_cli.errors import UsageError
    from medseg_cli.writers.atomic import atomic_output

    if folds is not None and validation is not None:
        raise UsageError("--validation makes one split, --folds makes several", "give one of them")
    found = read_dataset(path)
    found = grouped(found, group_by) if group_by else found
    if validation is not None:
        made = [split_cases(found.cases, seed, 0.15 if test is None else test, validation)]
    else:
        made = list(folds_of(found.cases, folds or 5, seed, test or 0.0))
    with atomic_output(output, overwrite=overwrite) as part:
        part.write_text(json.dumps(as_nnunet(made), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not quiet:
        for number, each in enumerate(made):
            held = f", {len(each.test)} test" if each.test else ""
            name = f"fold {number}: " if len(made) > 1 else ""
            typer.echo(f"{name}{len(each.train)} train, {len(each.validation)} validate{held}", err=True)
        typer.echo(f"{how_many(found)}; wrote {output}", err=True)


@app.command("quality")
def quality(
    path: DatasetPath,
    preset: Annotated[str, typer.Option("--preset", "-p", help="Whose labels, modality and split count.")],
    part: Annotated[
        Literal["train", "all"], typer.Option("--cases", help="The training cases of the preset's split, or all.")
    ] = "train",
    split_seed: Annotated[int, typer.Option(min=0, help="Of the split, where the preset brings none.")] = 0,
    objects: Annotated[
        Literal["together", "apart"] | None,
        typer.Option(help="All label values of a case are one object, or each; as the preset says if not given."),
    ] = None,
    channel: Channel = 0,
    quiet: Quiet = False,
) -> None:
    """Measure what masks and scans are usually like, and print it as a preset's section of limits (docs/quality.md).

    $ medseg dataset quality hippocampus-mr/ --preset hippocampus-mr
    """
    from medseg_cli import preset as presets
    from medseg_cli.datasets import read_dataset
    from medseg_cli.datasets.limits import as_yaml, quality_of
    from medseg_cli.training.run import split_of

    chosen = presets.find(preset)
    found = read_dataset(path, channel)
    cases = found.cases if part == "all" else split_of(found.cases, chosen, split_seed).train
    seed = f" --split-seed {split_seed}" if part == "train" and split_seed else ""
    how = f"medseg dataset quality {path.resolve().name} --preset {chosen.name} --cases {part}{seed}"
    with progress("measuring", len(cases), quiet) as tell:
        measured = quality_of(cases, chosen, objects or chosen.prompts.objects, how, tell)
    typer.echo(as_yaml(measured), nl=False)


@app.command("convert")
def convert(
    path: DatasetPath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to make.")],
    to: Annotated[
        Literal["nnunet", "msd", "monai", "folders", "csv"],
        typer.Option(help="nnU-Net v2, Medical Segmentation Decathlon, MONAI datalist, images/ and masks/, or a CSV."),
    ],
    group_by: GroupBy = "",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a dataset in another layout, without changing a voxel or its place.

    $ medseg dataset convert hippocampus-mr/ -o Dataset004_Hippocampus --to nnunet
    """
    from medseg_cli import report
    from medseg_cli.datasets import read_dataset
    from medseg_cli.datasets.convert import convert as write
    from medseg_cli.datasets.groups import grouped

    found = read_dataset(path)
    found = grouped(found, group_by) if group_by else found
    with progress("converting", len(found.cases), quiet) as tell:
        notes = write(found, path, output, to, overwrite, tell)
    if not quiet:
        for note in (*found.notes, *notes):
            report.note(note, "normal")
        typer.echo(f"{how_many(found)}, {found.layout} to {to}; wrote {output}", err=True)


@app.command("boxes")
def boxes(
    path: DatasetPath,
    detector: Annotated[
        Path, typer.Option("--detector", metavar="FOLDER", help="A Grounding DINO as transformers saves it.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="For example boxes.json.")],
    bank: Annotated[
        str, typer.Option("--bank", metavar="FILE", help="Texts of classes, whose phrases the detector is asked.")
    ] = "ultrasound",
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="KEY", help="Class of the bank; repeat it. Default: those the dataset names."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Ask a detector for a box in every picture, keep the boxes, and say how often they are right.

    $ medseg dataset boxes fetal-head-us/ --detector grounding-dino-tiny/ --class fetal_head -o boxes.json
    """
    from medseg_cli import device as devices
    from medseg_cli.datasets import boxes as work
    from medseg_cli.datasets import read_dataset
    from medseg_cli.models.cc_sam.bank import read_bank
    from medseg_cli.models.grounding import load_detector
    from medseg_cli.writers.atomic import atomic_output

    texts = read_bank(bank)
    found = read_dataset(path)
    classes = work.classes_of(texts, found.labels, class_ or [])
    runtime = devices.select(device, "fp32", 0, deterministic=False)
    model = load_detector(detector.expanduser(), runtime.device)
    with atomic_output(output, overwrite=overwrite) as part:
        with progress("looking through", len(found.cases), quiet) as tell:
            pictures = work.find_boxes(found.cases, classes, texts, model.find, tell)
        part.write_text(work.as_json(model.name, model.sha256, texts, pictures), encoding="utf-8")
    if quiet:
        return
    for rate in work.rates(pictures, list(classes)):
        false = f"; {rate.false} boxes where it is not" if rate.false else ""
        share = f" ({rate.hits / rate.present:.1%})" if rate.present else ""
        typer.echo(
            f"{rate.key}: in {rate.present} pictures, {rate.kept} boxes, {rate.hits} right{share}, that is with IoU > "
            f"{work.HIT}{false}",
            err=True,
        )
    typer.echo(f"wrote {output}", err=True)
