"""Pipeline sam-unet: a box (or a coarse mask's box) → one mask per object, on images and slice by slice on volumes."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.device import Runtime
from medseg_cli.models.sam_unet.checkpoint import LAYOUT, random_network
from medseg_cli.models.sam_unet.config import config_of
from medseg_cli.models.sam_unet.network import SamUnet
from medseg_cli.models.sam_unet.start import load
from medseg_cli.pipelines.by_slice import Options, SlicePipeline
from medseg_cli.pipelines.loading import check_trained
from medseg_cli.preset import Preset

__all__ = ["Options", "SamUnetPipeline"]


class SamUnetPipeline:
    """Door of the pipeline; the work is done by `SlicePipeline`."""

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool) -> SlicePipeline:
        """The network with the preset's weights.

        Raises:
            ModelError: wrong options, missing or misfitting weights.
        """
        check_trained(preset, LAYOUT, random_weights)
        return SlicePipeline.from_preset(preset, runtime, random_weights, _network)


def _network(weights: Path | None, preset: Preset, seed: int) -> SamUnet:
    return random_network(config_of(preset.model), seed) if weights is None else load(weights, preset.model)
