"""Loading SAM weights of any size, strictly: official files, training checkpoints that wrap them, safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models.sam.config import SamConfig, config_of, parse_config
from medseg_cli.models.sam.network import Sam
from medseg_cli.models.strict import load_strictly
from medseg_cli.weights.layouts import identify

LAYOUTS = ("sam-vit-", "sam-width-")
"""How `weights.layouts` begins the names of SAM's layout."""
_HINT = "only SAM itself is understood: adapters, HQ-SAM's tokens and the like are other networks"
_TRANSFORMER = "mask_decoder.transformer."


def build(checkpoint: Path | None, values: Mapping[str, Any]) -> Sam:
    """A `Sam` in eval mode, weights from `checkpoint` (random ones when None).

    Sizes that the tensors' shapes fix are read from them and `values` must agree; `values` sets the rest. Its
    `variant` ("vit-b", "vit-l", "vit-h") counts only where there is no checkpoint.

    Raises:
        ModelError: unknown configuration, unreadable file, or tensors that do not fit, with the first differing keys.
    """
    if checkpoint is None:
        return random_network(config_of(values), 0).eval()
    given = parse_config(values)
    weights = named_tensors(checkpoint)
    found = infer(weights, checkpoint)
    wrong = {name: value for name, value in given.items() if name in found and found[name] != value}
    if wrong:
        raise ModelError(
            f"{checkpoint} was made with {', '.join(f'{name} {found[name]}' for name in wrong)}, "
            f"not {', '.join(str(value) for value in wrong.values())}",
            "sizes are read from the file: leave them out",
        )
    config = SamConfig(**{**found, **given})
    with torch.device("meta"):
        model = Sam(config)
    load_strictly(model, weights, checkpoint, "sam", _HINT)
    return model.eval()


def random_network(config: SamConfig, seed: int) -> Sam:
    """The network with weights drawn from `seed` alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Sam(config)


def named_tensors(path: Path) -> dict[str, Tensor]:
    """Official names → tensors, whatever dictionary they are wrapped in, `module.` prefixes removed.

    Raises:
        ModelError: unreadable file, or one of another layout.
    """
    try:
        found = identify(read_tensors(path))
    except ModelError as error:
        if str(path) in error.message:
            raise
        raise ModelError(f"{path}: {error.message}", error.hint or _HINT) from error
    if not found.layout.startswith(LAYOUTS):
        raise ModelError(f"{path} has the layout '{found.layout}', not SAM's", _HINT)
    return found.tensors


def infer(state: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """Configuration values that the tensors' shapes fix: all but `decoder_heads`.

    Raises:
        ModelError: a tensor that is needed for it is missing or has another number of axes.
    """
    try:
        width, _, _, patch = state["image_encoder.patch_embed.proj.weight"].shape
        grid = state["image_encoder.pos_embed"].shape[1]
        tables = {
            int(key.split(".")[2]): value.shape
            for key, value in state.items()
            if key.startswith("image_encoder.blocks.") and key.endswith(".attn.rel_pos_h")
        }
        iou = "mask_decoder.iou_prediction_head.layers."
        values: dict[str, Any] = {
            "image_size": grid * patch,
            "patch_size": patch,
            "embed_dim": width,
            "depth": len(tables),
            "num_heads": width // tables[0][1],
            "mlp_dim": state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
            "prompt_dim": state["image_encoder.neck.0.weight"].shape[0],
            "mask_in_chans": state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
            "decoder_depth": _count(state, f"{_TRANSFORMER}layers."),
            "decoder_mlp_dim": state[f"{_TRANSFORMER}layers.0.mlp.lin1.weight"].shape[0],
            "extra_masks": state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            "iou_depth": _count(state, iou),
            "iou_dim": state[f"{iou}0.weight"].shape[0],
        }
    except (KeyError, IndexError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else "its tensors have other shapes"
        raise ModelError(f"{source} is no SAM checkpoint: {what}", _HINT) from error
    whole = 2 * grid - 1
    windows = {shape[0] for shape in tables.values() if shape[0] != whole}
    if len(windows) > 1:
        raise ModelError(
            f"{source}: position tables of {sorted(windows)} rows belong to no input of {grid * patch} pixels "
            f"(global attention has {whole} there, all windows have one length)",
            "it was trained with tables that are interpolated at every step: interpolate and save them once",
        )
    # A window as large as the grid is global attention by another name.
    values["global_attn_indexes"] = tuple(sorted(index for index, shape in tables.items() if shape[0] == whole))
    values["window_size"] = (windows.pop() + 1) // 2 if windows else grid
    return values


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules stand under a prefix."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
