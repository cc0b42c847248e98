"""A manifest for `medseg batch` from sets of scans with masks: one row a case, clicked in the middle of its mask.

`python examples/make_batch_manifest.py MANIFEST.csv PRESET=FOLDER ...`, or PRESET=FOLDER=N for the first N cases.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from medseg_cli import preset
from medseg_cli.datasets import load_pair, read_cases


def middle(inside: np.ndarray, spacing: tuple[float, float, float]) -> str:
    """The voxel ijk that lies farthest inside a mask."""
    depth = distance_transform_edt(np.pad(inside, 1), spacing)[1:-1, 1:-1, 1:-1]
    return ",".join(str(index) for index in np.unravel_index(np.argmax(depth), inside.shape))


def main(manifest: str, *sources: str) -> None:
    """Write the rows of all sources."""
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ("path", "name", "preset", "point"))
        table.writeheader()
        for source in sources:
            name, folder, *first = source.split("=")
            clicked = not preset.find(name).prompts.whole_image
            for case in read_cases(Path(folder))[: int(first[0]) if first else None]:
                row = {"path": str(case.image.resolve()), "name": f"{name}/{case.id}", "preset": name}
                if clicked:
                    scan, values = load_pair(case)
                    row["point"] = middle(values > 0, scan.spacing)
                table.writerow(row)


if __name__ == "__main__":
    main(*sys.argv[1:])
