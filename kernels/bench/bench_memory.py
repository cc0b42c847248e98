"""`make bench WHAT=memory`: what segmenting all labels of a large CT costs in RAM and time, beside the naive way.

Naive: the image at the network's spacing, MONAI's sliding windows with all logits on the host, all of them interpolated
onto the scan, argmax. Ours: `medseg`'s pipeline. Both run in fresh processes with the same scan and the same network of
random weights, and their masks are compared. Then the whole command. --page makes docs/memory.md of it.

Run by itself, `bench_memory.py --child naive|ours SCAN PRESET MASK` is one of these processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from memory_page import page

SIZES = ("512,512,150,20", "512,512,150,40", "512,512,300,20", "512,512,600,20")
SMALL = ("96,80,40,20", "96,80,80,20")
GOAL_GIB = 8.0
"""For the whole command on the last of `SIZES`."""
SPACING = (1.5, 1.5, 1.5)
MILLIMETRES = np.array([0.8, 0.8, 1.0])
SHARE = 0.25
"""Of a window that its neighbour covers too; half, the usual, takes three times as long in both ways."""
DIFFERENT = 1e-4
"""Share of voxels that may differ: where two classes are equal but for rounding."""
SPARE = 1.2
"""By how much the memory that is free must exceed the estimate for the naive way to be run."""
OUT = Path("out/bench")


@dataclass(frozen=True)
class Cost:
    """What one process took.

    Args:
        seconds: of segmenting, without imports and reading.
        peak_gib: highest resident memory of the process, with Python, torch and the scan.
    """

    seconds: float
    peak_gib: float


@dataclass(frozen=True)
class Row:
    """One size; `naive` is None where this machine has too little memory for it, `needs_gib` is an estimate of that."""

    shape: tuple[int, int, int]
    labels: int
    needs_gib: float
    naive: Cost | None
    ours: Cost
    difference: float | None

    @property
    def failed(self) -> bool:
        """Whether both ways ran and differ."""
        return self.difference is not None and not self.difference <= DIFFERENT


def phantom(folder: Path, shape: tuple[int, int, int]) -> Path:
    """A trunk in air with twenty balls of even density, in HU; made and written slice by slice."""
    rng = np.random.default_rng(0)
    centres, densities = rng.uniform(-0.55, 0.55, (20, 3)), rng.uniform(-700, 900, 20)
    i, j, k = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    body = (i[:, None] / 0.85) ** 2 + (j / 0.65) ** 2 < 1
    values = np.empty(shape, np.int16, order="F")
    for index, height in enumerate(k):
        plane = np.where(body, 40.0, -1000.0)
        for (x, y, z), density in zip(centres, densities, strict=True):
            plane[(i[:, None] - x) ** 2 + (j - y) ** 2 + (height - z) ** 2 < 0.03] = density
        values[:, :, index] = plane + rng.normal(0, 2, plane.shape)
    path = folder / f"ct_{'x'.join(map(str, shape))}.nii.gz"
    nib.Nifti1Image(values, np.diag([*(-1, -1, 1) * MILLIMETRES, 1.0])).to_filename(path)
    return path


def preset(folder: Path, labels: int, patch: int) -> Path:
    """A preset of pipeline dynunet with so many labels and a small network; its weights are random."""
    from medseg_cli import preset as presets

    colours = (f"#{37 * n % 256:02x}{91 * n % 256:02x}{151 * n % 256:02x}" for n in range(1, labels + 1))
    base = presets.find("dynunet-baseline").model_dump(mode="json", exclude={"path", "changes"})
    base |= {
        "name": f"phantom-{labels}",
        "labels": [{"value": n, "name": f"organ {n}", "color": c, "snomed": None} for n, c in enumerate(colours, 1)],
        "model": {
            "classes": labels + 1,
            "filters": [4, 8, 8],
            "kernels": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        },
        "options": {"patch_size": [patch] * 3, "overlap": SHARE},
    }
    base["preprocessing"] |= {"spacing": SPACING}
    path = folder / f"phantom-{labels}.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(base), encoding="utf-8")
    return path


def child(way: str, scan_path: str, preset_path: str, mask_path: str) -> None:
    """Segment, keep the mask, print the seconds."""
    from medseg_cli import device, pipelines
    from medseg_cli import preset as presets
    from medseg_cli.prompt import Prompt
    from medseg_cli.readers import load_scan
    from medseg_cli.stages import Stages

    pipeline = pipelines.build(presets.find(preset_path), device.select("cpu"), random_weights=True)
    scan = load_scan(scan_path)
    start = time.perf_counter()
    mask = naive(pipeline, scan) if way == "naive" else pipeline.segment(scan, Prompt(), Stages()).mask
    seconds = time.perf_counter() - start
    np.save(mask_path, mask)
    sys.stdout.write(json.dumps({"seconds": round(seconds, 2)}))


def naive(pipeline: Any, scan: Any) -> Any:
    """All logits at the network's spacing, then all of them on the scan's grid, then the largest."""
    from monai.inferers import sliding_window_inference

    from medseg_cli.geometry import resample, scan_grid
    from medseg_cli.pipelines.dynunet import on_lattice, patch_of

    image, lattice = on_lattice(scan, pipeline.preset)
    patch, share = patch_of(pipeline.preset, pipeline.options), pipeline.options.overlap
    with torch.inference_mode():
        found = sliding_window_inference(image[None], patch, 1, pipeline.model, overlap=share, mode="gaussian")
        logits = torch.as_tensor(found)
        del found
        wide = torch.empty((logits.shape[1], *scan.shape))
        for there, scores in zip(wide, logits[0], strict=True):
            there.copy_(resample(scores[None], lattice, scan_grid(scan), smooth=False)[0][0])
        del logits
        # The labels of these presets are their class numbers.
        return wide.argmax(0).numpy().astype(np.uint8)


def needs(shape: tuple[int, int, int], labels: int) -> float:
    """GiB that the naive way holds: the logits at both spacings, their argmax, the scan, and Python."""
    voxels = float(np.prod(shape))
    lattice = voxels * float(np.prod(MILLIMETRES) / np.prod(SPACING))
    return (4 * (labels + 1) * (lattice + voxels) + 12 * voxels + 1e9) / 2**30


def available() -> float:
    """GiB that this machine could give."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) / 2**20


def measured(line: list[str]) -> tuple[str, float, float]:
    """What a command prints, its wall seconds, and its peak in GiB as the system accounts it.

    Raises:
        SystemExit: it failed.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(line, stdout=said, stderr=complaints)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        complaints.seek(0)
        if process.returncode:
            raise SystemExit(f"{shlex.join(line)} ended with {process.returncode}:\n{complaints.read().decode()}")
        return said.read().decode(), time.perf_counter() - begun, usage.ru_maxrss / 2**20


def row(folder: Path, size: str, patch: int) -> Row:
    """Both ways on one size."""
    i, j, k, labels = (int(word) for word in size.split(","))
    scan, chosen, needed = phantom(folder, (i, j, k)), preset(folder, labels, patch), needs((i, j, k), labels)
    costs, masks = {}, {}
    for way in ("naive", "ours"):
        if way == "naive" and SPARE * needed > available():
            continue
        path = folder / f"{way}.npy"
        line = [sys.executable, __file__, "--child", way, str(scan), str(chosen), str(path)]
        said, _, peak = measured(line)
        costs[way], masks[way] = Cost(json.loads(said)["seconds"], round(peak, 3)), np.load(path, mmap_mode="r")
    different = float(np.mean(masks["naive"] != masks["ours"])) if "naive" in masks else None
    return Row((i, j, k), labels, round(needed, 1), costs.get("naive"), costs["ours"], different)


def command(folder: Path, size: str, patch: int) -> dict[str, Any]:
    """`medseg segment` on a size of `SIZES`, from shell to shell."""
    i, j, k, labels = (int(word) for word in size.split(","))
    scan, chosen = phantom(folder, (i, j, k)), preset(folder, labels, patch)
    mask = folder / "mask.nii.gz"
    words = ["segment", str(scan), "-o", str(mask), "--preset", str(chosen), "--random-weights"]
    _, wall, peak = measured([sys.executable, "-m", "medseg_cli", *words, "--quiet"])
    report = json.loads(mask.with_name("mask.json").read_text(encoding="utf-8"))
    shown = shlex.join(["medseg", *(Path(word).name if os.sep in word else word for word in words)])
    return {"command": shown, "wall_s": round(wall, 1), "peak_gib": round(peak, 3), "stages": report["stages"]}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=4, metavar=("WAY", "SCAN", "PRESET", "MASK"), help=argparse.SUPPRESS)
    parser.add_argument("--sizes", nargs="+", metavar="I,J,K,LABELS", help="voxels and labels")
    parser.add_argument("--small", action="store_true", help="sizes that take seconds")
    parser.add_argument("--no-command", action="store_true", help="leave the whole command out")
    parser.add_argument("--patch", type=int, default=96, help="edge of the network's window")
    parser.add_argument("--json", type=Path, default=OUT / "memory.json", help="file for the figures")
    parser.add_argument("--page", type=Path, help="file for the tables, such as docs/memory.md")
    chosen = parser.parse_args(arguments)
    if chosen.child:
        child(*chosen.child)
        return 0
    sizes = chosen.sizes or (SMALL if chosen.small else SIZES)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for size in sizes:
            found.append(row(Path(name), size, chosen.patch))
            sys.stdout.write(f"{'FAILED ' if found[-1].failed else ''}{found[-1]}\n")
            sys.stdout.flush()
            _save(chosen, found, None)
        whole = None if chosen.no_command else command(Path(name), sizes[-1], chosen.patch)
    _save(chosen, found, whole)
    failed = any(each.failed for each in found) or (whole is not None and whole["peak_gib"] > GOAL_GIB)
    sys.stdout.write(f"{len(found)} rows; figures in {chosen.json}\n")
    return 1 if failed else 0


def _save(chosen: argparse.Namespace, found: list[Row], whole: dict[str, Any] | None) -> None:
    """Write what is known so far: a run takes long, and what it found is not lost with it."""
    setting = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "patch": chosen.patch,
        "share": SHARE,
        "goal_gib": GOAL_GIB,
    }
    run = {"setting": setting, "rows": [asdict(each) for each in found], "command": whole}
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    if chosen.page:
        chosen.page.write_text(page(run), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
