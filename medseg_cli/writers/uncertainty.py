"""How far answers lie apart, as files: per label the standard deviation of its probability, a picture, and numbers."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.errors import UsageError
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import maps

UNIT = "standard deviation of the probability, 0 to 0.5"


def write(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """Write a folder with `<label>.nii.gz`, `<label>.png` and `scores.json`; see `formats.Format.target`.

    Raises:
        UsageError: there was one answer only.
        InputError: `path` may not or cannot be written.
    """
    spread = segmentation.spread
    if spread is None:
        raise UsageError(
            f"preset {segmentation.provenance.get('preset')} has one answer only: no map of its uncertainty",
            "leave --uncertainty out, or use a preset of CC-SAM or an ensemble",
        )
    maps.write(
        segmentation,
        path,
        overwrite,
        maps=spread.maps,
        pictures=spread.pictures,
        facts={"unit": UNIT, "of": spread.of, "answers": spread.answers},
        scores=spread.scores,
        what="standard deviation of a probability",
    )
    return ()
