"""`medseg dataset`: look through a dataset, split it by patient, measure what is usual in it, change its layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from medseg_cli.datasets import Case, Dataset
    from medseg_cli.datasets.case import Finding
    from medseg_cli.datasets.check import CaseFacts

app = typer.Typer(
    no_args_is_help=True, help="Datasets: check one, split it by patient, measure what is usual, convert its layout."
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
    with _progress("checking", len(found.cases), quiet or as_json) as tell:
        facts, findings = checking.check(found, chosen, files, tell)
    if as_json:
        typer.echo(json.dumps(summarised(str(path), found, facts, findings), indent=2, ensure_ascii=False))
    else:
        _show(path, found, facts, findings)
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
        typer.echo(f"{_of(found)}; wrote {output}", err=True)


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
    with _progress("measuring", len(cases), quiet) as tell:
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
    with _progress("converting", len(found.cases), quiet) as tell:
        notes = write(found, path, output, to, overwrite, tell)
    if not quiet:
        for note in (*found.notes, *notes):
            report.note(note, "normal")
        typer.echo(f"{_of(found)}, {found.layout} to {to}; wrote {output}", err=True)


@contextmanager
def _progress(what: str, count: int, quiet: bool) -> Iterator[Callable[[Case], None]]:
    """What to call before each case: a bar on a terminal, nothing elsewhere."""
    from rich.progress import Progress

    from medseg_cli import report

    console = report.stderr()
    if quiet or not console.is_terminal:
        yield lambda case: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=count)
        yield lambda case: progress.update(task, advance=1, description=f"{what} {case.id}")


def _show(path: Path, dataset: Dataset, facts: list[CaseFacts], findings: list[Finding]) -> None:
    """The result for people: what the dataset is, its classes, and one line per finding."""
    from rich.console import Console
    from rich.table import Table

    from medseg_cli import report
    from medseg_cli.datasets.summary import class_sizes, ranges

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{path}: {dataset.layout}, {_of(dataset)}")
    for line in _ranges(ranges(facts)):
        console.print(line)
    for note in dataset.notes:
        report.note(note, "normal")
    table = Table("value", "class", "cases", "voxels (least, median, most)", "mL (least, median, most)")
    for size in class_sizes(facts, dataset):
        millilitres = _three(size.millilitres) if size.millilitres else "-"
        table.add_row(str(size.value), size.name or "-", str(size.cases), _three(size.voxels), millilitres)
    if table.row_count:
        Console(width=None if console.is_terminal else 120).print(table)
    for each in findings:
        console.print(f"{each.kind}: {each.text}; {each.remedy}", style="yellow")
    console.print(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}" if findings else "nothing is wrong")


def _of(dataset: Dataset) -> str:
    cases, patients = len(dataset.cases), len({case.patient for case in dataset.cases})
    return f"{cases} case{'s' * (cases != 1)} of {patients} patient{'s' * (patients != 1)}"


def _ranges(found: dict[str, Any]) -> Iterator[str]:
    if not found:
        return
    yield f"voxels   {_span(*found['shape'])}"
    unknown = f" ({found['spacing_unknown']} cases do not say)" if found["spacing_unknown"] else ""
    yield f"spacing  {_span(*found['spacing_mm']) + ' mm' if found['spacing_mm'] else 'unknown'}{unknown}"
    low, high = found["intensity"]
    yield f"values   {low:g} to {high:g}; the highest of each scan {_three(found['intensity_high'])}"
    yield f"modality {', '.join(f'{code} ({count})' for code, count in found['modalities'].items())}"


def _span(low: list[float], high: list[float]) -> str:
    """Smallest and largest along each axis: `30..40 x 35 x 24..51`."""
    pairs = zip(low, high, strict=True)
    return " x ".join(f"{least:.4g}" if least == most else f"{least:.4g}..{most:.4g}" for least, most in pairs)


def _three(numbers: tuple[float, float, float]) -> str:
    return ", ".join(f"{number:.0f}" if number >= 1000 else f"{number:.4g}" for number in numbers)
