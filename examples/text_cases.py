"""Scans with and without what the preset text-demo knows, for calibrate_presence.py and bench_text.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets import Case, load_pair, read_cases, split_cases
from medseg_cli.prompt import Prompt, Target, Text
from medseg_cli.readers import load_scan
from medseg_cli.scan import Scan

CONCEPTS = {
    "lungs": "the lungs in a chest radiograph",
    "fetal head": "the head of a fetus in an ultrasound picture",
    "hippocampus": "the hippocampus in a T1 MR slice",
}
"""What is said of each concept."""
DRAWN = {"chest-xray-lungs": "lungs", "fetal-head-us-half": "fetal head", "hippocampus-mr": "hippocampus"}
"""Sets with masks and a split, and what their masks mark."""
OTHERS = {"fetal-head-us-half": "fetal-head-us"}
"""Sets whose held-back pictures the network of texts does not know, but the one that draws does; who was trained on
neither, with masks: all cases of another set."""
NOTHING = ("brain-tumour-mr2d", "Dataset101_HeadNeckCT")
"""Sets with a split that show none of the concepts."""
UNSEEN = {
    "chest-xray-structures/images/*": "lungs",
    "breast-us/images/*.png": "",
    "soft-tissue-sarcoma/**/*.nii.gz": "",
}
"""Files of which nothing was trained on, and what they show; masks among them are left out."""
LAST = ("retina-vessels/*.jpg", "nuclei/images/*.png")
"""Files that show none of the concepts, whose last quarter was not trained on."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A scan, the concept that it shows ("" = none), and where (I, J, K), None = not drawn."""

    source: str
    id: str
    scan: Scan
    concept: str
    drawn: NDArray[np.bool_] | None


def said(text: str) -> Prompt:
    """The prompt of one text."""
    return Prompt((Target("1", "", text=Text((text,))),))


def shown(data: Path, part: str) -> Iterator[Shown]:
    """All scans of a part: "validation" or "test"; the latter with those that nobody trained on.

    Of the test no mask comes from a set that a network which draws was trained on.
    """
    test = part == "test"
    for name in (*DRAWN, *NOTHING):
        for case in getattr(split_cases(read_cases(data / name), 0), part):
            if name in NOTHING or (test and name in OTHERS):
                yield Shown(name, case.id, load_scan(case.image), DRAWN.get(name, ""), None)
            else:
                yield _marked(name, case, DRAWN[name])
    for name, other in OTHERS.items() if test else ():
        for case in read_cases(data / other):
            yield _marked(other, case, DRAWN[name])
    for pattern in (*UNSEEN, *LAST) if test else ():
        paths = sorted(path for path in data.glob(pattern) if "mask" not in path.name and "HO" not in path.name)
        for path in paths if pattern in UNSEEN else paths[-(-3 * len(paths) // 4) :]:
            yield Shown(pattern.split("/")[0], path.stem, load_scan(path), UNSEEN.get(pattern, ""), None)


def _marked(source: str, case: Case, concept: str) -> Shown:
    scan, labels = load_pair(case)
    return Shown(source, case.id, scan, concept, labels > 0)
