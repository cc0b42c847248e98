"""Putting a checkpoint's tensors into a network without leaving anything out or over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from medseg_cli.errors import ModelError


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: Path, name: str, hint: str) -> None:
    """Load `weights` in single precision; every key of the network once, none besides, each of its shape.

    Args:
        model: may live on the meta device; its parameters become the checkpoint's tensors.
        weights: official names → tensors.
        source, name, hint: the file, the model's name and the way out, for the error.

    Raises:
        ModelError: with the first differing keys and shapes.
    """
    check_fit(model.state_dict(), weights, source, name, hint)
    model.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: Path, name: str, hint: str) -> None:
    """Every key of `own` once in `weights`, none besides, each of its shape; arguments and errors as above."""
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    misfit = [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    if missing or unexpected or misfit:
        raise ModelError(
            f"{source} does not fit {name}: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(misfit)} of another shape {misfit[:3]}",
            hint,
        )
