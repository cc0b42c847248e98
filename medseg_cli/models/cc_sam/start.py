"""Where a training of CC-SAM begins: with SAM or SAMUS and a ResNet, or a CC-SAM; and loading what it made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.models import tuned_file
from medseg_cli.models.cc_sam.checkpoint import begin_with, build, random_network
from medseg_cli.models.cc_sam.config import config_of
from medseg_cli.models.cc_sam.network import CcSam


def begin(values: Mapping[str, Any], seed: int, files: Sequence[Path] = ()) -> tuple[CcSam, Collection[str]]:
    """A network to train, and the names of its parameters that no file covers.

    Args:
        values: the configuration, by the names of `CcSamConfig` and `SamusConfig`.
        seed: of the parts that no file covers.
        files: a CC-SAM or what a training made of one; else those of `checkpoint.begin_with`.

    Raises:
        ModelError: a file of another layout, or one whose tensors have other shapes or no place here.
    """
    if files:
        tuned = tuned_file.read(files[0], values, begin)
        if tuned is not None:
            assert isinstance(tuned, CcSam)
            return tuned, frozenset()
        if is_cc_sam(files[0], values):
            return build(files[0], values).train(), frozenset()
    network, start = begin_with(values, seed, files)
    return network, frozenset(start.new)


def is_cc_sam(file: Path, values: Mapping[str, Any]) -> bool:
    """Whether a file holds all of a CC-SAM of this configuration; a SAM, a SAMUS and a ResNet hold less.

    Raises:
        ModelError: no checkpoint.
    """
    if tuned_file.opened(file) is not None:
        return True
    tensors = read_tensors(file)
    return isinstance(tensors, Mapping) and tensors.keys() == random_network(config_of(values), 0).state_dict().keys()


load = tuned_file.loader(build, begin)
"""As `checkpoint.build`, also of the difference that a training wrote."""
