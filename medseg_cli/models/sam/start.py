"""Where a training of SAM begins, and loading what it made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg_cli.models import tuned_file
from medseg_cli.models.sam.checkpoint import build, random_network
from medseg_cli.models.sam.config import config_of
from medseg_cli.models.sam.network import Sam


def begin(values: Mapping[str, Any], seed: int, files: Sequence[Path] = ()) -> tuple[Sam, Collection[str]]:
    """A network to train: a checkpoint's of SAM's layout or a training's, or one drawn from `seed`.

    Args:
        values: the configuration, by the names of `SamConfig`.
        seed: of a network without a file.
        files: none or one.

    Returns:
        The network, and the names of its parameters that the file does not cover.

    Raises:
        ModelError: as of `build`.
    """
    if not files:
        network = random_network(config_of(values), seed)
        return network, frozenset(name for name, _ in network.named_parameters())
    assert len(files) == 1
    tuned = tuned_file.read(files[0], values, begin)
    assert tuned is None or isinstance(tuned, Sam)
    return tuned or build(files[0], values), frozenset()


load = tuned_file.loader(build, begin)
"""As `checkpoint.build`, also of the difference that a training wrote."""
