"""Pipeline `samus`: clicks, boxes or masks on ultrasound images, and slice by slice on volumes."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.device import Runtime
from medseg_cli.models.samus.checkpoint import LAYOUT, random_network
from medseg_cli.models.samus.config import config_of
from medseg_cli.models.samus.network import Samus
from medseg_cli.models.samus.start import load
from medseg_cli.pipelines.by_slice import Options, SlicePipeline
from medseg_cli.pipelines.loading import check_trained
from medseg_cli.preset import Preset

__all__ = ["Options", "SamusPipeline"]


class SamusPipeline:
    """`SlicePipeline` with a `Samus` in it."""

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool = False) -> SlicePipeline:
        """Load the preset's weights; its `model` is a `SamusConfig`, of which a checkpoint needs nothing.

        Raises:
            ModelError: wrong options, missing or misfitting weights.
        """
        check_trained(preset, LAYOUT, random_weights)
        return SlicePipeline.from_preset(preset, runtime, random_weights, _network)


def _network(path: Path | None, preset: Preset, seed: int) -> Samus:
    return random_network(config_of(preset.model), seed) if path is None else load(path, preset.model)
