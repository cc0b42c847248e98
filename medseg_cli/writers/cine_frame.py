"""One frame of a cine as a picture of its own, for who draws it."""

from __future__ import annotations

from dataclasses import replace

from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation


def alone(segmentation: Segmentation, frame: int) -> Segmentation:
    """Frame `frame`, counted from 0, with its mask: a picture (K = 1) without a place in the patient."""
    scan = segmentation.scan
    picture = replace(
        scan,
        voxels=scan.voxels[..., frame : frame + 1],
        position_known=False,
        cine=False,
        frame_seconds=None,
        header=None,
    )
    mask = segmentation.mask[..., frame : frame + 1]
    return Segmentation(mask, segmentation.labels, picture, segmentation.provenance)


def title(scan: Scan, frame: int) -> str:
    """What stands above a frame: its number, counted from 0 as prompts count, and its time."""
    times = scan.frame_seconds
    when = "" if times is None else f", {times[frame]:.3g} s"
    return f"frame {frame} of 0 to {scan.shape[2] - 1}{when}"
