"""A box in one slice of a volume, followed through the others, from Python.

`python examples/ct_box.py CT MASK X0,Y0,X1,Y1 SLICE [PRESET]`: voxels of the axial slice. A second box on the same scan
costs no second pass of the image encoder.
"""

import sys
from dataclasses import replace

import medseg_cli
from medseg_cli import Box, Prompt, Target, device, pipelines, preset
from medseg_cli.measure import measure
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.slices import in_volume, plane_of
from medseg_cli.stages import Stages
from medseg_cli.writers.masks import write_mask


def main(scan_path: str, mask_path: str, box: str, index: str, name: str = "sam-vit-b") -> None:
    """Read, segment, write, and say what was done."""
    chosen = with_options(preset.find(name), Overrides(slices="axial"))  # else in the plane of the smallest pixels
    pipeline = pipelines.build(chosen, device.select("auto"))  # once for any number of scans
    scan = replace(medseg_cli.load_scan(scan_path), modality="CT")  # NIfTI does not say so: CT has a window of its own
    x0, y0, x1, y1 = (float(number) for number in box.split(","))
    prompt = Prompt((Target("1", "organ", boxes=(Box((x0, y0), (x1, y1)),)),))
    prompt = in_volume(prompt, scan, plane_of(scan, "axial"), int(index))
    segmentation = pipeline.segment(scan, prompt, Stages())
    write_mask(segmentation, mask_path, overwrite=True)
    for each in measure(segmentation):
        sys.stdout.write(f"{each.label.name}: {(each.volume_mm3 or 0) / 1000:.2f} mL\n")
    slices = segmentation.provenance["slices"]
    sys.stdout.write(f"{slices['encoded']} of {slices['count']} {slices['plane']} slices encoded\n")
    for way in segmentation.provenance["objects"][0]["propagation"]:
        sys.stdout.write(f"followed from slice {way['from']} to {way['to']}: {way['because']}\n")


if __name__ == "__main__":
    main(*sys.argv[1:6])
