"""Whether doubt goes with error: `python examples/uncertainty_rates.py DATASET PRESET test|all [PROMPT [SAMPLES]]`.

Cases are prompted from their references; `test` are those held back by seed 0. Told are the rank correlation (Spearman)
of the answers' agreement with the mask's Dice, and how well the standard deviation tells wrong pixels from right ones
(area under the curve, mean of the cases).
"""

import sys
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, spearmanr

from medseg_cli import datasets, device, pipelines, preset
from medseg_cli.evaluation.prompting import Protocol, ask, usual_kind
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.stages import Stages


def main(dataset: str, name: str, part: str, prompt: str = "", samples: str = "16") -> None:
    """Segment every case with an object, and compare doubt with error."""
    chosen = with_options(preset.find(name), Overrides(uncertainty=True, samples=int(samples)))
    pipeline = pipelines.build(chosen, device.select("auto"))
    cases = datasets.read_cases(Path(dataset))
    cases = cases if part == "all" else datasets.split_cases(cases, 0).test
    dices, agreements, areas = [], [], []
    for number, case in enumerate(cases):
        scan, labels = datasets.load_pair(case)
        asked = ask(scan, labels, Protocol(prompt or usual_kind(chosen)), number).prompt  # type: ignore[arg-type]
        result = pipeline.segment(scan, asked, Stages())
        assert result.spread is not None
        found, truth = result.mask > 0, labels > 0
        dices.append(2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)))
        agreements.append(result.spread.scores[1]["agreement"]["mean"])
        wrong = (found != truth).ravel()
        if wrong.any():
            ranks = rankdata(result.spread.maps[1].ravel())
            below = ranks[wrong].sum() - wrong.sum() * (wrong.sum() + 1) / 2
            areas.append(below / (wrong.sum() * (~wrong).sum()))
    related = spearmanr(agreements, dices).statistic
    sys.stdout.write(
        f"{len(dices)} cases, {samples} samples: Dice {np.mean(dices):.3f}, agreement {np.mean(agreements):.3f} "
        f"(least {min(agreements):.3f}), rank correlation of both {related:.2f}; "
        f"wrong pixels by standard deviation: area under the curve {np.mean(areas):.3f}\n"
    )


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
