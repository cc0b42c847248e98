"""`medseg segment`: one scan, one or many objects, one mask."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg_cli.commands import options

if TYPE_CHECKING:
    from medseg_cli.logs import Talk
    from medseg_cli.preset import Preset
    from medseg_cli.prompt import Prompt
    from medseg_cli.readers.options import ReadOptions
    from medseg_cli.segmentation import Segmentation
    from medseg_cli.writers.outputs import Outputs
    from medseg_cli.writers.sidecar import Run


def segment(
    scan: Annotated[str, typer.Argument(metavar="SCAN", help="File or DICOM folder, zip or DICOMDIR.")] = "",
    mask: Annotated[str, typer.Argument(metavar="MASK", help="The same as -o.")] = "",
    input_: Annotated[str, typer.Option("--input", "-i", metavar="SCAN", help="The same as SCAN.")] = "",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="MASK|FOLDER/", help="Mask file, or a folder with a slash.")
    ] = "",
    preset: options.PresetName = "",
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point", metavar="X,Y,Z[:+|-]", help="Click inside (:+) or outside (:-) the object; may be repeated."
        ),
    ] = None,
    coords: options.Coords = "ijk",
    prompts: options.PromptFile = None,
    label: Annotated[str, typer.Option(help="Name of the object that --point means.")] = "",
    series: options.Series = None,
    channel: options.Channel = None,
    spacing: options.Spacing = None,
    on_gap: options.OnGap = "error",
    on_tilt: options.OnTilt = "error",
    on_duplicate: options.OnDuplicate = "error",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="Run without weights; every output is stamped as meaningless.",
            rich_help_panel=options.COMPUTING,
        ),
    ] = False,
    overwrite: options.Overwrite = False,
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Picture beside the mask.", rich_help_panel=options.WRITING)
    ] = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_json: options.LogJson = "",
) -> None:
    """Segment the objects of a scan that clicks point at; write mask, report and picture.

    medseg segment brain.nii.gz -o mask.nii.gz --preset hippocampus-mr --point -26,-22,-14 --coords ras

    medseg segment DICOM_FOLDER -o out/ --preset hippocampus-mr --prompts prompts.csv
    """
    talk = options.start_talking(quiet, verbose, debug, log_json)
    from medseg_cli import device as devices
    from medseg_cli import report
    from medseg_cli.segmentation import RANDOM_WEIGHTS
    from medseg_cli.stages import Stages
    from medseg_cli.writers import outputs, sidecar

    source, target = _paths(scan, mask, input_, output)
    reading = options.read_options(series, channel, spacing, on_gap, on_tilt, on_duplicate)
    prompt = _prompt(point or [], coords, label, prompts)
    chosen = _preset(preset, prompt)
    files = outputs.plan(source, target, preview=preview)
    outputs.check(files, tuple(path for path in (source, prompts, chosen.path) if path), overwrite=overwrite)
    with report.Progress(talk) as progress:
        stages = Stages(progress)
        with stages("start"):
            runtime = devices.select(device, precision, seed, deterministic)
        notes = (RANDOM_WEIGHTS,) if random_weights else ()
        run = sidecar.Run(chosen, prompt, runtime, stages, ("medseg", *sys.argv[1:]), random_weights, notes)
        segmentation = _segment(source, reading, run)
        result = _write(segmentation, run, files, overwrite=overwrite)
    _tell(result, files, talk, as_json=json)


def _paths(scan: str, mask: str, input_: str, output: str) -> tuple[Path, str]:
    """(scan, output) from positionals and options; with -i the first positional is the mask."""
    from medseg_cli.errors import InputError, UsageError

    words = [word for word in (scan, mask) if word]
    if not input_ and words:
        input_ = words.pop(0)
    if not output and words:
        output = words.pop(0)
    if words:
        raise UsageError(f"'{words[0]}' is one path too many", "give one scan and one output")
    if not input_ or not output:
        missing = "scan" if not input_ else "output"
        raise UsageError(f"no {missing} given", "medseg segment SCAN -o MASK.nii.gz --preset NAME --point X,Y,Z")
    source = Path(input_).expanduser()
    if not source.exists():
        raise InputError(f"there is no scan {source}", "check the path")
    return source, output


def _prompt(points: list[str], coords: Any, label: str, table: Path | None) -> Prompt:
    from medseg_cli.errors import UsageError
    from medseg_cli.prompt import Prompt, Target
    from medseg_cli.prompt_file import parse_point, read_prompts

    if table is not None:
        if points or label:
            raise UsageError("--prompts does not go with --point or --label", "put every click into the table")
        return read_prompts(table, coords)
    clicks = tuple(parse_point(point, coords) for point in points)
    return Prompt((Target("1", label, clicks),) if clicks else ())


def _preset(name: str, prompt: Prompt) -> Preset:
    """The preset, if it understands the prompt."""
    from medseg_cli import preset
    from medseg_cli.errors import UsageError

    if not name:
        raise UsageError("no preset given", f"add --preset with one of: {', '.join(preset.names())}")
    chosen = preset.find(name)
    clicks = [click for target in prompt.targets for click in target.clicks]
    if "point" in chosen.prompts.kinds and not clicks:
        raise UsageError(f"preset {chosen.name} needs clicks", "add --point X,Y,Z or --prompts FILE.csv")
    if clicks and "point" not in chosen.prompts.kinds:
        raise UsageError(f"preset {chosen.name} takes no clicks", f"it takes: {', '.join(chosen.prompts.kinds)}")
    if not chosen.prompts.minus and not all(click.positive for click in clicks):
        raise UsageError(
            f"preset {chosen.name} does not understand clicks outside the object (minus clicks)",
            "leave them out, or use a preset that takes them (medseg presets show NAME)",
        )
    return chosen


def _segment(source: Path, reading: ReadOptions, run: Run) -> Segmentation:
    from medseg_cli import pipelines
    from medseg_cli.prompt import locate
    from medseg_cli.readers import check_image, load_scan

    # Weights that are missing must not cost the time to read a large series first.
    with run.stages("model"):
        pipeline = pipelines.build(run.preset, run.runtime, random_weights=run.random_weights)
    with run.stages("read"):
        scan = load_scan(source, reading)
        check_image(scan)
        for target in run.prompt.targets:
            for click in target.clicks:
                locate(click, scan)
    with run.stages("segment"):
        return pipeline.segment(scan, run.prompt, run.stages)


def _write(segmentation: Segmentation, run: Run, files: Outputs, *, overwrite: bool) -> dict[str, Any]:
    """Mask, picture and report, all or none; the report as data."""
    from medseg_cli.measure import measure
    from medseg_cli.prompt import locate
    from medseg_cli.segmentation import RANDOM_WEIGHTS
    from medseg_cli.writers import masks, outputs, preview, sidecar

    scan = segmentation.scan
    with outputs.staged(files, overwrite=overwrite) as places:
        with run.stages("write"):
            measurements = measure(segmentation)
            masks.write_mask(segmentation, places.mask)
            if places.preview:
                clicks = [click for target in run.prompt.targets for click in target.clicks]
                focus = locate(clicks[0], scan) if clicks else None
                stamp = RANDOM_WEIGHTS if run.random_weights else ""
                preview.write(segmentation, measurements, places.preview, focus=focus, stamp=stamp)
        report = sidecar.describe(segmentation, measurements, run)
        report["output"] = {
            "mask": files.mask.name,
            "mask_sha256": sidecar.sha256(places.mask),
            "mask_dtype": str(segmentation.mask.dtype),
            "preview": files.preview.name if files.preview else None,
        }
        sidecar.write(report, places.report)
    return report


def _tell(result: dict[str, Any], files: Outputs, talk: Talk, *, as_json: bool) -> None:
    from medseg_cli import logs, report
    from medseg_cli.writers import sidecar

    written = [str(path) for path in reversed(files.files)]
    for text in result["notes"]:
        report.note(text, talk)
    report.summary(result, written, talk)
    logs.LOGGER.debug(
        "segmented %s",
        result["input"]["path"],
        extra={
            "fields": {
                "case": result["input"]["name"],
                "status": result["status"],
                "labels": result["labels"],
                "notes": result["notes"],
                "seconds": result["seconds"],
                "files": written,
            }
        },
    )
    if as_json:
        typer.echo(sidecar.to_json(result))
