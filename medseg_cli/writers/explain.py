"""Why labels are where they are, as files: per label a map on the scan's grid and a picture, and all scores."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.errors import UsageError
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import maps


def write(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """Write a folder with `<label>.nii.gz`, `<label>.png` and `scores.json`; see `formats.Format.target`.

    A label that is nowhere has a map of zeros and no picture.

    Raises:
        UsageError: the segmentation was not made from texts.
        InputError: `path` may not or cannot be written.
    """
    why = segmentation.explanation
    if why is None:
        raise UsageError(
            f"preset {segmentation.provenance.get('preset')} explains nothing: --explain shows where words and scan "
            "agree",
            "leave --explain out, or use a preset that takes --text",
        )
    maps.write(
        segmentation,
        path,
        overwrite,
        maps=why.maps,
        pictures=why.pictures,
        facts=why.scores,
        scores=dict(enumerate(why.scores["labels"], start=1)),
        what="map of 0 to 1",
    )
    return ()
