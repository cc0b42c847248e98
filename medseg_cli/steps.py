"""The steps of one scan's run, from the file to the mask: the same in `medseg segment` and for each case of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medseg_cli.asked import Asked, focus, place

if TYPE_CHECKING:
    from medseg_cli.measure import Measurement
    from medseg_cli.overrides import Overrides
    from medseg_cli.pipelines import Pipeline
    from medseg_cli.pipelines.compiling import Compiled
    from medseg_cli.preset import Preset
    from medseg_cli.scan import Scan
    from medseg_cli.segmentation import Segmentation
    from medseg_cli.writers.formats import Choices
    from medseg_cli.writers.outputs import Outputs
    from medseg_cli.writers.sidecar import Run


@dataclass(frozen=True)
class Job:
    """What is read and written, and what the user said about it.

    Args:
        scan: reads it, or waits for it: `readers.begin_scan` or a call of `readers.load_scan`.
        modality: DICOM code that the user states, "" where the file is believed.
        asked: the prompt as typed.
        window: named window that the user chose, to be checked against the scan; None without one.
        files: where the outputs go, found to be writable.
        choices: what was chosen about the formats.
        overwrite: whether existing outputs may be replaced.
    """

    scan: Callable[[], Scan]
    modality: str
    asked: Asked
    window: str | None
    files: Outputs
    choices: Choices
    overwrite: bool


def choose_preset(name: str, weights: str | None, overrides: Overrides) -> Preset:
    """The preset with what the user wants otherwise.

    Raises:
        UsageError: no name, or a setting that the preset's model has no use for.
        ModelError: no such preset or weights.
    """
    from medseg_cli import preset
    from medseg_cli.errors import UsageError
    from medseg_cli.overrides import with_options
    from medseg_cli.weights.choice import override

    if not name:
        raise UsageError("no preset given", f"add --preset with one of: {', '.join(preset.names())}")
    chosen = preset.find(name)
    if weights is not None:
        chosen = override(chosen, weights)
    return with_options(chosen, overrides)


def read(job: Job) -> Scan:
    """The scan, if it can be segmented and its mask can be written as asked.

    Raises:
        InputError: it cannot be read, is no image, or is too large for its mask's format.
        UsageError: the window or the mask's format does not go with it.
    """
    from medseg_cli.readers import check_image
    from medseg_cli.readers.modality import with_modality
    from medseg_cli.windows import check_named
    from medseg_cli.writers import formats

    scan = job.scan()
    check_image(scan)
    if job.modality:
        scan = with_modality(scan, job.modality)
    if job.window is not None:
        check_named(job.window, scan)
    formats.check_fits(job.files.formats, scan, job.choices)
    return scan


def settle(job: Job, run: Run, scan: Scan) -> Run:
    """The run with its prompt as it lies in the scan, and with notes on what the scan makes of the settings.

    Raises:
        InputError: frames over time, and a preset for volumes.
        InputError, UsageError: as `asked.place` and `postprocess.check_limit`.
    """
    from medseg_cli.errors import InputError
    from medseg_cli.postprocess import check_limit

    if scan.cine and run.preset.dims == 3:
        raise InputError(
            f"{scan.provenance.path} holds {scan.shape[2]} frames over time, and preset {run.preset.name} works on "
            "volumes",
            "use a preset for images (medseg presets list)",
        )
    placed = place(run.prompt, job.asked, run.preset, scan)
    chosen = "postprocessing.min_mm3" in run.preset.changes
    notes = check_limit(run.preset.postprocessing, scan, chosen=chosen)
    return replace(run, prompt=placed, typed=run.prompt, notes=(*run.notes, *notes))


def predict(pipeline: Pipeline, scan: Scan, run: Run, compiled: Compiled | None = None) -> tuple[Segmentation, Run]:
    """The segmentation, and the run with what compiling did if it was asked for."""
    with run.stages("segment"):
        if compiled is None:
            return pipeline.segment(scan, run.prompt, run.stages), run
        from medseg_cli.pipelines import compiling

        with compiling.told():
            result = pipeline.segment(scan, run.prompt, run.stages)
        return result, replace(run, compiled=compiling.keep(compiled))


def write(segmentation: Segmentation, run: Run, job: Job) -> dict[str, Any]:
    """Mask, picture and report, all or none; the report as data.

    Raises:
        InputError: an output cannot be written; nothing is left then.
    """
    from medseg_cli.writers import outputs

    with outputs.staged(job.files, overwrite=job.overwrite) as places:
        report, _ = make(segmentation, run, job, places)
    return report


def make(
    segmentation: Segmentation, run: Run, job: Job, places: Outputs
) -> tuple[dict[str, Any], tuple[Measurement, ...]]:
    """Write all files to `places`, stand-ins of the job's own; the report as data, and what it measured.

    Raises:
        InputError: a file cannot be written.
    """
    from concurrent.futures import ThreadPoolExecutor

    from medseg_cli.measure import measure
    from medseg_cli.segmentation import RANDOM_WEIGHTS
    from medseg_cli.writers import bids, outputs, preview, sidecar

    with run.stages("write"):
        # Packing runs outside Python's lock: the picture is drawn meanwhile. Both end before the block does.
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(outputs.write, segmentation, places, job.choices)
            measurements = measure(segmentation)
            if places.preview:
                stamp = RANDOM_WEIGHTS if run.random_weights else ""
                middle = focus(run.prompt, segmentation.scan)
                preview.write(segmentation, measurements, places.preview, focus=middle, stamp=stamp)
        notes = (*run.notes, *job.files.notes, *written.result())
    report = sidecar.describe(segmentation, measurements, replace(run, notes=notes))
    report["output"] = outputs.describe(segmentation, places, job.choices)
    if job.files.bids:
        report |= bids.facts(segmentation)
    sidecar.write(report, places.report)
    return report, measurements
