"""`medseg presets`: which presets there are, what one says, and whether they are valid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medseg_cli.preset import Preset

app = typer.Typer(no_args_is_help=True, help="Presets: list them, show one, check your own.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
OneName = Annotated[str, typer.Argument(metavar="NAME", help="Name, YAML file, or folder with a preset.yaml.")]


@app.command("list")
def list_presets(as_json: AsJson = False) -> None:
    """List all presets: the shipped ones, and those in your own folder.

    $ medseg presets list
    """
    from medseg_cli import preset as presets
    from medseg_cli.errors import ModelError

    rows = []
    for name, path in presets.locations().items():
        where = "user" if path.parent == presets.user_folder() else "shipped"
        try:
            rows.append(_row(presets.find(name)) | {"where": where})
        except ModelError as error:
            rows.append({"name": name, "where": where, "error": error.message})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        if "error" in row:
            typer.echo(f"{row['name']:<{width}}  invalid: {row['error']}")
            continue
        prompts = "+".join(row["prompts"]) or "no prompt"
        what = f"{'/'.join(row['modality'])} {row['dims']}-D, {prompts}, {row['licence']}"
        mine = ", yours" if row["where"] == "user" else ""
        typer.echo(f"{row['name']:<{width}}  {row['title']}  ({what}{mine}; weights {row['weights']})")


@app.command("show")
def show(name: OneName, as_json: AsJson = False) -> None:
    """Print one preset, complete with defaults, as YAML or JSON.

    Save the output under another name to make a preset of your own.

    $ medseg presets show hippocampus-mr > mine.yaml
    """
    from medseg_cli import preset as presets

    found = presets.find(name)
    if as_json:
        shown = {**found.model_dump(mode="json"), "path": str(found.path), "weights_state": _weights_state(found)}
        typer.echo(json.dumps(shown, indent=2))
        return
    typer.echo(f"# {found.path}\n# weights {_weights_state(found)}{_remedy(found)}")
    # A copy saved elsewhere must find the same weights.
    typer.echo(presets.dump(presets.with_absolute_weights(found)), nl=False)


@app.command("check")
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all presets.")] = None,
) -> None:
    """Validate presets with the options of their pipelines, and say whether their weights are here.

    Ends with 4 if one is invalid or its weights are damaged; weights that were not downloaded yet are no error.

    $ medseg presets check mine.yaml
    """
    from medseg_cli import preset as presets
    from medseg_cli.errors import ModelError

    failed = 0
    for name in names or presets.names():
        try:
            found = presets.find(name)
            _check_pipeline(found)
            state = _weights_state(found)
            failed += state == "damaged"
            typer.echo(f"{name}: valid, weights {state}{_remedy(found)}")
        except ModelError as error:
            failed += 1
            typer.echo(f"{name}: invalid: {error.message}")
    if failed:
        raise typer.Exit(ModelError.exit_code)


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of a preset, for editors.

    $ medseg presets schema > preset.schema.json
    """
    from medseg_cli import preset as presets

    typer.echo(json.dumps(presets.schema(), indent=2))


@app.command("path")
def path(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Default: the folder for your own presets.")] = "",
) -> None:
    """Print where a preset is, or the folder in which your own presets are looked for.

    $ mkdir -p "$(medseg presets path)" && cp mine.yaml "$(medseg presets path)"
    """
    from medseg_cli import preset as presets

    typer.echo(str(presets.find(name).path if name else presets.user_folder()))


def _row(found: Preset) -> dict[str, Any]:
    return {
        "name": found.name,
        "title": found.title,
        "pipeline": found.pipeline,
        "modality": list(found.modality),
        "dims": found.dims,
        "prompts": list(found.prompts.kinds),
        "labels": [label.name for label in found.labels],
        "licence": found.licence,
        "weights": _weights_state(found),
        "path": str(found.path),
    }


def _check_pipeline(found: Preset) -> None:
    """What a preset asks of its pipeline: that it exists, takes these prompts, and knows these options.

    Raises:
        ModelError: it does not.
    """
    from importlib import import_module

    from pydantic import ValidationError

    from medseg_cli import pipelines
    from medseg_cli.errors import ModelError

    entry = pipelines.find(found.pipeline)
    foreign = sorted(set(found.prompts.kinds) - entry.prompts)
    if found.prompts.automatic and entry.prompts:
        known = ", ".join(sorted(entry.prompts))
        raise ModelError(f"prompts.kinds is empty: pipeline '{found.pipeline}' needs some of {known}")
    if foreign or found.dims != entry.dims:
        what = f"prompts {', '.join(foreign)}" if foreign else f"dims {found.dims}"
        takes = f"{', '.join(sorted(entry.prompts))} in {entry.dims}-D"
        raise ModelError(f"{what}: not of pipeline '{found.pipeline}', which takes {takes}")
    try:
        import_module(entry.target.partition(":")[0]).Options.model_validate(found.options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("options", *first["loc"])))
        raise ModelError(f"{where}: {first['msg'].lower()}") from error


def _weights_state(found: Preset) -> str:
    """`embedded`, `ready`, `missing`, `damaged`, or `none` before training.

    A large file is hashed only if it changed since the last time.
    """
    from medseg_cli import weights
    from medseg_cli.errors import ModelError
    from medseg_cli.weights import store
    from medseg_cli.weights.base import present

    if found.weights is None:
        return "none"
    file = found.weights_file
    if not (file or store.file_of(found.weights_name)).is_file():
        return "missing"
    base = getattr(found.weights, "base", None)
    if base is not None and not present(base):
        return "missing"
    try:
        weights.resolve(found)
    except ModelError:
        return "damaged"
    return "ready" if file is None else "embedded"


def _remedy(found: Preset) -> str:
    """What is wrong with a preset's weights and what to type; empty when they are fine."""
    from medseg_cli import weights
    from medseg_cli.errors import ModelError

    try:
        weights.resolve(found)
    except ModelError as error:
        return f" ({error.message}; {error.hint})"
    return ""
