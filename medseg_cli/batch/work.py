"""One case of a batch: loaded, predicted, finished. The engines run these steps in turn or side by side.

`run_case` is all of it; `load`, `predict` and `finish` are its steps, each with the result of the one before. Whatever
goes wrong in a step becomes a failed record: the other cases are not concerned.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg_cli.batch import inputs, publish, records, workspace
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.models import Models
from medseg_cli.batch.outcome import begun, described, failed, now
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.stages import Stages

if TYPE_CHECKING:
    from medseg_cli.measure import Measurement
    from medseg_cli.scan import Scan
    from medseg_cli.segmentation import Segmentation
    from medseg_cli.steps import Job
    from medseg_cli.writers.names import Outputs
    from medseg_cli.writers.sidecar import Run


@dataclass(frozen=True, eq=False)
class Loaded:
    """A case in memory.

    Args:
        case: which.
        record: what is known of it so far.
        run: preset, prompt in the scan, stages.
        job: where its outputs go.
        scan: as read.
    """

    case: BatchCase
    record: Record
    run: Run
    job: Job
    scan: Scan


@dataclass(frozen=True, eq=False)
class Predicted:
    """A case with its segmentation."""

    loaded: Loaded
    run: Run
    segmentation: Segmentation


def run_case(case: BatchCase, settings: Settings, models: Models) -> Record:
    """Run a case from its file to its outputs and its record on disk.

    Whatever goes wrong becomes a failed record; only what ends the whole process (KeyboardInterrupt) is raised.
    """
    started = now()
    try:
        return finish(predict(load(case, settings, models), models), settings)
    except Exception as error:
        return failed(case, settings, error, started)


def load(case: BatchCase, settings: Settings, models: Models) -> Loaded:
    """Read a case and place its prompt. A second thread may do so; `models.start` has been called before.

    Raises:
        MedsegError: it cannot be read, or not be segmented as asked, or not be written where it belongs.
    """
    from medseg_cli import steps
    from medseg_cli.asked import check_kinds
    from medseg_cli.readers import load_scan
    from medseg_cli.segmentation import RANDOM_WEIGHTS
    from medseg_cli.writers import sidecar

    if case.problem is not None:
        raise case.problem
    record = begun(case, settings)
    preset, fingerprint = models.preset(case.preset)
    prompt = case.asked.prompt()
    check_kinds(preset, prompt, case.asked)
    files = plan(case, settings)
    publish.check_free(case, settings.out, files.files, overwrite=settings.overwrite)
    notes = (RANDOM_WEIGHTS,) if settings.random_weights else ()
    run = sidecar.Run(preset, prompt, models.start(), Stages(), settings.command, settings.random_weights, notes)
    with run.stages("read"):
        # Before the scan is read: what changes while it is read must not be taken for what was segmented.
        source = {**record.input, "sha256": inputs.digest(case)}
        found = load_scan(case.scan, case.reading)
        files, left_out = _fitting(files, found, settings)
        job = steps.Job(
            scan=lambda: found,
            modality=case.modality or settings.modality,
            asked=case.asked,
            window=settings.overrides.window,
            files=files,
            choices=settings.choices,
            overwrite=settings.overwrite,
        )
        scan = steps.read(job)
        run = steps.settle(job, replace(run, notes=(*run.notes, *left_out)), scan)
    record = replace(record, input=source, settings_sha256=inputs.asked(case, fingerprint), preset=preset.name)
    return Loaded(case, record, run, job, scan)


def _fitting(files: Outputs, scan: Scan, settings: Settings) -> tuple[Outputs, tuple[str, ...]]:
    """The outputs that can be made of a scan, and why others cannot: a batch has scans of all kinds.

    Where no mask is left, all stay, and whoever checks them says what is wrong.
    """
    from medseg_cli.errors import UsageError
    from medseg_cli.writers import formats

    good, notes = [], []
    for each in files.written:
        try:
            formats.check_fits((each.format,), scan, replace(settings.choices, values="auto"))
            good.append(each)
        except UsageError as error:
            notes.append(f"{each.format.name} left out: {error.message}")
    if not any(each.format.content == "voxels" for each in good):
        return files, ()
    return replace(files, written=tuple(good)), tuple(notes)


def predict(loaded: Loaded, models: Models) -> Predicted:
    """Segment a loaded case, in the thread that owns the models.

    Raises:
        MedsegError: the pipeline's reasons.
    """
    from medseg_cli import steps

    pipeline = models.pipeline(loaded.case.preset)
    run = replace(loaded.run, runtime=pipeline.runtime)
    segmentation, run = steps.predict(pipeline, loaded.scan, run)
    return Predicted(loaded, run, segmentation)


def finish(predicted: Predicted, settings: Settings) -> Record:
    """Write the outputs of a case and its record. Another thread may do so.

    Raises:
        MedsegError: something cannot be written; no output has appeared then.
    """
    from medseg_cli import steps
    from medseg_cli.writers import bids

    loaded, run = predicted.loaded, predicted.run
    out, record = settings.out, loaded.record
    folder = workspace.own(out) / records.name_of(record.id)
    folder.mkdir()
    try:
        places = loaded.job.files.within(folder)
        report, measurements = steps.make(predicted.segmentation, run, loaded.job, places)
        thumbnail, view = _view(predicted, measurements, folder, settings)
        record = described(record, report, run)
        record = replace(record, thumbnail=thumbnail, finished=now())
        made = [
            each
            for place, stand_in in zip(loaded.job.files.files, places.files, strict=True)
            for each in _made(stand_in, place, loaded.job)
        ]
        if loaded.job.files.bids:
            bids.describe(out)
        return publish.publish(out, record, made, overwrite=settings.overwrite, view=view)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plan(case: BatchCase, settings: Settings) -> Outputs:
    """Where the outputs of a case go."""
    from medseg_cli.readers import detect
    from medseg_cli.writers.names import plan_case

    try:
        picture = case.scan.is_file() and detect.detect(case.scan).format == "image"
    except OSError:
        picture = False  # reading it will say why
    return plan_case(
        settings.out,
        case.id,
        preview=settings.preview,
        wanted=settings.formats,
        naming=settings.naming,
        picture=picture,
    )


def _view(
    predicted: Predicted, measurements: tuple[Measurement, ...], folder: Path, settings: Settings
) -> tuple[str, list[tuple[Path, Path]]]:
    """Make what the page shows of the case: where its thumbnail will lie in the output folder, and what goes where."""
    from medseg_cli.asked import focus
    from medseg_cli.batch_page import views
    from medseg_cli.segmentation import RANDOM_WEIGHTS

    scan, run = predicted.loaded.scan, predicted.run
    stamp = RANDOM_WEIGHTS if settings.random_weights else ""
    with run.stages("view"):
        draft = folder / "view" / records.name_of(predicted.loaded.case.id)
        thumbnail = views.write_view(
            predicted.segmentation, measurements, draft, focus=focus(run.prompt, scan), stamp=stamp
        )
    place = settings.out / views.FOLDER
    # The JSON comes last: where it is, the rest is too.
    parts = sorted(draft.parent.iterdir(), key=lambda each: each.suffix == ".json")
    moves = [(path, place / path.name) for path in parts]
    return (place / thumbnail.name).relative_to(settings.out).as_posix(), moves


def _made(stand_in: Path, place: Path, job: Job) -> list[publish.Made]:
    """The files of one output; a folder's each for itself, none where nothing was written."""
    kinds = {each.path: each.format.name for each in job.files.written}
    kind = kinds.get(place, "report" if place == job.files.report else "preview")
    if stand_in.is_dir():
        return [publish.Made(each, place / each.name, kind) for each in sorted(stand_in.iterdir())]
    return [publish.Made(stand_in, place, kind)] if stand_in.exists() else []
