"""What `medseg dataset` shows: a bar while it works, and what a dataset is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg_cli.datasets import Case, Dataset
    from medseg_cli.datasets.case import Finding
    from medseg_cli.datasets.check import CaseFacts


@contextmanager
def progress(what: str, cases: int, quiet: bool) -> Iterator[Callable[[Case], None]]:
    """What to call before each case: a bar on a terminal, nothing elsewhere."""
    from rich.progress import Progress

    from medseg_cli import report

    console = report.stderr()
    if quiet or not console.is_terminal:
        yield lambda case: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=cases)
        yield lambda case: bar.update(task, advance=1, description=f"{what} {case.id}")


def show(path: Path, dataset: Dataset, facts: list[CaseFacts], findings: list[Finding]) -> None:
    """The result for people: what the dataset is, its classes, and one line per finding."""
    from rich.console import Console
    from rich.table import Table

    from medseg_cli import report
    from medseg_cli.datasets.summary import class_sizes, ranges

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{path}: {dataset.layout}, {how_many(dataset)}")
    cells = "voxels" if any(each.shape[2] > 1 and not each.flat for each in facts) else "pixels"
    for line in _ranges(ranges(facts), cells):
        console.print(line)
    for note in dataset.notes:
        report.note(note, "normal")
    table = Table("value", "class", "cases", f"{cells} (least, median, most)", "mL (least, median, most)")
    for size in class_sizes(facts, dataset):
        millilitres = _three(size.millilitres) if size.millilitres else "-"
        table.add_row(str(size.value), size.name or "-", str(size.cases), _three(size.voxels), millilitres)
    if table.row_count:
        Console(width=None if console.is_terminal else 120).print(table)
    for each in findings:
        console.print(f"{each.kind}: {each.text}; {each.remedy}", style="yellow")
    console.print(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}" if findings else "nothing is wrong")


def how_many(dataset: Dataset) -> str:
    """Its cases and patients in words."""
    cases, patients = len(dataset.cases), len({case.patient for case in dataset.cases})
    return f"{cases} case{'s' * (cases != 1)} of {patients} patient{'s' * (patients != 1)}"


def _ranges(found: dict[str, Any], cells: str) -> Iterator[str]:
    if not found:
        return
    yield f"{cells}   {_span(*found['shape'])}"
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
