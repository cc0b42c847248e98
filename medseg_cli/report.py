"""All talking to people: progress, notes, the result, errors. Everything goes to stderr; stdout is for data."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from medseg_cli.logs import LEVELS, Talk, fields_of
from medseg_cli.stages import Stage

WAYS_SHOWN = 4
"""Ends of propagation that the summary names for each object; the report has all."""

CASES_SHOWN = 20
"""Failed and flagged cases of a batch that its summary names; the tables have all."""


def stderr() -> Console:
    """A console on stderr as it is now; plain lines of any length where it is no terminal."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class ConsoleLog(logging.Handler):
    """Log records for people: "error: ..." and "hint: ..."; tracebacks only where the level is DEBUG."""

    def emit(self, record: logging.LogRecord) -> None:
        console = stderr()
        word = record.levelname.lower()
        style = {"error": "bold red", "warning": "yellow"}.get(word, "dim")
        try:
            if record.exc_info and self.level <= logging.DEBUG:
                console.print("".join(traceback.format_exception(*record.exc_info)), style="dim", end="")
            if record.name.split(".")[0] != "medseg" and self.level > logging.INFO:
                return
            fields = fields_of(record)
            if self.level <= logging.DEBUG and "traceback" in fields:  # of another process
                console.print(fields["traceback"], style="dim")
            message, case = _one_line(record.getMessage()), fields.get("case", "")
            about = f"{case}: " if case and case not in message else ""
            console.print(Text.assemble((f"{word}: ", style), about, message))
            hint = fields.get("hint")
            if hint:
                console.print(Text.assemble(("hint: ", "bold"), _one_line(hint)))
        except OSError:
            self.handleError(record)


class Progress:
    """Shows the stages of a run: a spinner on a terminal, one line per finished stage everywhere.

    Args:
        talk: "quiet" shows nothing, "normal" the outer stages, "verbose" and "debug" the inner ones too.
    """

    def __init__(self, talk: Talk) -> None:
        self._console = stderr()
        self._depth = {"quiet": 0, "normal": 1}.get(talk, 99)
        self._open: list[str] = []
        self._spinner: Status | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal and self._depth:
            self._spinner = self._console.status("starting")
            self._spinner.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._spinner:
            self._spinner.stop()

    def __call__(self, name: str, stage: Stage | None) -> None:
        """`Stages.on_stage`."""
        if stage is None:
            self._open.append(name)
        else:
            self._open.pop()
            if len(self._open) < self._depth:
                self._console.print(f"{stage.stage}: {stage.seconds:.1f} s{_memory(stage)}", style="dim")
        if self._spinner and self._open:
            self._spinner.update(" > ".join(self._open))


def note(text: str, talk: Talk) -> None:
    """Something the user should know that is no error."""
    if LEVELS[talk] < logging.ERROR:
        stderr().print(Text.assemble(("note: ", "yellow"), _one_line(text)))


def summary(report: dict[str, Any], files: list[str], talk: Talk) -> None:
    """The result of one segmentation: a table on a terminal, a line per object elsewhere; then where it was written."""
    if LEVELS[talk] >= logging.ERROR:
        return
    console = stderr()
    if console.is_terminal:
        table = Table("label", "size", f"{_cell(report)}s", "centroid (ras mm)", "remarks")
        for label in report["labels"]:
            table.add_row(*_cells(label))
        console.print(table)
    else:
        for label in report["labels"]:
            name, size, count, centroid, remarks = _cells(label)
            cells = f"{_cell(report)}{'' if count == '1' else 's'}{' of all frames' if label.get('frames') else ''}"
            where = f", centroid {centroid} (ras mm)" if centroid != "-" else ""
            console.print(f"{name}: {size}, {count} {cells}{where}{'; ' + remarks if remarks else ''}")
    for line in [*_ellipses(report), *_spreads(report), *_how(report)]:
        console.print(line)
    device = report["run"]["device"]
    precision = report["precision"]
    # float32 needs no reason; anything else that nobody asked for does.
    chosen = f" ({precision['why']})" if precision["asked"] == "auto" and precision["used"] != "fp32" else ""
    console.print(f"{report['seconds']:.1f} s on {device}, {precision['used']}{chosen}; wrote {', '.join(files)}")
    if report["random_weights"]:
        from medseg_cli.segmentation import RANDOM_WEIGHTS

        console.print(RANDOM_WEIGHTS, style="bold red")
    for flag in report["flags"]:
        if flag["code"] != "empty":
            console.print(Text.assemble(("look at it: ", "bold yellow"), _one_line(flag["message"])))
    absent = {flag["label"] for flag in report["flags"] if flag["code"] == "presence"}
    gone = [label["name"] for label in report["labels"] if label["empty"] and label["value"] in absent]
    if gone:
        console.print(f"ABSENT: {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} not there", style="bold yellow")
    empty = [label["name"] for label in report["labels"] if label["empty"] and label["value"] not in absent]
    if empty:
        console.print(f"EMPTY: nothing was segmented for {', '.join(empty)}", style="bold yellow")


def batch_summary(summary: dict[str, Any], records: Sequence[Any], out: str, talk: Talk) -> None:
    """What a batch has left: how many cases of each status, those that need a look, and where the files are.

    Args:
        summary: as in `run.json`.
        records: of all its cases.
        out: folder of the outputs.
        talk: "quiet" says nothing.
    """
    if LEVELS[talk] >= logging.ERROR:
        return
    console = stderr()
    for status, style in (("failed", "bold red"), ("absent", "yellow"), ("flagged", "yellow")):
        found = [each for each in records if each.status == status]
        if found and console.is_terminal:
            table = Table(status, "reason", header_style=style)
            for each in found[:CASES_SHOWN]:
                table.add_row(Text(each.id), Text(_one_line(each.reason)))
            console.print(table)
        if len(found) > CASES_SHOWN and console.is_terminal:
            console.print(f"... and {len(found) - CASES_SHOWN} more {status}")
    counts = ", ".join(f"{count} {status}" for status, count in summary["status"].items() if count)
    left = summary["cases"] - sum(summary["status"].values())
    console.print(f"{summary['cases']} cases: {counts or 'none run'}{f', {left} not run' if left else ''}")
    curves = any(output["kind"] == "areas-csv" for each in records for output in each.outputs)
    tables = "cases.csv, cases.jsonl, areas.csv" if curves else "cases.csv, cases.jsonl"
    console.print(f"{summary['run']} run in {summary['seconds']:.1f} s; wrote {out}: {tables}, report.html")


def size(label: dict[str, Any]) -> str:
    """Of an object, as its report has it: a volume, a picture's area, a cine's areas, or that it is unknown."""
    frames = label.get("frames")
    if frames:
        return _over_time(frames)
    if label["volume_ml"] is not None:
        return f"{label['volume_ml']:.3f} mL"
    return "size unknown" if label["area_mm2"] is None else f"{label['area_mm2']:.1f} mm²"


def _over_time(frames: dict[str, Any]) -> str:
    """An object in the frames of a cine."""
    if not frames["shown"]:
        return f"in none of {frames['count']} frames"
    unit, found = ("mm²", frames["area_mm2"]) if frames["area_mm2"] else ("px", frames["pixels"])
    mean, low, high = (_plain(found[key], 4) for key in ("mean", "min", "max"))
    return f"{mean} {unit} ({low} to {high}) in {frames['shown']} of {frames['count']} frames"


def _cell(report: dict[str, Any]) -> str:
    """What people call one value of the scan: pictures and cines have pixels, as `Scan.cell` says."""
    scan = report["input"]
    whole = any(label["volume_ml"] is not None for label in report["labels"])
    return "voxel" if whole or (scan["shape_ijk"][2] > 1 and scan["frames"] is None) else "pixel"


def _cells(label: dict[str, Any]) -> tuple[str, str, str, str, str]:
    centroid = label["centroid_ras_mm"]
    remarks = "EMPTY" if label["empty"] else "touches the edge of the scan" if label["touches_border"] else ""
    where = ", ".join(f"{value:.1f}" for value in centroid) if centroid else "-"
    return label["name"], size(label), str(label["voxels"]), where, remarks


def _ellipses(report: dict[str, Any]) -> list[str]:
    """The ellipse of each label of that shape, with what obstetrics calls its parts; or why there is none."""
    lines = []
    for label in report["labels"]:
        found = label.get("ellipse")
        if found is None:
            why = label["reasons"].get("ellipse")
            lines += [f"{label['name']}: no ellipse: {why}"] if why and not label["empty"] else []
            continue
        unit, square = ("mm", "mm²") if found["circumference_mm"] is not None else ("px", "pixels")
        area = found["area_mm2"] if unit == "mm" else found["area_px"]
        parts = [
            f"{word} {found[f'{name}_{unit}']:.1f} {unit}"
            for word, name in (
                ("circumference (HC)", "circumference"),
                ("long axis (OFD)", "long_axis"),
                ("short axis (BPD)", "short_axis"),
            )
        ]
        frame = f", frame {found['frame']}" if "frames" in found else ""
        lines.append(f"{label['name']}: ellipse{frame}: {', '.join(parts)}, area {area:.0f} {square}")
        lines += [f"{label['name']}: ellipse: {text}" for text in found["notes"]]
    return lines


def _spreads(report: dict[str, Any]) -> list[str]:
    """How far the answers about each label lie apart, where they were compared."""
    lines = []
    for label in report["labels"]:
        spread = label.get("spread")
        if spread is None:
            continue
        agreed = spread["agreement"]
        factor, unit = (0.001, "mL") if spread["mean_mm3"] is not None else (1.0, "mm²")
        key = next((key for key in ("mm3", "mm2") if spread[f"mean_{key}"] is not None), "voxels")
        if key == "voxels":
            unit = "pixels of all frames" if label.get("frames") else "pixels"
        mean, deviation = (_plain(factor * spread[f"{what}_{key}"], 3) for what in ("mean", "sd"))
        lines.append(
            f"{label['name']}: {spread['answers']} {spread['of']} agree with the mask to Dice {agreed['mean']:.3f} "
            f"(least {agreed['least']:.3f}) and measure {mean} ± {deviation} {unit}"
        )
    return lines


def _how(report: dict[str, Any]) -> list[str]:
    """What a slice pipeline did, one line each: slices and grey values, where propagation ended, what was cleaned."""
    facts = report["pipeline"]
    if "slices" not in facts:
        return []
    slices, shown = facts["slices"], facts["display"]
    low, high = shown["low"], shown["high"]
    grey = (
        f"window {_plain((low + high) / 2)}/{_plain(high - low)}"
        if shown["method"] == "window"
        else f"grey {_plain(low)} to {_plain(high)}"
    )
    grey = f"{grey}, {shown['why']}"
    if slices["count"] == 1:
        return [f"1 image{' from the cache' if slices['from_cache'] else ''} ({grey})", *_cleaned(report)]
    cached = f", {slices['from_cache']} from the cache" if slices["from_cache"] else ""
    frames = slices["plane"] == "frame"
    what, one = ("frames", "frame") if frames else (f"{slices['plane']} slices", "slice")
    lines = [f"{slices['encoded']} of {slices['count']} {what} encoded{cached} ({grey})"]
    for label, each in zip(report["labels"], facts["objects"], strict=True):
        ends = [f"{way['from']} to {way['to']} ({way['because']})" for way in each["propagation"]]
        more = f"; {len(ends) - WAYS_SHOWN} more in the report" if len(ends) > WAYS_SHOWN else ""
        if ends:
            lines.append(f"{label['name']}: followed from {one} {'; '.join(ends[:WAYS_SHOWN])}{more}")
        window = each.get("time", {}).get("window")
        if window:
            # Who draws for words smooths as its own preset says.
            hint = "" if "segmenters" in facts else " (--smooth-time 0 leaves them)"
            lines.append(f"{label['name']}: every frame smoothed over {window}{hint}")
    return [*lines, *_cleaned(report)]


def _cleaned(report: dict[str, Any]) -> list[str]:
    """A line per object that cleaning changed."""
    lines = []
    for label, each in zip(report["labels"], report["pipeline"]["objects"], strict=True):
        done = []
        for step in each["cleaning"]:
            done += [
                f"{step['step']} {word} {_amount(step, word)}"
                for word in ("removed", "added")
                if step.get(f"{word}_voxels")
            ]
        if done:
            lines.append(f"{label['name']}: {', '.join(done)}")
    return lines


def _amount(step: dict[str, Any], word: str) -> str:
    """How much was removed or added: in mm³, of a picture in mm², in pixels where their size is unknown."""
    for key, unit in (("mm3", "mm³"), ("mm2", "mm²")):
        value = step[f"{word}_{key}"]
        if value is not None:
            return f"{value:.0f} {unit}" if value >= 100 else f"{_plain(value, 3)} {unit}"
    count = step[f"{word}_voxels"]
    return f"{count} pixel{'' if count == 1 else 's'}"


def _plain(value: float, digits: int = 4) -> str:
    """A number without an exponent: whole if it is whole or large, else with so many digits."""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{Decimal(f'{value:.{digits}g}'):f}"


def _memory(stage: Stage) -> str:
    rss = f", {stage.peak_rss_mib:.0f} MiB" if stage.peak_rss_mib and stage.peak_rss_scope == "stage" else ""
    return rss + (f", {stage.peak_cuda_mib:.0f} MiB CUDA" if stage.peak_cuda_mib else "")


def _one_line(text: str) -> str:
    """As it may stand on a terminal: what is typed or found in files could hold line ends and commands to it."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
