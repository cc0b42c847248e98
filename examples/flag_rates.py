"""Cases that a preset flags: `python examples/flag_rates.py DATASET PRESET test|all [x10|corner]`.

x10 pretends that voxels are ten times as large, corner clicks the scan's first voxel instead of the object.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg_cli import datasets, device, measure, pipelines, preset, quality
from medseg_cli.evaluation.prompting import Protocol, ask, usual_kind
from medseg_cli.prompt import Click, Prompt, Target
from medseg_cli.stages import Stages


def main(dataset: str, name: str, part: str, wrong: str = "") -> None:
    """Segment every case with an object, prompted from its reference, and count the flags."""
    chosen = preset.find(name)
    pipeline = pipelines.build(chosen, device.select("auto"))
    cases = datasets.read_cases(Path(dataset))
    codes: Counter[str] = Counter()
    for number, case in enumerate(cases if part == "all" else datasets.split_cases(cases, 0).test):
        scan, labels = datasets.load_pair(case)
        prompt = ask(scan, labels, Protocol(usual_kind(chosen)), number).prompt
        if wrong == "x10":
            scan = replace(scan, affine=scan.affine @ np.diag([10.0, 10.0, 10.0, 1.0]))
        if wrong == "corner":
            prompt = Prompt((Target("1", "", (Click((0.0, 0.0, 0.0), "ijk"),)),))
        result = pipeline.segment(scan, prompt, Stages())
        flags = quality.check(result, measure.measure(result, shapes=False), chosen)
        codes.update({"cases": 1, "flagged": bool(flags)} | {flag.code: 1 for flag in flags})
    sys.stdout.write(", ".join(f"{count} {code}" for code, count in codes.most_common()) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
