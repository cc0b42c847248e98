"""What DICOM SEG and RTSTRUCT say of who made them, and with what."""

from __future__ import annotations

from typing import Any

from medseg_cli.segmentation import RANDOM_WEIGHTS, Segmentation
from medseg_cli.versions import version
from medseg_cli.writers.dicom_codes import long_string


def software() -> str:
    """medseg's version, as a DICOM object states it."""
    return version("medseg-cli") or "unknown"


def maker(segmentation: Segmentation) -> str:
    """What made a segmentation: "medseg" and its preset's name."""
    return long_string(f"medseg {segmentation.provenance.get('preset') or ''}".strip())


def description(segmentation: Segmentation) -> str:
    """What a viewer lists the new series as: tool, version and preset; or the stamp of random weights."""
    if segmentation.is_random:
        return long_string(RANDOM_WEIGHTS)
    return long_string(f"medseg {software()} {segmentation.provenance.get('preset') or ''}".strip())


def parameters(segmentation: Segmentation) -> dict[str, str]:
    """Preset and weights, by name and hash, as far as the segmentation tells."""
    weights: dict[str, Any] = segmentation.provenance.get("weights") or {}
    told = {
        "preset": segmentation.provenance.get("preset"),
        "weights": weights.get("name"),
        "weights_sha256": weights.get("sha256"),
        "base_sha256": (weights.get("base") or {}).get("sha256"),
    }
    return {key: str(value).replace("\\", "/").replace(",", " ") for key, value in told.items() if value}


def algorithm_type(segmentation: Segmentation) -> str:
    """AUTOMATIC, or SEMIAUTOMATIC where a user pointed at something."""
    return "SEMIAUTOMATIC" if segmentation.provenance.get("prompted") else "AUTOMATIC"
