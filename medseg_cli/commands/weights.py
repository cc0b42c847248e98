"""`medseg weights`: what is published, what is here, how to get it, and whether it is what it claims to be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medseg_cli.weights.store import Record

app = typer.Typer(no_args_is_help=True, help="Weights: list, download, import from a file, verify, locate.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]


@app.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """List all weights that medseg knows, with state, size and licence.

    State: embedded (comes with medseg), ready, pull (can be downloaded), by hand (only a web page offers it).

    $ medseg weights list
    """
    rows = list(_rows())
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = [("NAME", "STATE", "SIZE", "METHOD", "LICENCE")]
    table += [(row["name"], row["state"], _human(row["size"]), row["method"], row["licence"]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `medseg weights list` shows it.")],
    url: Annotated[str, typer.Option("--url", help="Another address of the same file: a mirror, or file://...")] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Download weights, verify them and put them into the store.

    Goes on where an interrupted download stopped. HTTPS_PROXY is honoured; MEDSEG_OFFLINE=1 forbids it.

    $ medseg weights pull sam-vit-b
    """
    from medseg_cli.weights.catalogue import entry
    from medseg_cli.weights.pull import pull as download

    known = entry(name)
    if known is not None and not quiet:
        _remark(f"{name}: licence {known.licence}; cite {known.citation}")
    with _progress(f"pulling {name}", quiet) as progress:
        record = download(
            name,
            url=url,
            progress=progress,
            on_wait=lambda: None if quiet else _remark("another medseg is downloading these weights: waiting for it"),
        )
    _done(record, as_json, quiet)


@app.command("import")
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Checkpoint (.pth, .pt, .bin, .tar, .safetensors), vocabulary, or folder."),
    ],
    name: Annotated[str, typer.Option("--name", help="Name in the store, where the file does not tell it.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Licence of weights of your own.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another file of that name.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Bring a checkpoint file into the store, from a USB stick or a download by hand.

    Recognises what it is by its hash or its tensors, refuses files that could run code, converts to safetensors.
    A tokenizer.json or vocab.txt is the vocabulary of the weights --name; a folder may hold weights and vocabulary.

    $ medseg weights import last.pth.tar --name sam3d-kits
    """
    from medseg_cli.weights import vocabulary
    from medseg_cli.weights.importer import checkpoint_in, import_file

    if vocabulary.is_vocabulary(file):
        _vocabulary(vocabulary.import_vocabulary(file, name, overwrite=overwrite), as_json)
        return
    beside = next((file / kind for kind in vocabulary.NAMES if (file / kind).is_file()), None)
    file = checkpoint_in(file) if file.is_dir() else file
    with _progress(f"reading {file.name}", quiet) as progress:
        record = import_file(file, name, licence=licence, overwrite=overwrite, progress=progress)
    if beside is not None:
        found = vocabulary.import_vocabulary(beside, record.name, overwrite=overwrite)
        if not quiet:
            _remark(f"its vocabulary: {found}")
    _done(record, as_json, quiet)


@app.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all that are here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read weights again and compare their SHA-256 with the recorded one. Ends with 4 if one differs.

    $ medseg weights verify
    """
    from medseg_cli.errors import ModelError
    from medseg_cli.weights import store

    results = []
    for name in names or _present():
        beside = store.shipped().get(name)
        record = store.record(name)
        file = store.file_of(name) if record is not None else beside.weights_file if beside is not None else None
        if file is None or not file.is_file():
            raise store.missing(name)
        wanted = record.sha256 if record is not None else beside.weights_sha256 if beside is not None else None
        found = store.sha256_of(file)
        state = "unverified" if wanted is None else "ok" if found == wanted else "damaged"
        results.append({"name": name, "state": state, "sha256": found, "expected": wanted, "path": str(file)})
        if not as_json:
            typer.echo(f"{state:<10}  {name}  {found}")
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    elif not results:
        _remark("no weights here yet: `medseg weights list` shows what there is")
    if any(result["state"] == "damaged" for result in results):
        raise typer.Exit(ModelError.exit_code)


@app.command("embed-text")
def embed_text(
    bank: Annotated[str, typer.Argument(metavar="BANK", help="JSON of texts, or 'ultrasound': the one of medseg.")],
    model: Annotated[
        str,
        typer.Option("--model", metavar="FOLDER|PRESET", help="A BERT in a local folder, or a medclip-sam preset."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TABLE", help="The table, .safetensors.")],
    keys: Annotated[list[str] | None, typer.Option("--class", metavar="KEY", help="Of these classes alone.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing table.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Embed the texts of classes once, so that CC-SAM needs no language model to be trained or used.

    $ medseg weights embed-text ultrasound --model MEDBERT_FOLDER -o table.safetensors
    """
    from medseg_cli.errors import InputError, UsageError
    from medseg_cli.models.cc_sam.bank import read_bank
    from medseg_cli.pipelines.text_embedding import embed_bank, save_table
    from medseg_cli.writers.atomic import check_output

    if output.suffix != ".safetensors":
        raise UsageError(f"{output} is no name of a table", "tables end in .safetensors")
    check_output(output, overwrite)
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file() and output.resolve().parent == folder.resolve():
        raise InputError(f"{output} would lie among the files of --model", "write the table elsewhere")
    found = read_bank(bank)
    strange = [key for key in keys or () if key not in found]
    if strange:
        raise UsageError(f"{bank} has no class '{strange[0]}'", f"it has: {', '.join(found)}")
    table, notes = embed_bank({key: texts for key, texts in found.items() if not keys or key in keys}, model)
    save_table(table, output, overwrite=overwrite)
    if as_json:
        said = {key: list(value.shape) for key, value in table.vectors.items()}
        told = {"path": str(output), "model": table.made_by, "shapes": said, "notes": notes}
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(str(output))
    if not quiet:
        for note in notes:
            _remark(note)
        texts = sum(len(value) for value in table.vectors.values())
        classes = ", ".join(table.vectors)
        _remark(f"{classes}: {texts} texts, {table.width} numbers each, by {table.made_by}")


@app.command("path")
def path(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `medseg weights list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Print where verified weights are. Ends with 4 if they are missing or damaged.

    $ medseg weights path sam-vit-b
    """
    from medseg_cli.weights import store

    found = store.locate(name)
    typer.echo(json.dumps(asdict(found) | {"path": str(found.path)}, indent=2) if as_json else str(found.path))


def _rows() -> Iterator[dict[str, Any]]:
    """One row per embedded, published or imported checkpoint."""
    from medseg_cli.weights import store
    from medseg_cli.weights.catalogue import CATALOGUE, entry

    for name, beside in store.shipped().items():
        file = beside.weights_file
        yield {
            "name": name,
            "state": "embedded" if file is not None and file.is_file() else "missing",
            "size": file.stat().st_size if file is not None and file.is_file() else None,
            "method": beside.pipeline,
            "licence": beside.licence,
            "sha256": beside.weights_sha256,
            "source": beside.source,
        }
    here = {record.name: record for record in store.installed()}
    for known in CATALOGUE:
        record = here.get(known.name)
        yield asdict(known) | {
            "state": "ready" if record is not None else "pull" if known.url else "by hand",
            "imported": asdict(record) if record is not None else None,
            "get": store.how_to_get(known.name),
        }
    for name, record in here.items():
        if entry(name) is None:
            size = store.file_of(name).stat().st_size
            yield asdict(record) | {"state": "ready", "size": size, "method": record.layout}


def _present() -> list[str]:
    from medseg_cli.weights import store

    beside = [name for name, each in store.shipped().items() if each.weights_file and each.weights_file.is_file()]
    return beside + [record.name for record in store.installed()]


def _done(record: Record, as_json: bool, quiet: bool) -> None:
    from medseg_cli.weights import store
    from medseg_cli.weights.catalogue import entry

    file = store.file_of(record.name)
    if as_json:
        typer.echo(json.dumps(asdict(record) | {"path": str(file)}, indent=2))
        return
    typer.echo(str(file))
    if quiet:
        return
    known = entry(record.name)
    _remark(f"{record.name}: layout {record.layout}, licence {record.licence}")
    _remark(f"source SHA-256 {record.source_sha256}, stored SHA-256 {record.sha256}")
    if known is not None and known.sha256 is None:
        _remark("unverified source: nobody publishes a hash of this file; the hash of what was imported is recorded")


def _vocabulary(path: Path, as_json: bool) -> None:
    typer.echo(json.dumps({"path": str(path)}, indent=2) if as_json else str(path))


def _remark(text: str) -> None:
    typer.echo(text, err=True)


def _human(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextmanager
def _progress(what: str, quiet: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on a terminal, a line per tenth elsewhere, nothing when quiet."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield _tenths(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tenths(what: str) -> Callable[[int, int | None], None]:
    said = -1

    def tell(done: int, total: int | None) -> None:
        nonlocal said
        tenth = done * 10 // total if total else done // 100_000_000
        if tenth > said:
            said = tenth
            _remark(f"{what}: {_human(done)}" + (f" of {_human(total)}" if total else ""))

    return tell
