"""Parts of scans with captions, to train an image-text preset: `python examples/make_captions.py DATA OUT [YAML]`.

DATA holds the data sets that the YAML names; a mask says whether a part shows the thing. Patients stay on one side.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from medseg_cli.datasets import load_pair, read_cases, split_cases
from medseg_cli.intensity import display
from medseg_cli.preset_format import EightBit
from medseg_cli.readers import load_scan
from medseg_cli.slices import plane_of

Picture = tuple[str, str, NDArray[np.uint8], NDArray[np.bool_]]


def pictures(data: Path, name: str) -> Iterator[Picture]:
    """(case, part of the split, picture (H, W, 3), what the mask marks (H, W)) of some slices of every case."""
    if "*" in name:
        for path in sorted(data.glob(name)):
            picture = np.array(Image.open(path).convert("RGB"))
            yield path.stem, "train", picture, np.zeros(picture.shape[:2], bool)
        return
    for part, cases in vars(split_cases(read_cases(data / name), 0)).items():
        for case in cases:
            scan, labels = load_pair(case) if name != "Dataset101_HeadNeckCT" else (load_scan(case.image), None)
            plane, shown = plane_of(scan), display(scan, EightBit(method="eight-bit"), "captions")
            for index in np.unique(np.linspace(0, plane.count - 1, 7).round().astype(int)).tolist():
                marked = plane.take(labels, index) > 0 if labels is not None else np.zeros((plane.height, plane.width), bool)
                yield f"{case.id}_{index}", part, shown.picture(plane.take(scan.voxels, index)), marked


def parts(picture: NDArray[np.uint8], marked: NDArray[np.bool_], count: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.uint8], bool]]:
    """The whole picture and random parts of it, with whether they show what is marked: half do, where there are such."""
    high, wide = marked.shape
    if not 0 < marked.sum() < 30:
        yield picture, bool(marked.any())
    left_over = {True: -(-count // 2) if marked.any() else 0, False: count // 2 if marked.any() else count}
    for _ in range(20 * count):
        h, w = (max(8, round(side * rng.uniform(0.15, 0.7))) for side in (high, wide))
        top, left = rng.integers(high - h + 1), rng.integers(wide - w + 1)
        inside = int(marked[top : top + h, left : left + w].sum())
        there = inside > 0.3 * min(h * w, marked.sum())
        if (there or inside <= 0.02 * h * w) and left_over[there]:
            left_over[there] -= 1
            yield picture[top : top + h, left : left + w], there


def main(data: Path, out: Path, listing: Path) -> None:
    """Write the parts as PNG, and `captions.jsonl`."""
    out.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    for name, said in yaml.safe_load(listing.read_text()).items():
        whole = list(pictures(data, name))
        for case, part, picture, marked in whole:
            each = said["each"] if picture.shape[0] > 64 else max(1, said["each"] // 3)
            for number, (seen, there) in enumerate(parts(picture, marked, each // (1 if "*" in name or len(whole) < 300 else 2), rng)):
                file = f"{name.split('/')[0]}_{case}_{number}.png"
                image = Image.fromarray(np.ascontiguousarray(seen))
                image.thumbnail((160, 160))
                image.save(out / file)
                entry = {"image": file, "captions": said["with" if there else "without"], "patient": f"{name}/{case}", "part": part}
                lines.append(json.dumps(entry))
    (out / "captions.jsonl").write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{len(lines)} pictures in {out}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) > 3 else Path(__file__).with_name("captions.yaml")))
