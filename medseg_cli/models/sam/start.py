"""Where a training of SAM begins, and loading what it made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg_cli.models import tuned_file
from medseg_cli.models.sam.checkpoint import build, infer, named_tensors, random_network
from medseg_cli.models.sam.config import config_of
from medseg_cli.models.sam.network import Sam
from medseg_cli.weights.base import find


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


def image_size(values: Mapping[str, Any], file: Path | None) -> int:
    """Edge of the square input of the network that `begin` makes, without making it.

    Raises:
        ModelError: as of `begin`.
    """
    if file is None:
        return config_of(values).image_size
    difference = tuned_file.opened(file)
    path = file if difference is None else find(difference.base, file).path
    size: int = infer(named_tensors(path), path)["image_size"]
    return size


load = tuned_file.loader(build, begin)
"""As `checkpoint.build`, also of the difference that a training wrote."""
