"""Parts of scans with captions, to train an image-text preset: `python examples/make_captions.py DATA OUT [YAML]`.

DATA holds the data sets that the YAML names; a mask says whether a part shows the thing. Patients stay on one side.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from medseg_cli.datasets import load_pair, read_cases, split_cases
from medseg_cli.intensity import display
from medseg_cli.preset_intensity import EightBit
from medseg_cli.readers import load_scan
from medseg_cli.slices import plane_of

SMALL = 0.45
"""Parts with sides below this share of the picture's show what is in their middle; larger ones what they hold."""


def pictures(data: Path, name: str, slices: int) -> Iterator[tuple[str, str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """(case, part of the split, picture (H, W, 3), what the mask marks (H, W)) of some slices of every case."""
    if "*" in name:
        paths = sorted(data.glob(name))
        for number, path in enumerate(paths):
            picture = np.array(Image.open(path).convert("RGB"))
            part = "train" if number < 0.75 * len(paths) else "test"
            yield path.stem, part, picture, np.zeros(picture.shape[:2], bool)
        return
    for part, cases in vars(split_cases(read_cases(data / name), 0)).items():
        for case in cases:
            scan, labels = load_pair(case) if name != "Dataset101_HeadNeckCT" else (load_scan(case.image), None)
            plane, shown = plane_of(scan), display(scan, EightBit(method="eight-bit"), "captions")
            for index in np.unique(np.linspace(0, plane.count - 1, slices).round().astype(int)).tolist():
                empty = np.zeros((plane.height, plane.width), bool)
                marked = plane.take(labels, index) > 0 if labels is not None else empty
                yield f"{case.id}_{index}", part, shown.picture(plane.take(scan.voxels, index)), marked


def parts(
    picture: NDArray[np.uint8], marked: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.uint8], bool]]:
    """The whole picture some times, and parts of it, with whether they show what is marked: half do.

    Those that can be said to do neither are left out.
    """
    high, wide = marked.shape
    if not 0 < marked.sum() < 30:
        for _ in range(1 + max(1, count // 6)):
            yield picture, bool(marked.any())
    left_over = {True: -(-count // 2) if marked.any() else 0, False: count // 2 if marked.any() else count}
    for _ in range(20 * count):
        share = rng.uniform(0.15, 0.75) * rng.uniform(0.9, 1.1, 2)
        h, w = (max(8, round(side * each)) for side, each in zip((high, wide), share, strict=True))
        top, left = rng.integers(high - h + 1), rng.integers(wide - w + 1)
        held = marked[top : top + h, left : left + w]
        middle = held[h // 3 : h - h // 3, w // 3 : w - w // 3].mean()
        there = middle > 0.6 if share.max() < SMALL else held.sum() > 0.6 * marked.sum() or held.mean() > 0.4
        absent = middle < 0.02 and held.mean() < (0.2 if share.max() < SMALL else 0.04)
        if there != absent and left_over[bool(there)]:
            left_over[bool(there)] -= 1
            yield picture[top : top + h, left : left + w], bool(there)


def varied(picture: NDArray[np.uint8], said: dict[str, Any], rng: np.random.Generator) -> Image.Image:
    """Mirrored, turned where that may be, in another tone; small enough for a network of 64 pixels."""
    picture = picture[:, ::-1] if rng.random() < 0.5 else picture
    picture = picture[::-1] if said.get("turn") and rng.random() < 0.5 else picture
    tone = 255 * rng.uniform(0.75, 1.1) * (picture / 255) ** np.exp(rng.normal(0, 0.25)) + rng.uniform(-10, 25)
    image = Image.fromarray(tone.clip(0, 255).astype(np.uint8))
    image.thumbnail((96, 96))
    return image


def main(data: Path, out: Path, listing: Path) -> None:
    """Write the parts as PNG, and `captions.jsonl`."""
    out.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    for name, said in yaml.safe_load(listing.read_text()).items():
        for case, part, picture, marked in pictures(data, name, said.get("slices", 1)):
            for number, (seen, there) in enumerate(parts(picture, marked, said["each"], rng)):
                file = f"{name.split('/')[0]}_{case}_{number}.png"
                image = varied(seen, said, rng)
                image.save(out / file)
                words = said["with" if there else "without"]
                lines.append({"image": file, "captions": words, "patient": f"{name}/{case}", "part": part})
    (out / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    sys.stdout.write(f"{len(lines)} pictures in {out}\n")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        Path(sys.argv[3] if len(sys.argv) > 3 else Path(__file__).with_name("captions.yaml")),
    )
