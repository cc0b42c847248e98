"""Segment one object of an MR volume from Python: `python examples/segment_mr.py SCAN MASK X,Y,Z` (mm, ras)."""

import sys

from medseg_cli import device, pipelines, preset
from medseg_cli.measure import measure
from medseg_cli.prompt import Prompt, Target
from medseg_cli.prompt_file import parse_point
from medseg_cli.readers import load_scan
from medseg_cli.stages import Stages
from medseg_cli.writers.masks import write_mask


def main(scan_path: str, mask_path: str, point: str) -> None:
    """Read, segment, write, and say how large the object is."""
    chosen = preset.find("hippocampus-mr")
    pipeline = pipelines.build(chosen, device.select("auto"))  # once for any number of scans
    scan = load_scan(scan_path)
    prompt = Prompt((Target("1", "hippocampus", (parse_point(point, "ras"),)),))
    segmentation = pipeline.segment(scan, prompt, Stages())
    write_mask(segmentation, mask_path, overwrite=True)
    for each in measure(segmentation):
        sys.stdout.write(f"{each.label.name}: {(each.volume_mm3 or 0) / 1000:.2f} mL\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
