"""Pipeline `autosamus`: the one object of an ultrasound image, or of every slice of a volume, without a prompt."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.device import Runtime
from medseg_cli.errors import ModelError
from medseg_cli.models.samus.auto import AutoSamus
from medseg_cli.models.samus.auto_start import load
from medseg_cli.models.samus.checkpoint import AUTO_LAYOUT, prompting_itself, random_network
from medseg_cli.models.samus.config import config_of
from medseg_cli.pipelines.by_slice import Options, SlicePipeline
from medseg_cli.pipelines.loading import check_trained
from medseg_cli.preset import Preset

__all__ = ["AutosamusPipeline", "Options"]


class AutosamusPipeline:
    """`SlicePipeline` with an `AutoSamus` in it."""

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool = False) -> SlicePipeline:
        """Load the preset's weights; its `model` is a `SamusConfig`, of which a checkpoint needs nothing.

        Raises:
            ModelError: wrong options, missing or misfitting weights, or other labels than one of value 1.
        """
        if [label.value for label in preset.labels] != [1]:
            raise ModelError(
                f"preset {preset.name} has {len(preset.labels)} labels, and AutoSAMUS finds one object",
                "give it one label, of value 1",
            )
        check_trained(preset, AUTO_LAYOUT, random_weights)
        return SlicePipeline.from_preset(preset, runtime, random_weights, _network)


def _network(path: Path | None, preset: Preset, seed: int) -> AutoSamus:
    if path is not None:
        network = load(path, preset.model)
        assert isinstance(network, AutoSamus)
        return network
    return prompting_itself(random_network(config_of(preset.model), seed), seed)
