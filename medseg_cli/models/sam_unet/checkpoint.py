"""Loading SAM-UNet weights, strictly: official training files (wrapped or not), state dicts and safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models import strict
from medseg_cli.models.sam_unet.config import SamUnetConfig, config_of, parse_config
from medseg_cli.models.sam_unet.network import SamUnet
from medseg_cli.weights.layouts import identify

LAYOUT = "sam-unet"
_VIT = "image_encoder.sam_img_encoder."
_PROMPTS = "prompt_encoder.sam_prompt_encoder."
_TRANSFORMER = "mask_decoder.sam_mask_decoder.transformer."


def build(checkpoint: Path | None, values: Mapping[str, Any]) -> SamUnet:
    """A `SamUnet` in eval mode, weights from `checkpoint` (random ones when None).

    Sizes that the tensors' shapes fix are read from them and `values` must agree; `values` sets the rest.

    Raises:
        ModelError: unknown configuration, unreadable file, or tensors that do not fit, with the first differing keys.
    """
    if checkpoint is None:
        return random_network(config_of(values), 0).eval()
    layout, weights = identified(checkpoint)
    if layout != LAYOUT:
        raise ModelError(
            f"{checkpoint} has the layout '{layout}', not '{LAYOUT}'",
            "a SAM or ResNet checkpoint is what a training can begin with: docs/sam-unet.md",
        )
    return fitted(weights, values, checkpoint).eval()


def fitted(weights: Mapping[str, Tensor], values: Mapping[str, Any], source: Path) -> SamUnet:
    """The network that official tensors belong to, with these tensors in it; arguments and errors as of `build`."""
    given, found = parse_config(values), infer(weights, source)
    wrong = {name: value for name, value in given.items() if name in found and found[name] != value}
    if wrong:
        raise ModelError(
            f"{source} was made with {', '.join(f'{name} {found[name]}' for name in wrong)}, "
            f"not {', '.join(str(value) for value in wrong.values())}",
            "sizes are read from the file: leave them out",
        )
    model = SamUnet(SamUnetConfig(**{**found, **given}))
    check_fit(model.state_dict(), weights, source)
    model.load_state_dict(weights)
    return model


def random_network(config: SamUnetConfig, seed: int) -> SamUnet:
    """The network with weights drawn from `seed` alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SamUnet(config)
        model.initialise()
    return model


def identified(path: Path) -> tuple[str, dict[str, Tensor]]:
    """A checkpoint's layout and its official names → tensors, unwrapped, `module.` prefixes removed.

    Raises:
        ModelError: unreadable file, pickled objects in it, or no known layout, with the nearest and what it lacks.
    """
    content = read_tensors(path)
    try:
        found = identify(content)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from error
    return found.layout, found.tensors


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: Path) -> None:
    """Every key of the network once, none besides, each of its shape.

    Raises:
        ModelError: with the first differing keys and shapes.
    """
    strict.check_fit(own, weights, source, LAYOUT, "it was made by another version of the network, or is incomplete")


def infer(state: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """Configuration values that the tensors' shapes fix: all but `decoder_heads`.

    Raises:
        ModelError: a tensor that is needed for it is missing.
    """
    try:
        patch = state[f"{_VIT}patch_embed.proj.weight"]
        grid = state[f"{_VIT}pos_embed"].shape[1]
        tables = {
            int(key.removeprefix(_VIT).split(".")[1]): value.shape[0]
            for key, value in state.items()
            if key.startswith(_VIT) and key.endswith("attn.rel_pos_h")
        }
        values: dict[str, Any] = {
            "image_size": grid * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "embed_dim": patch.shape[0],
            "depth": len(tables),
            "num_heads": patch.shape[0] // state[f"{_VIT}blocks.0.attn.rel_pos_h"].shape[1],
            "mlp_ratio": state[f"{_VIT}blocks.0.mlp.lin1.weight"].shape[0] / patch.shape[0],
            "prompt_dim": state[f"{_VIT}neck.0.weight"].shape[0],
            "mask_in_chans": state[f"{_PROMPTS}mask_downscaling.3.weight"].shape[0],
            "decoder_depth": _count(state, f"{_TRANSFORMER}layers."),
            "decoder_mlp_dim": state[f"{_TRANSFORMER}layers.0.mlp.lin1.weight"].shape[0],
            "backbone": "res50" if "resnet.stage1.0.conv3.weight" in state else "res34",
            "stem": state["resnet.stage0.0.weight"].shape[0],
            "layers": tuple(_count(state, f"resnet.stage{index}.") for index in range(1, 5)),
        }
    except (KeyError, IndexError) as error:
        raise ModelError(f"{source} is not a sam-unet checkpoint: {error} is missing") from error
    whole = tuple(block for block, rows in sorted(tables.items()) if rows == 2 * grid - 1)
    short = {rows for rows in tables.values() if rows != 2 * grid - 1}
    if len(whole) == 4 and len(short) == 1:
        values |= {"global_attn_indexes": whole, "window_size": (short.pop() + 1) // 2}
    return values


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules stand under a prefix."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
