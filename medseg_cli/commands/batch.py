"""`medseg batch`: a folder of scans, or a list of them, without watching."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medseg_cli.commands import batch_options as own
from medseg_cli.commands import options
from medseg_cli.commands import segment_options as shared

if TYPE_CHECKING:
    from medseg_cli.asked import Asked
    from medseg_cli.batch.budget import Budget
    from medseg_cli.batch.case import BatchCase, Cases
    from medseg_cli.batch.run import Engine, Result
    from medseg_cli.batch.settings import Settings
    from medseg_cli.logs import Talk


def batch(
    source: own.Input,
    output: own.Output = None,
    preset: options.PresetName = "",
    include: own.Include = None,
    exclude: own.Exclude = None,
    shard: own.Shard = "",
    limit: own.Limit = None,
    dry_run: own.DryRun = False,
    retry_failed: own.RetryFailed = False,
    fail_fast: own.FailFast = False,
    text: shared.Texts = None,
    text_file: shared.TextFile = None,
    not_: shared.Nots = None,
    text_model: shared.TextModel = None,
    detector: shared.Detector = None,
    engine: own.Engine = "local",
    ray_address: own.RayAddress = "",
    shards: own.Shards = None,
    slurm: own.Slurm = None,
    slices: shared.Slices = None,
    window: shared.WindowText = None,
    propagate: shared.Propagate = None,
    max_slices: shared.MaxSlices = None,
    batch_slices: shared.BatchSlices = None,
    smooth_time: shared.SmoothTime = None,
    sector: shared.Sector = None,
    mirror: shared.Mirror = None,
    redraw: shared.Redraw = None,
    embedding_cache: shared.EmbeddingCache = None,
    keep: shared.Keep = None,
    min_mm3: shared.MinMm3 = None,
    fill_holes: shared.FillHoles = None,
    channel: options.Channel = None,
    spacing: options.Spacing = None,
    cine: options.Cine = False,
    modality: shared.Modality = "",
    on_gap: options.OnGap = "error",
    on_tilt: options.OnTilt = "error",
    on_duplicate: options.OnDuplicate = "error",
    weights: shared.Weights = None,
    random_weights: shared.RandomWeights = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    jobs: own.Jobs = None,
    together: own.Together = 0,
    memory: own.Memory = None,
    overwrite: own.OverwriteUnclaimed = False,
    preview: shared.Preview = True,
    uncertainty: shared.Uncertainty = False,
    samples: shared.Samples = None,
    format_: options.Formats = None,
    naming: options.Naming = "case",
    ml: options.LabelValues = None,
    mesh_frame: options.MeshFrame = "lps",
    mesh_smooth: options.MeshSmooth = 10,
    seg_type: options.SegType = "binary",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_json: options.LogJson = "",
) -> None:
    """Segment every scan of a folder or a list; run it again and it goes on where it was.

    medseg batch scans/ -o out/ --preset chest-xray-lungs

    medseg batch manifest.csv -o out/ --preset hippocampus-mr --format nifti,dicom-seg

    medseg batch scans/ -o out/ --preset chest-xray-lungs --shard 2/8 --jobs 4

    medseg batch scans/ -o out/ --preset medclip-sam --text "both lungs"
    """
    talk = options.start_talking(quiet, verbose, debug, log_json)
    from medseg_cli import report
    from medseg_cli.batch import budget, devices, estimate, plan, run
    from medseg_cli.batch import dry_run as trial
    from medseg_cli.batch.listing import list_cases
    from medseg_cli.batch.models import Models
    from medseg_cli.batch.settings import Settings
    from medseg_cli.commands import batch_dry_run
    from medseg_cli.commands.batch_display import Display
    from medseg_cli.errors import UsageError
    from medseg_cli.overrides import Overrides
    from medseg_cli.readers.modality import parse_modality
    from medseg_cli.writers import formats

    if output is None:
        raise UsageError("no output folder given", "medseg batch INPUT -o OUT --preset NAME")
    wanted = formats.parse((*(format_ or ()), *(["uncertainty"] if uncertainty else [])))
    settings = Settings(
        out=output.expanduser().absolute(),
        preset=preset,
        weights=weights,
        random_weights=random_weights,
        overrides=Overrides(
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
        ),
        modality=parse_modality(modality) if modality else "",
        device=device,
        precision=precision,
        seed=seed,
        deterministic=deterministic,
        formats=wanted,
        naming=naming,
        choices=options.format_choices(ml, mesh_frame, mesh_smooth, seg_type),
        preview=preview,
        overwrite=overwrite,
        together=together,
        command=("medseg", *sys.argv[1:]),
    )
    reading = options.read_options(None, channel, spacing, on_gap, on_tilt, on_duplicate, cine)
    cases = list_cases(
        source,
        out=settings.out,
        reading=reading,
        asked=_said(tuple(text or ()), text_file, tuple(not_ or ())),
        modality=settings.modality,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
    )
    cases = replace(cases, cases=plan.apart(cases.cases, naming))
    for note in cases.notes:
        report.note(note, talk)
    workers = devices.of_workers(device, jobs) if engine == "local" else ()
    most, needs = budget.limit(memory, max(1, len(workers) or jobs or 0)), estimate.needs()
    if dry_run:
        mine = plan.shard(cases.cases, shard)
        told = trial.describe(mine, Models(settings), needs, most, limit=limit, retry_failed=retry_failed)
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else batch_dry_run.text_of(told))
        return
    if engine == "slurm":
        _submit(cases, settings, shards, tuple(slurm or ()), talk, as_json=as_json)
        return
    if shards is not None or slurm:
        raise UsageError("--shards and --slurm go with --engine slurm", "add it, or use --shard I/N in your own script")
    if ray_address and memory is None:
        needs = _unknown  # this machine's memory says nothing about that of the nodes
    run.prepare(settings.out)
    mine, models, display = plan.shard(cases.cases, shard), Models(settings), Display(talk)
    with display.looking(len(mine)) as on_case:
        planned = plan.sort(mine, models, needs, most, limit=limit, retry_failed=retry_failed, on_case=on_case)
    facts = {
        "input": str(source),
        "preset": preset,
        "presets": models.facts(),
        "command": shlex.join(settings.command),
        "notes": list(cases.notes),
        "workers": list(workers),
        "memory_gib": round(most / budget.GIB, 2),
    }
    chosen = _engine(engine, settings, workers, ray_address, jobs, budget.Budget(needs, most))
    try:
        result = run.run(
            planned, settings, chosen, run.Watch(display.begin, display.record), fail_fast=fail_fast, facts=facts
        )
    finally:
        display.end()
    _tell(result, settings, talk, as_json=as_json)
    _end(result)


def _said(texts: tuple[str, ...], table: Path | None, nots: tuple[str, ...]) -> Asked:
    """The texts of all cases that have no prompt of their own.

    Raises:
        UsageError, InputError: they cannot be used.
    """
    from medseg_cli.asked import Asked

    asked = Asked((), (), "ijk", "", None, None, None, texts, table, nots)
    asked.prompt()
    return asked


def _submit(
    cases: Cases, settings: Settings, shards: int | None, wanted: tuple[str, ...], talk: Talk, *, as_json: bool
) -> None:
    """Hand the batch to Slurm, once it is known that any of it can work.

    Raises:
        UsageError: nothing says into how many tasks.
        MedsegError: no case can be run, all for the same reason; or as `slurm.submit`.
        typer.Exit: tasks that were tried out on this machine have failed.
    """
    from medseg_cli import errors, report
    from medseg_cli.batch import plan, run
    from medseg_cli.batch import slurm as engine
    from medseg_cli.batch.models import Models

    if shards is None:
        raise errors.UsageError("--engine slurm needs to know into how many tasks", "add --shards N")
    plan.problems(cases.cases, Models(settings))
    run.prepare(settings.out)
    sent = engine.submit(sys.argv[1:], settings.out, min(shards, len(cases.cases)), wanted)
    report.note(f"{len(sent.jobs)} tasks for {len(cases.cases)} cases: {', '.join(sent.jobs)}", talk)
    report.note(f"scripts and logs: {sent.folder}; `medseg report {settings.out}` collects what is done", talk)
    if as_json:
        told = {"jobs": list(sent.jobs), "folder": str(sent.folder), "cases": len(cases.cases), "codes": sent.codes}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    if any(sent.codes):
        raise typer.Exit(next((code for code in sent.codes if code not in (0, errors.SOME_FAILED)), errors.SOME_FAILED))


def _engine(
    name: str, settings: Settings, workers: tuple[str, ...], ray_address: str, jobs: int | None, memory: Budget
) -> Engine:
    """What runs the cases.

    Raises:
        UsageError: options that do not go together.
    """
    from medseg_cli.batch import devices, local
    from medseg_cli.errors import UsageError

    if name == "ray":
        from medseg_cli.batch import ray_engine

        held = None if ray_address else memory
        return lambda cases, tell: ray_engine.run(
            cases, settings, tell, address=ray_address, jobs=jobs or 0, budget=held
        )
    if ray_address:
        raise UsageError("--ray-address goes with --engine ray", "add it, or leave the address out")
    threads = devices.threads_of_worker(len(workers))

    def run(cases: Any, tell: Any) -> None:
        local.run(cases, settings, tell, devices=workers, threads=threads, budget=memory)

    return run


def _unknown(case: BatchCase) -> int:
    """Memory of a case, where no prediction can be held against anything."""
    return 0


def _tell(result: Result, settings: Settings, talk: Talk, *, as_json: bool) -> None:
    from medseg_cli import report

    report.batch_summary(result.summary, result.records, str(settings.out), talk)
    if as_json:
        typer.echo(json.dumps(result.summary, indent=2, ensure_ascii=False))


def _end(result: Result) -> None:
    """End as `docs/exit-codes.md` has it.

    Raises:
        KeyboardInterrupt: somebody stopped the run; what there was has been written.
        MedsegError: all cases failed, for one reason.
        typer.Exit: some failed.
    """
    from medseg_cli import errors

    failed = result.failed
    if result.interrupted:
        raise KeyboardInterrupt
    if not failed:
        return
    reasons = {(each.error or {}).get("message") for each in failed}
    if len(failed) == len(result.records) and len(reasons) == 1:
        told = failed[0].error or {}
        raise errors.with_code(told["code"], told["message"], told["hint"])
    raise typer.Exit(errors.SOME_FAILED)
