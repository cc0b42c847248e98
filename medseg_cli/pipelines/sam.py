"""Pipeline `sam`: SAM and checkpoints of its layout, on images and slice by slice."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.device import Runtime
from medseg_cli.models.sam.checkpoint import random_network
from medseg_cli.models.sam.config import config_of
from medseg_cli.models.sam.network import Sam
from medseg_cli.models.sam.start import load
from medseg_cli.pipelines.by_slice import Options, SlicePipeline
from medseg_cli.preset import Preset

__all__ = ["Options", "SamPipeline"]


class SamPipeline:
    """`SlicePipeline` with a `Sam` in it."""

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool = False) -> SlicePipeline:
        """Load the preset's weights; its `model` is a `SamConfig`, of which a checkpoint needs nothing.

        Raises:
            ModelError: wrong options, missing or misfitting weights.
        """
        return SlicePipeline.from_preset(preset, runtime, random_weights, _network)


def _network(path: Path | None, preset: Preset, seed: int) -> Sam:
    return random_network(config_of(preset.model), seed) if path is None else load(path, preset.model)
