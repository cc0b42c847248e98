"""Where a training of 3DSAM-adapter begins: with SAM, as the official one does, or with a 3DSAM-adapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models import tuned_file
from medseg_cli.models.sam3d.checkpoint import build, random_network
from medseg_cli.models.sam3d.config import Sam3dConfig, config_of
from medseg_cli.models.sam3d.network import Sam3d
from medseg_cli.models.strict import check_fit
from medseg_cli.weights.layouts import identify

SAM = ("sam-vit-", "sam-width-")
"""How `weights.layouts` begins the names of SAM's layout."""
_ENCODER = "image_encoder."
_NECK = "image_encoder.neck."


def begin(values: Mapping[str, Any], seed: int, files: Sequence[Path] = ()) -> tuple[Sam3d, Collection[str]]:
    """A network to train.

    From SAM's image encoder come positions, patch embedding and the blocks' attention, norms and MLPs; the relative
    positions along the depth are the mean of the other two (official train.py). Adapters, depth and slice embedding,
    necks, prompt encoder and decoder begin as their layers do, from `seed`.

    Args:
        values: the configuration, by the names of `Sam3dConfig`.
        seed: of the parts that no file covers.
        files: none, or one: a SAM (or MedSAM), a 3DSAM-adapter, or what a training made of one.

    Returns:
        The network, and the names of its parameters that the file does not cover.

    Raises:
        ModelError: a file of another layout, or of other sizes, with the first differing keys.
    """
    if not files:
        network = random_network(config_of(values), seed)
        return network, _names(network)
    assert len(files) == 1
    path = files[0]
    tuned = tuned_file.read(path, values, begin)
    if tuned is not None:
        assert isinstance(tuned, Sam3d)
        return tuned, frozenset()
    found = sam_of(path)
    return (build(path, values), frozenset()) if found is None else _from_sam(found, config_of(values), seed, path)


def sam_of(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint of SAM's layout; None for any other file."""
    try:
        found = identify(read_tensors(path))
    except ModelError:
        # Not every file that `build` reads is a layout of its own: it says better what is wrong.
        return None
    return found.tensors if found.layout.startswith(SAM) else None


def _from_sam(sam: Mapping[str, Tensor], config: Sam3dConfig, seed: int, source: Path) -> tuple[Sam3d, Collection[str]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Sam3d(config)
    weights = {
        f"encoder.{name.removeprefix(_ENCODER)}": value.float()
        for name, value in sam.items()
        if name.startswith(_ENCODER) and not name.startswith(_NECK)
    }
    fresh = _names(network) - weights.keys()
    own = {name: value for name, value in network.state_dict().items() if name in weights or "rel_pos_h" in name}
    check_fit(own, weights, source, "3dsam-adapter", "it begins with SAM ViT-B: medseg weights pull sam-vit-b")
    for block in range(config.depth):
        high, wide = (weights[f"encoder.blocks.{block}.attn.rel_pos_{axis}"] for axis in "hw")
        weights[f"encoder.blocks.{block}.attn.rel_pos_d"] = (high + wide) / 2
    network.load_state_dict(weights, strict=False)
    # The scale of the relative positions is a constant, not a part that begins at random.
    return network, frozenset(name for name in fresh if not name.endswith(".attn.lr"))


def _names(network: Sam3d) -> frozenset[str]:
    return frozenset(name for name, _ in network.named_parameters())


def _build(checkpoint: Path | None, values: Mapping[str, Any]) -> Sam3d:
    if checkpoint is not None and sam_of(checkpoint) is not None:
        raise ModelError(
            f"{checkpoint} is a SAM: nothing of a 3DSAM-adapter is trained in it",
            "train first: medseg finetune DATASET -o RUN --preset sam3d-vit-b, then use --preset RUN",
        )
    return build(checkpoint, values)


load = tuned_file.loader(_build, begin)
"""As `checkpoint.build`, also of the difference that a training wrote."""
