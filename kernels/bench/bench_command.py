"""`make bench`: every stage of `medseg segment` beside its naive version, and the whole commands.

Writes a JSON per run; --page makes docs/benchmarks.md of it. A row whose results differ prints FAILED, and the exit
code is then 1. --small takes seconds: small scans, no networks, no whole commands.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import bench_scans
import bench_stages
import numpy as np
import torch
from bench_page import page
from gated import Row, compare, share

CASES = ("start", "image", "volume", "ct")
CT, SMALL_CT = (512, 512, 300), (96, 80, 40)
OUT = Path("out/bench")
SIDE_BY_SIDE = """
import sys
from medseg_cli import device, lean_imports, pipelines, preset
from medseg_cli.readers import begin_scan, load_scan
ahead = begin_scan(sys.argv[1]) if sys.argv[2] == "ahead" else lambda: load_scan(sys.argv[1])
lean_imports.load_networks_and_transforms()
pipelines.build(preset.find("hippocampus-mr"), device.select("cpu"))
print(float(ahead().voxels.sum(dtype="float64")))
"""
PLAIN = "import torch, monai, segment_anything, torchvision.models.resnet"
LEAN = "from medseg_cli import lean_imports; lean_imports.load_networks_and_transforms()"
USED = "from monai.transforms import LoadImage; from segment_anything.modeling import ImageEncoderViT; print('here')"
HEAVY = "import torch, monai, segment_anything; import sys; from medseg_cli.app import main; sys.exit(main(['--help']))"
PROMPTS = Path(__file__).resolve().parents[2] / "examples" / "prompts.csv"
PACKAGES = ("torch", "numpy", "scipy", "monai", "nibabel", "isal", "connected-components-3d", "segment-anything")


def rows(case: str, folder: Path, setting: dict[str, Any], small: bool) -> Iterator[Row]:
    """The rows of one case; the scans are written to `folder`."""
    if case == "start":
        yield compare(
            "start",
            "medseg --help (naive: torch, monai and segment_anything imported first)",
            lambda: _output([sys.executable, "-c", HEAVY]),
            lambda: _output([sys.executable, "-m", "medseg_cli", "--help"]),
            lambda naive, ours: float(naive != ours),
            rounds=2,
        )
        yield compare(
            "start",
            "import torch, MONAI and SAM's encoder (naive: with all that they import)",
            lambda: _output([sys.executable, "-c", f"{PLAIN}; {USED}"]),
            lambda: _output([sys.executable, "-c", f"import torch; {LEAN}; {USED}"]),
            lambda naive, ours: float(naive != ours),
            rounds=3,
        )
    elif case == "image":
        yield from bench_stages.image_rows(bench_scans.image(folder), network=not small)
    elif case == "volume":
        path, setting["volume"] = bench_scans.volume(folder, setting["seed"])
        yield from bench_stages.volume_rows(path, folder, network=not small)
    else:
        shape = SMALL_CT if small else CT
        setting["ct"] = " x ".join(str(size) for size in shape)
        path, labels = bench_scans.ct(folder, shape, setting["seed"])
        yield from bench_stages.ct_rows(path, labels, folder, not small, setting["seed"])
        if not small:
            yield _beside_loading(path)


def _beside_loading(path: Path) -> Row:
    """Reading the CT after torch, MONAI and weights are loaded, or meanwhile; both with the same imports."""

    def run(when: str) -> float:
        return float(_output([sys.executable, "-c", SIDE_BY_SIDE, str(path), when]))

    stage = "load torch, MONAI, a model and the scan (naive: one after the other)"
    return compare("ct", stage, lambda: run("after"), lambda: run("ahead"), rounds=2)


def command(case: str, folder: Path) -> tuple[dict[str, Any], Row] | None:
    """The whole command on the case's scan, and its mask beside that of `MEDSEG_KERNELS=reference`."""
    if case == "image":
        arguments = [str(folder / "chest.png"), "--preset", "chest-xray-lungs"]
    elif case == "volume":
        path, _ = bench_scans.volume(folder, 0)
        arguments = [str(path), "--preset", "hippocampus-mr", "--prompts", str(PROMPTS)]
    elif case == "ct":
        box = "150,150,148,360,360,151"
        arguments = [str(folder / "ct.nii.gz"), "--preset", "chest-xray-lungs", "--box", box]
    else:
        return None
    reports: dict[str, dict[str, Any]] = {}

    def run(kernels: str) -> Any:
        mask = folder / f"{case}_{kernels}.{'png' if case == 'image' else 'nii.gz'}"
        line = ["segment", *arguments, "-o", str(mask), "--overwrite", "--quiet"]
        start = time.perf_counter()
        _output([sys.executable, "-m", "medseg_cli", *line], MEDSEG_KERNELS=kernels)
        wall = time.perf_counter() - start
        report = json.loads((folder / f"{case}_{kernels}.json").read_text(encoding="utf-8"))
        shown = ["medseg", *(Path(word).name if os.sep in word else word for word in line)]
        reports[kernels] = {
            "case": case,
            "command": shlex.join(shown),
            "wall_s": round(wall, 2),
            "peak_mib": max(stage["peak_rss_mib"] or 0 for stage in report["stages"]),
            "scan_mib": round(math.prod(report["input"]["shape_ijk"]) * report["input"]["channels"] * 4 / 2**20, 1),
            "crops": sum(report["pipeline"].get("crops", [])),
            "objects": len(report["labels"]),
            "stages": report["stages"],
        }
        return _mask(mask)

    row = compare(
        case,
        "the whole command (naive: MEDSEG_KERNELS=reference)",
        lambda: run("reference"),
        lambda: run("triton"),
        share,
        1e-4,
        rounds=2,
    )
    return {**reports["triton"], "naive_peak_mib": reports["reference"]["peak_mib"]}, row


def export_share(whole: dict[str, Any], found: list[Row]) -> float:
    """Share of the wall time that resampling and export take: ARCHITECTURE's goal is a tenth at most.

    Stages `segment/postprocess` and `write` as the command measured them; crops and pasting back, which a volume's
    network has in its own stage, as this run's rows measured them one by one.
    """
    seconds = sum(stage["seconds"] for stage in whole["stages"] if stage["stage"] in ("segment/postprocess", "write"))
    for row in found:
        if row.case == whole["case"] == "volume" and row.ours_ms is not None:
            times = {"a crop": whole["crops"], "paste": whole["objects"]}
            seconds += sum(row.ours_ms / 1000 * count for word, count in times.items() if row.stage.startswith(word))
    return seconds / whole["wall_s"]


def _mask(path: Path) -> Any:
    if path.suffix == ".png":
        from PIL import Image

        return np.asarray(Image.open(path))
    return np.asarray(bench_stages.nib.load(path).dataobj)


def _output(line: list[str], **environment: str) -> str:
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(f"{shlex.join(line)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def _setting(seed: int) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [_load()],
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "seed": seed,
        "volume": "",
        "ct": "",
    }


def _load() -> float | None:
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def _line(row: Row) -> str:
    if row.failed:
        return f"FAILED {row.case}, {row.stage}: results differ by {row.difference:.1e}, allowed {row.tolerance:.1e}\n"
    times = f"{row.naive_ms:9.1f} ms -> {row.ours_ms:9.1f} ms  x{row.ratio:<7.2f}"
    return f"{times} {row.case}, {row.stage}{'; ' + row.note if row.note else ''}\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES, action="append", help="one case; may be repeated; all when left out")
    parser.add_argument("--small", action="store_true", help="small scans, no networks, no whole commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=OUT / "bench.json", help="file for the figures")
    parser.add_argument("--page", type=Path, help="file for the tables, such as docs/benchmarks.md")
    chosen = parser.parse_args(arguments)
    setting, found, commands = _setting(chosen.seed), [], []
    with tempfile.TemporaryDirectory() as name:
        for case in chosen.only or CASES:
            for row in rows(case, Path(name), setting, chosen.small):
                found.append(row)
                sys.stdout.write(_line(row))
                sys.stdout.flush()
            whole = None if chosen.small else command(case, Path(name))
            if whole:
                commands.append({**whole[0], "export_share": export_share(whole[0], found)})
                found.append(whole[1])
                sys.stdout.write(_line(whole[1]))
    setting["load"].append(_load())
    setting["json"] = chosen.json.as_posix()
    run = {"setting": setting, "rows": [asdict(row) for row in found], "commands": commands}
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    if chosen.page:
        chosen.page.write_text(page(run), encoding="utf-8")
    failed = [row for row in found if row.failed]
    sys.stdout.write(f"{len(found)} rows, {len(failed)} FAILED; figures in {chosen.json}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
