"""`make bench-finetune`: what fine-tuning gains on real scans, by the command line that users type.

For each task the same held-back cases are measured at the starting point and after training on 5, 20 and all training
cases: from an embedded preset, from random weights, and by a U-Net without prompts (dynunet-baseline). Every run gets
the same training time. Finished rows stay in the work folder; the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TRIAL_STEPS, WARM_STEPS = 12, 4
"""Steps of the trial that tells what one costs, the first of which do not count: they import what they need. Its
learning rate leaves the weights as they are."""
ALL = 0
"""Number of training cases that means all of them."""


@dataclass(frozen=True)
class Method:
    """One way to a network.

    Args:
        name: in the table.
        preset: its name.
        start: "preset" or "scratch".
        prompt: what the network is told about a held-back case, in words.
        learning_rate: peak; None is the recipe's own.
        changes: sections of the preset that differ for this task.
    """

    name: str
    preset: str
    start: str
    prompt: str
    learning_rate: float | None = None
    changes: dict[str, dict[str, Any]] | None = None


@dataclass(frozen=True)
class Task:
    """One dataset with its methods.

    Args:
        name: folder in the data root.
        title: in the page.
        sizes: numbers of training cases, `ALL` for all.
        validation, test: cases of these parts that are used, the first of the split.
        objects: what `--objects` is.
        methods: to be compared.
        remark: what a reader must know to judge the numbers.
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    validation: int
    test: int
    objects: str
    methods: tuple[Method, ...]
    remark: str


CLICK = "one click in each object, at a random voxel of the reference (seed 0)"
TUNED, FRESH = 8e-4, 1.5e-3
"""Learning rates of the two runs that made hippocampus-mr, from its model card."""
COARSE = {"preprocessing": {"spacing": [3.0, 3.0, 3.0]}, "options": {"max_crops": 8}}
SMALL_US = {
    "variant": None,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "window_size": 8,
    "global_attn_indexes": [1, 3],
    "prompt_dim": 64,
    "decoder_mlp_dim": 128,
    "iou_dim": 32,
}
"""A transformer of 64 channels in 4 blocks; None takes a key out."""
SMALL = {**SMALL_US, "image_size": 256, "mlp_dim": 256}
UNET = Method("dynunet-baseline", "dynunet-baseline", "scratch", "no prompt")
TASKS = (
    Task(
        "hippocampus-mr",
        "Anterior and posterior hippocampus, T1 MR",
        (5, 20, ALL),
        2,
        12,
        "apart",
        (
            Method("hippocampus-mr, tuned", "hippocampus-mr", "preset", CLICK, TUNED),
            Method("hippocampus-mr, random start", "hippocampus-mr", "scratch", CLICK, FRESH),
            UNET,
        ),
        "The embedded preset hippocampus-mr was trained on this dataset's training cases (all 143 of them, both parts "
        "as one object), so its rows with 5 and 20 cases have seen more images than they say. The held-back cases are "
        "of the preset's own test split: no method has seen them. Its starting point was made to outline the whole "
        "hippocampus, not its two parts.",
    ),
    Task(
        "Dataset101_HeadNeckCT",
        "Seven organs in head-and-neck CT",
        (5, ALL),
        1,
        2,
        "apart",
        (
            Method("hippocampus-mr, tuned", "hippocampus-mr", "preset", CLICK, TUNED, COARSE),
            Method("hippocampus-mr, random start", "hippocampus-mr", "scratch", CLICK, FRESH, COARSE),
            UNET,
        ),
        "The embedded preset knows neither CT nor these organs. The voxels are 4 to 5 mm long, so both of its rows use "
        "it at 3 mm instead of 1 mm (crops of 144 mm) and follow an object over at most 8 crops. Two held-back "
        "patients are few: the interval says how much that leaves open.",
    ),
    Task(
        "fetal-head-us-half",
        "Fetal head in ultrasound",
        (20,),
        4,
        40,
        "together",
        (
            Method("chest-xray-lungs, tuned", "chest-xray-lungs", "preset", "no prompt"),
            Method("SAM, small, random start", "sam-vit-b", "scratch", CLICK, 1e-3, {"model": SMALL}),
            Method("SAMUS, small, random start", "samus", "scratch", CLICK, 1e-3, {"model": SMALL_US}),
        ),
        "The first is a SAM-UNet made for the lungs in X-rays, tuned for another organ in another modality. The "
        "published weights of SAM and SAMUS were not at hand: their rows show that the command trains them, with small "
        "networks of their kind from random weights, and say nothing about the published ones.",
    ),
)


def main() -> int:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the datasets")
    parser.add_argument("--work", type=Path, default=Path("out/bench-finetune"), help="folder of runs and rows")
    parser.add_argument("--seconds", type=float, default=150.0, help="training time of each run")
    parser.add_argument("--page", type=Path, help="write the table there, as Markdown")
    parser.add_argument("--task", action="append", help="only this dataset (repeatable)")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for task in TASKS:
        if chosen.task and task.name not in chosen.task:
            continue
        if not (chosen.data / task.name).is_dir():
            say(f"{task.name}: skipped, there is no {chosen.data / task.name}")
            continue
        for row in rows_of(task, chosen.data / task.name, chosen.work, chosen.seconds):
            rows.append(row)
            say(line_of(row))
    (chosen.work / "rows.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    page = page_of(rows, chosen.seconds, hardware())
    if chosen.page:
        chosen.page.write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)
    return 0


def rows_of(task: Task, data: Path, work: Path, seconds: float) -> Iterable[dict[str, Any]]:
    """The rows of a task, each from its file if it is there, else measured."""
    split = split_of(data)
    for method in task.methods:
        for cases in (None, *task.sizes):
            if cases is not None and cases > len(split["train"]):
                continue
            folder = work / task.name / f"{slug(method.name)}-{'start' if cases is None else cases or 'all'}"
            row = folder / "row.json"
            if not row.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                known = work / task.name / f"{slug(method.name)}-start" / "row.json"
                measured = measure(task, method, data, folder, split, cases, seconds, known)
                part = row.with_suffix(".part")
                part.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
                part.replace(row)
            yield json.loads(row.read_text(encoding="utf-8"))


def measure(
    task: Task,
    method: Method,
    data: Path,
    folder: Path,
    split: dict[str, list[str]],
    cases: int | None,
    seconds: float,
    known: Path,
) -> dict[str, Any]:
    """One row: train, then measure on the held-back cases.

    Args:
        cases: training cases; `ALL`, or None for the starting point, which also finds out how long a step takes.
        known: row of the starting point.
    """
    used = {
        "train": split["train"][: cases or None],
        "validation": split["validation"][: task.validation],
        "test": split["test"][: task.test],
    }
    (folder / "split.json").write_text(json.dumps(used), encoding="utf-8")
    preset = preset_of(method, folder)
    if cases is None:
        steps, rate = TRIAL_STEPS, ["--learning-rate", "1e-7"]
    else:
        steps = max(1, round(seconds / json.loads(known.read_text())["seconds_per_step"]))
        rate = [] if method.learning_rate is None else ["--learning-rate", str(method.learning_rate)]
    run = folder / "run"
    words = ["finetune", str(data), "-o", str(run), "--preset", preset, "--start", method.start]
    words += ["--splits", str(folder / "split.json"), "--objects", task.objects, "--batch-size", "2"]
    words += ["--steps", str(steps), *rate, "--validate-every", str(WARM_STEPS if cases is None else steps)]
    words += ["--seed", "0", "--tracker", "none", "--workers", "0", "--device", "cpu", "--quiet"]
    trained = medseg(words)
    with (run / "log.csv").open(encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    report = folder / "report"
    words = ["evaluate", str(data), "--preset", str(run), "--splits", str(folder / "split.json"), "-o", str(report)]
    words += ["--objects", task.objects, "--seed", "0", "--device", "cpu", "--quiet", "--overwrite"]
    tested = medseg(words)
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    dice = summary["statistics"]["all"]["Dice"]
    return {
        "task": task.name,
        "method": method.name,
        "prompt": method.prompt,
        "training_cases": None if cases is None else len(used["train"]),
        "steps": 0 if cases is None else steps,
        "seconds_per_step": seconds_per_step(log),
        "training_seconds": 0.0 if cases is None else float(log[-1]["seconds"]),
        "command_seconds": trained["seconds"],
        "training_peak_mib": trained["peak_mib"],
        "evaluate_seconds": tested["seconds"],
        "test_cases": len(used["test"]),
        "objects": dice["n"],
        "dice": dice["mean"],
        "dice_low": dice["low"],
        "dice_high": dice["high"],
        "dice_by_label": {
            summary["labels"][label]: values["Dice"]["mean"]
            for label, values in summary["statistics"].items()
            if label != "all"
        },
        "commands": [trained["command"], tested["command"]],
    }


def seconds_per_step(log: Sequence[dict[str, str]]) -> float:
    """What a step costs once everything is imported: between the first validation and the last, if there are two."""
    first = log[0] if len(log) > 1 else {"step": "0", "seconds": "0"}
    return (float(log[-1]["seconds"]) - float(first["seconds"])) / (int(log[-1]["step"]) - int(first["step"]))


def split_of(data: Path) -> dict[str, list[str]]:
    """The dataset's split of seed 0, by case names: the one that the embedded presets were trained with."""
    from medseg_cli.datasets import read_cases, split_cases

    split = split_cases(read_cases(data), 0)
    return {part: [case.id for case in getattr(split, part)] for part in ("train", "validation", "test")}


def preset_of(method: Method, folder: Path) -> str:
    """The preset's name, or the path of a copy with the method's changes."""
    if not method.changes:
        return method.preset
    shown = subprocess.run(
        [sys.executable, "-m", "medseg_cli", "presets", "show", method.preset],
        capture_output=True,
        text=True,
        check=True,
    )
    changed = yaml.safe_load(shown.stdout)
    for section, values in method.changes.items():
        changed[section] = {key: value for key, value in (changed[section] | values).items() if value is not None}
    path = folder / "preset.yaml"
    path.write_text(yaml.safe_dump({**changed, "name": "preset", "accuracy": []}, sort_keys=False), encoding="utf-8")
    return str(path)


def medseg(words: Sequence[str]) -> dict[str, Any]:
    """Run the command line; how long it took, and the peak memory of its process."""
    say(f"medseg {' '.join(words)}")
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "medseg_cli", *words])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"medseg {' '.join(words)} ended with {process.returncode}")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    peak = usage.ru_maxrss * kilobyte / 2**20
    return {"seconds": time.monotonic() - started, "peak_mib": peak, "command": f"medseg {' '.join(words)}"}


def hardware() -> str:
    """Processor, cores in use and torch, in words."""
    import torch

    name = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        named = [line.split(":", 1)[1].strip() for line in listing.read_text().splitlines() if "model name" in line]
        name = named[0] if named else name
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__.split('+')[0]}"


def page_of(rows: Sequence[dict[str, Any]], seconds: float, machine: str) -> str:
    """The page: what was done, and a table per task."""
    lines = [
        "# What fine-tuning gains",
        "",
        f"`make bench-finetune`, {date.today().isoformat()}, {machine}, seed 0. Every run got the time of about "
        f"{seconds:.0f} s of training steps: the number of steps is that time over the seconds per step of a trial of "
        f"{TRIAL_STEPS}. Batches are of 2 samples. Learning rates are each recipe's own, but for hippocampus-mr those "
        f"of its model card ({TUNED:g} from the preset, {FRESH:g} from random weights). Times and memory are those of "
        "the whole command `medseg finetune`, with start, reading, validation and export. On a machine with other work "
        "the trial's time varies, and the steps with it. The budget is minutes on one core: far too few to train a "
        "transformer from random weights, whose rows show just that.",
        "",
        "Dice is the mean over the objects (label values) of the held-back cases, on the scans' own grid; in brackets "
        "the 95 % bootstrap interval over patients. *Gain* is to the row of the same method without training. Methods "
        "that are clicked are told where each object is, and that it is there; the U-Net is told nothing. The better "
        "number is in bold, whichever method has it.",
        "",
    ]
    for task in TASKS:
        mine = [row for row in rows if row["task"] == task.name]
        if mine:
            lines += [f"## {task.title} (`{task.name}`)", "", task.remark, "", *table_of(mine), ""]
    return "\n".join(lines).rstrip() + "\n"


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A task's rows as a Markdown table; the best Dice for each number of training cases is bold."""
    starts = {row["method"]: row["dice"] for row in rows if row["training_cases"] is None}
    best: dict[int | None, float] = {}
    for row in rows:
        best[row["training_cases"]] = max(best.get(row["training_cases"], 0.0), row["dice"])
    prompts = dict.fromkeys((row["method"], row["prompt"]) for row in rows)
    first = rows[0]
    lines = [f"Held back: {first['test_cases']} cases. Prompts:", ""]
    lines += [f"- {method}: {prompt}" for method, prompt in prompts]
    lines += [
        "",
        "| method | training cases | Dice | gain | steps | time | peak memory |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda each: (each["training_cases"] or 0, each["method"])):
        count = row["training_cases"]
        alone = len({each["method"] for each in rows}) == 1
        value = f"{row['dice']:.3f}"
        value = f"**{value}**" if row["dice"] == best[count] and not alone else value
        if row["dice_low"] is not None:
            value += f" ({row['dice_low']:.3f} to {row['dice_high']:.3f})"
        if count is None:
            cells = [row["method"], "none", value, "", "", "", ""]
        else:
            gain = f"{row['dice'] - starts[row['method']]:+.3f}" if row["method"] in starts else ""
            cells = [row["method"], str(count), value, gain, str(row["steps"]), f"{row['command_seconds']:.0f} s"]
            cells.append(f"{row['training_peak_mib']:.0f} MiB")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def line_of(row: dict[str, Any]) -> str:
    """A row for people who wait."""
    cases = "no training" if row["training_cases"] is None else f"{row['training_cases']} cases"
    return f"{row['task']}: {row['method']}, {cases}: Dice {row['dice']:.3f}"


def slug(name: str) -> str:
    """A method's name as part of a folder's."""
    return name.replace(", ", "-").replace(" ", "-")


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
