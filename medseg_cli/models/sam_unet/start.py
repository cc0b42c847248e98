"""Where a training of SAM-UNet begins: with SAM at another image size, ImageNet's ResNet, or a SAM-UNet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.errors import ModelError
from medseg_cli.models import tuned_file
from medseg_cli.models.sam_unet.checkpoint import LAYOUT, build, check_fit, fitted, identified, random_network
from medseg_cli.models.sam_unet.config import SamUnetConfig, config_of
from medseg_cli.models.sam_unet.network import SamUnet

_SAM_PARTS = {
    "image_encoder.": "image_encoder.sam_img_encoder.",
    "prompt_encoder.": "prompt_encoder.sam_prompt_encoder.",
    "mask_decoder.transformer.": "mask_decoder.sam_mask_decoder.transformer.",
    "mask_decoder.output_upscaling.": "mask_decoder.sam_mask_decoder.output_upscaling.",
}
"""Prefix in SAM → prefix here. SAM's own tokens, hypernetworks and quality head have no place in SAM-UNet."""
_COUNTER = "num_batches_tracked"


def begin(values: Mapping[str, Any], seed: int, files: Sequence[Path] = ()) -> tuple[SamUnet, Collection[str]]:
    """A network to train: drawn from `seed`, then overwritten by what the files hold.

    Args:
        values: the configuration, by the names of `SamUnetConfig`.
        seed: of the parts that no file covers.
        files: a SAM (or MedSAM) checkpoint, which fills the transformer, the prompt encoder and most of the decoder; an
            ImageNet ResNet of torchvision, which fills the convolutional branch; both; or a SAM-UNet or what a training
            made of one, which fills everything and makes the others idle.

    Returns:
        The network, and the names of its parameters that no file covers.

    Raises:
        ModelError: a file of another layout, or of other sizes, with the first differing keys.
    """
    for path in files:
        tuned = tuned_file.read(path, values, begin)
        if tuned is not None:
            assert isinstance(tuned, SamUnet)
            return tuned, frozenset()
    found = [(path, *identified(path)) for path in files]
    for path, layout, tensors in found:
        if layout == LAYOUT:
            return fitted(tensors, values, path), frozenset()
    config = config_of(values)
    network = random_network(config, seed)
    state = network.state_dict()
    fresh = {name for name, _ in network.named_parameters()}
    covered: tuple[str, ...]
    for path, layout, tensors in found:
        if layout.startswith(("sam-vit-", "sam-width-")):
            weights, covered = from_sam(tensors, config), tuple(_SAM_PARTS.values())
        elif layout in ("resnet34", "resnet50"):
            weights, covered = from_resnet(tensors), ("resnet.",)
        else:
            raise ModelError(
                f"{path} has the layout '{layout}', with which SAM-UNet cannot begin",
                "use a checkpoint of SAM ViT-B, of torchvision's ResNet-34 or -50, or of SAM-UNet",
            )
        # Counters say how long BatchNorm has averaged; torchvision's older files leave them out.
        own = {k: v for k, v in state.items() if k.startswith(covered) and (k in weights or not k.endswith(_COUNTER))}
        check_fit(own, weights, path)
        network.load_state_dict(weights, strict=False)
        fresh -= weights.keys()
    return network, frozenset(fresh)


def from_sam(state: Mapping[str, Tensor], config: SamUnetConfig) -> dict[str, Tensor]:
    """The parts of a SAM checkpoint that SAM-UNet has, under its names and at its image size."""
    return {
        ours + key.removeprefix(theirs): value
        for key, value in resize_sam(state, config).items()
        for theirs, ours in _SAM_PARTS.items()
        if key.startswith(theirs)
    }


def resize_sam(state: Mapping[str, Tensor], config: SamUnetConfig) -> dict[str, Tensor]:
    """SAM's tables for another image size: positions and the global blocks' relative positions, linearly resampled.

    Args:
        state: SAM's names → tensors; positions (1, G, G, C), relative positions (2 G - 1, d).
        config: of the network to come: g tokens per axis.

    Returns:
        The same names; positions (1, g, g, C), relative positions (2 g - 1, d); windowed blocks as they were.
    """
    grid, rows = config.grid, 2 * config.grid - 1
    resized = dict(state)
    key = "image_encoder.pos_embed"
    if key in state:
        resized[key] = _bilinear(state[key].permute(0, 3, 1, 2), (grid, grid)).permute(0, 2, 3, 1).contiguous()
    for block in config.global_attn_indexes:
        for axis in "hw":
            key = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            if key in state:
                resized[key] = _bilinear(state[key][None, None], (rows, state[key].shape[1]))[0, 0]
    return resized


def _bilinear(table: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(table.to(torch.float32), size, mode="bilinear", align_corners=False)


_STAGES = {"conv1.": "stage0.0.", "bn1.": "stage0.1.", **{f"layer{n}.": f"stage{n}." for n in range(1, 5)}}
"""torchvision's names of a ResNet's parts → SAM-UNet's."""


def from_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's ResNet under SAM-UNet's names; the classifier is left out."""
    return {
        f"resnet.{ours}{key.removeprefix(theirs)}": value
        for key, value in state.items()
        for theirs, ours in _STAGES.items()
        if key.startswith(theirs)
    }


def to_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ResNet of a SAM-UNet under torchvision's names, and nothing else of it."""
    return {
        f"{theirs}{key.removeprefix(f'resnet.{ours}')}": value
        for key, value in state.items()
        for theirs, ours in _STAGES.items()
        if key.startswith(f"resnet.{ours}")
    }


load = tuned_file.loader(build, begin)
"""As `checkpoint.build`, also of the difference that a training wrote."""
