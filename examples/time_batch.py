"""Seconds per case of a batch in one process: one case after the other, and overlapped as `medseg batch` does it.

    python examples/time_batch.py SCANS --preset chest-xray-lungs --cases 10

The outputs go into a temporary folder. Both ways run in this process, in turns, after one case that warms it up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from medseg_cli.batch import overlap, work
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.listing import list_cases
from medseg_cli.batch.settings import Settings


def timed(cases: tuple[BatchCase, ...], preset: str, together: int, *, in_turn: bool, models: work.Models) -> float:
    """Wall seconds for `cases`, with `models` already loaded."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(out=Path(folder), preset=preset, together=together)
        began = time.perf_counter()
        if in_turn:
            for case in cases:
                work.run_case(case, settings, models)
        else:
            overlap.overlap(iter(cases), settings, models, lambda record: None)
        return time.perf_counter() - began


def main() -> None:
    """Time both ways and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = list_cases(asked.scans).cases[: asked.cases]
        models = work.Models(Settings(out=Path(folder), preset=asked.preset, together=asked.together))
        models.start()
        timed(cases[:1], asked.preset, asked.together, in_turn=True, models=models)
        took: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(asked.rounds):
            for in_turn in took:
                took[in_turn].append(timed(cases, asked.preset, asked.together, in_turn=in_turn, models=models))
    for in_turn, seconds in took.items():
        print(f"{'in turn' if in_turn else 'overlapped'}: {min(seconds) / len(cases):.3f} s per case")  # noqa: T201


if __name__ == "__main__":
    main()
