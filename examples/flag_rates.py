"""Cases of a dataset that a preset flags: `python examples/flag_rates.py DATASET PRESET test|all [as-is|x10|corner]`.

x10 pretends that voxels are ten times as large, corner clicks the first voxel of the scan instead of the object.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg_cli import device, pipelines, preset
from medseg_cli.datasets import load_pair, read_cases, split_cases
from medseg_cli.errors import InputError
from medseg_cli.evaluation.prompting import Protocol, ask, usual_kind
from medseg_cli.measure import measure
from medseg_cli.prompt import Click, Prompt, Target
from medseg_cli.quality import check
from medseg_cli.stages import Stages


def main(dataset: str, name: str, part: str, wrong: str = "as-is") -> None:
    """Segment every case, prompted from its reference, and count the flags."""
    chosen = preset.find(name)
    pipeline = pipelines.build(chosen, device.select("auto"))
    cases, codes, flagged, seen = read_cases(Path(dataset)), Counter[str](), 0, 0
    cases = cases if part == "all" else split_cases(cases, 0).test
    for number, case in enumerate(cases):
        try:
            scan, labels = load_pair(case)
        except InputError:  # an empty reference: there is nothing to click
            continue
        prompt = ask(scan, labels, Protocol(usual_kind(chosen)), number).prompt
        if wrong == "x10":
            scan = replace(scan, affine=scan.affine @ np.diag([10.0, 10.0, 10.0, 1.0]))
        if wrong == "corner":
            prompt = Prompt((Target("1", "", (Click((0.0, 0.0, 0.0), "ijk"),)),))
        segmentation = pipeline.segment(scan, prompt, Stages())
        found = {flag.code for flag in check(segmentation, measure(segmentation, shapes=False), chosen)}
        codes.update(found)
        flagged, seen = flagged + bool(found), seen + 1
    reasons = ", ".join(f"{code} {count}" for code, count in codes.most_common())
    sys.stdout.write(f"{flagged} of {seen} cases flagged ({reasons or 'no flag'})\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
