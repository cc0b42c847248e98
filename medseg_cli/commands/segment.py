"""`medseg segment`: one scan, one or many objects, one mask."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg_cli.commands import options
from medseg_cli.commands import segment_options as own

if TYPE_CHECKING:
    from medseg_cli.logs import Talk
    from medseg_cli.pipelines import Pipeline
    from medseg_cli.pipelines.compiling import Compiled
    from medseg_cli.segmentation import Segmentation
    from medseg_cli.steps import Job
    from medseg_cli.writers.outputs import Outputs
    from medseg_cli.writers.sidecar import Run


def segment(
    scan: Annotated[str, typer.Argument(metavar="SCAN", help="File or DICOM folder, zip or DICOMDIR.")] = "",
    mask: Annotated[str, typer.Argument(metavar="MASK", help="The same as -o.")] = "",
    input_: Annotated[str, typer.Option("--input", "-i", metavar="SCAN", help="The same as SCAN.")] = "",
    output: own.Output = "",
    preset: options.PresetName = "",
    point: own.Points = None,
    box: own.Boxes = None,
    text: own.Texts = None,
    text_file: own.TextFile = None,
    not_: own.Nots = None,
    text_model: own.TextModel = None,
    detector: own.Detector = None,
    mask_prompt: own.MaskPrompt = None,
    prompts: own.PromptFile = None,
    coords: own.Coords = "ijk",
    slice_: own.SliceIndex = None,
    label: own.Label = "",
    slices: own.Slices = None,
    window: own.WindowText = None,
    propagate: own.Propagate = None,
    max_slices: own.MaxSlices = None,
    batch_slices: own.BatchSlices = None,
    smooth_time: own.SmoothTime = None,
    sector: own.Sector = None,
    mirror: own.Mirror = None,
    redraw: own.Redraw = None,
    embedding_cache: own.EmbeddingCache = None,
    keep: own.Keep = None,
    min_mm3: own.MinMm3 = None,
    fill_holes: own.FillHoles = None,
    series: options.Series = None,
    channel: options.Channel = None,
    spacing: options.Spacing = None,
    cine: options.Cine = False,
    modality: own.Modality = "",
    on_gap: options.OnGap = "error",
    on_tilt: options.OnTilt = "error",
    on_duplicate: options.OnDuplicate = "error",
    weights: own.Weights = None,
    random_weights: own.RandomWeights = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    compile_: own.Compile = False,
    overwrite: options.Overwrite = False,
    preview: own.Preview = True,
    explain: own.Explain = False,
    uncertainty: own.Uncertainty = False,
    samples: own.Samples = None,
    format_: options.Formats = None,
    naming: options.Naming = "case",
    ml: options.LabelValues = None,
    mesh_frame: options.MeshFrame = "lps",
    mesh_smooth: options.MeshSmooth = 10,
    seg_type: options.SegType = "binary",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_json: options.LogJson = "",
) -> None:
    """Segment what clicks, boxes, a coarse mask or words point at in a scan; write mask, report and picture.

    medseg segment brain.nii.gz -o mask.nii.gz --preset hippocampus-mr --point -26,-22,-14 --coords ras

    medseg segment xray.png -o lungs.png --preset chest-xray-lungs

    medseg segment DICOM_FOLDER -o out/ --preset hippocampus-mr --prompts prompts.csv

    medseg segment scan.nii.gz -o lungs.nii.gz --preset medclip-sam --text "both lungs" --explain
    """
    talk = options.start_talking(quiet, verbose, debug, log_json)
    from medseg_cli import device as devices
    from medseg_cli import lean_imports, report, steps
    from medseg_cli.asked import Asked, check_kinds
    from medseg_cli.overrides import Overrides
    from medseg_cli.readers import begin_scan
    from medseg_cli.readers.modality import parse_modality
    from medseg_cli.segmentation import RANDOM_WEIGHTS
    from medseg_cli.stages import Stages
    from medseg_cli.writers import formats, outputs, sidecar

    source, target = _paths(scan, mask, input_, output)
    pointed = (tuple(point or ()), tuple(box or ()), coords, label, prompts, mask_prompt, slice_)
    asked = Asked(*pointed, tuple(text or ()), text_file, tuple(not_ or ()))
    prompt = asked.prompt()
    maps = [*(["explain"] if explain else []), *(["uncertainty"] if uncertainty else [])]
    wanted = formats.parse((*(format_ or ()), *maps))
    overrides = Overrides(
        *(slices, window, propagate, max_slices, embedding_cache, batch_slices, keep, min_mm3, fill_holes),
        explain="explain" in wanted or None,
        smooth_time=smooth_time,
        sector=sector,
        mirror=mirror,
        redraw=redraw,
        uncertainty="uncertainty" in wanted or None,
        samples=samples,
        text_model=text_model,
        detector=detector,
    )
    chosen = steps.choose_preset(preset, weights, overrides)
    check_kinds(chosen, prompt, asked)
    choices = options.format_choices(ml, mesh_frame, mesh_smooth, seg_type)
    files = outputs.plan(source, target, preview=preview, wanted=wanted, naming=naming)
    inputs = (source, prompts, mask_prompt, text_file, chosen.path)
    outputs.check(files, tuple(path for path in inputs if path), overwrite=overwrite)
    reading = options.read_options(series, channel, spacing, on_gap, on_tilt, on_duplicate, cine)
    code = parse_modality(modality) if modality else ""
    # Unpacked while torch, MONAI and the weights are loaded; whatever is wrong with it is told after what is with them.
    job = steps.Job(begin_scan(source, reading), code, asked, window, files, choices, overwrite)
    with report.Progress(talk) as progress:
        stages = Stages(progress)
        with stages("start"):
            runtime = devices.select(device, precision, seed, deterministic)
            lean_imports.load_networks_and_transforms()
        notes = (RANDOM_WEIGHTS,) if random_weights else ()
        run = sidecar.Run(chosen, prompt, runtime, stages, ("medseg", *sys.argv[1:]), random_weights, notes)
        segmentation, run = _segment(job, run, compiling=compile_)
        result = steps.write(segmentation, run, job)
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


def _segment(job: Job, run: Run, *, compiling: bool) -> tuple[Segmentation, Run]:
    """The result, and the run with its prompt as it lies in the scan."""
    from medseg_cli import pipelines, steps

    # Weights that are missing must not cost the time to read a large series to its end first.
    with run.stages("model"):
        pipeline = pipelines.build(run.preset, run.runtime, random_weights=run.random_weights)
        run = replace(run, runtime=pipeline.runtime)
        compiled = _compiled(pipeline, run) if compiling else None
    with run.stages("read"):
        scan = steps.read(job)
        run = steps.settle(job, run, scan)
    return steps.predict(pipeline, scan, run, compiled)


def _compiled(pipeline: Pipeline, run: Run) -> Compiled:
    from medseg_cli.pipelines.compiling import compile_blocks

    return compile_blocks(pipeline.model, run.preset, run.runtime)


def _tell(result: dict[str, Any], files: Outputs, talk: Talk, *, as_json: bool) -> None:
    from medseg_cli import logs, report
    from medseg_cli.writers import sidecar

    written = [str(path) for path in reversed(files.files) if path.exists()]
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
