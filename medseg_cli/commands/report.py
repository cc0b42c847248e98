"""`medseg report`: tables and page of a batch, made anew from the records of its cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg_cli.commands import options

Folders = Annotated[
    list[Path], typer.Argument(metavar="OUT...", help="Output folders of `medseg batch`.", show_default=False)
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE.html", help="Also one page about all cases of all folders, written here."
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        "--viewer-budget", min=0, max=1e6, metavar="MIB", help="Size of a page; more room holds more viewers."
    ),
]


def report(
    folders: Folders,
    output: Page = None,
    viewer_budget: Budget = 150.0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_json: options.LogJson = "",
) -> None:
    """Write cases.jsonl, cases.csv and report.html of a batch again, from what its cases have recorded.

    medseg report out/

    medseg report out/ --viewer-budget 600

    medseg report site-a/ site-b/ -o both.html
    """
    talk = options.start_talking(quiet, verbose, debug, log_json)
    import json

    from medseg_cli.batch import tables
    from medseg_cli.batch_page import page, run_facts

    _check(folders, output)
    pages, cases, counted = [], [], dict.fromkeys(page.ORDER, 0)
    for folder in folders:
        found = tables.write(folder)
        data = [each.to_json() for each in found]
        facts = run_facts.of_run(folder, run_facts.read_summary(folder))
        pages.append(page.write_page(folder, data, facts, viewer_budget))
        if output is not None:
            cases += page.gather(folder, data, f"{folder.resolve().name}/" if len(folders) > 1 else "")
        for each in found:
            counted[each.status] += 1
    if output is not None:
        title = "Batches " + ", ".join(folder.resolve().name for folder in folders)
        pages.append(page.write_cases(cases, output, {"title": title}, viewer_budget))
    if as_json:
        typer.echo(json.dumps({"pages": [str(each) for each in pages], "status": counted}, indent=2))
    elif talk != "quiet":
        told = ", ".join(f"{count} {status}" for status, count in counted.items() if count)
        typer.echo(f"{told}: {', '.join(str(each) for each in pages)}", err=True)


def _check(folders: list[Path], output: Path | None) -> None:
    """Find out before anything is written.

    Raises:
        InputError: a folder holds no batch, or the page cannot be written.
        UsageError: two folders would have the same name in one page, or it is no HTML file.
    """
    from medseg_cli.batch import records
    from medseg_cli.batch.run import prepare
    from medseg_cli.errors import InputError, UsageError
    from medseg_cli.writers.atomic import check_output

    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}", "name the output folder of `medseg batch`")
        if not records.read_all(folder):
            raise InputError(f"{folder} holds no record of a batch", "name the folder that `medseg batch -o` wrote to")
        prepare(folder)
    if output is None:
        return
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {output} is no HTML file", "for example -o all.html")
    if len({folder.resolve().name for folder in folders}) < len(folders):
        raise UsageError("two of the folders have the same name", "one page tells cases apart by it: rename one")
    check_output(output, overwrite=True)
