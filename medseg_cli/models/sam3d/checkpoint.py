"""Loading 3DSAM-adapter weights: the official training files and our own safetensors, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from medseg_kernels.cubic_windows import shift_mask
from torch import Tensor

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models.sam3d.config import Sam3dConfig, parse_config
from medseg_cli.models.sam3d.network import Sam3d

MASK_KEY = ".attn_mask"


def build(checkpoint: Path | None, values: Mapping[str, Any]) -> Sam3d:
    """A `Sam3d` in eval mode, weights from `checkpoint` (random ones when None).

    Sizes that the tensors' shapes fix are read from them; `values` (flat or official names) set or override the rest.

    Raises:
        ModelError: unknown configuration, unreadable file, or tensors that do not fit, with the first differing keys.
    """
    given = parse_config(values)
    if checkpoint is None:
        return random_network(Sam3dConfig(**given), 0).eval()
    state = flatten(read_tensors(checkpoint), checkpoint)
    config = Sam3dConfig(**{**infer(state, checkpoint), **given})
    model = Sam3d(config)
    check_masks(state, config, checkpoint)
    weights = {key: value for key, value in state.items() if not key.endswith(MASK_KEY)}
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    misfit = [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if own[key].shape != weights[key].shape
    ]
    if missing or unexpected or misfit:
        raise ModelError(
            f"{checkpoint} does not fit 3dsam-adapter: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(misfit)} of another shape {misfit[:3]}",
            "check the configuration (crop_size, num_heads...) against the one it was trained with",
        )
    model.load_state_dict(weights)
    return model.eval()


def random_network(config: Sam3dConfig, seed: int) -> Sam3d:
    """The network with weights drawn from `seed` alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sam3d(config)
        model.initialise()
    return model


def flatten(tree: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """The official encoder_dict / feature_dict (list of 4) / decoder_dict as one state dict; ours passes through."""
    if "encoder_dict" not in tree:
        return {key: value for key, value in tree.items() if isinstance(value, Tensor)}
    absent = [part for part in ("feature_dict", "decoder_dict") if part not in tree]
    if absent:
        raise ModelError(
            f"{source} has encoder_dict but no {' and no '.join(absent)}: the automatic variant has no prompt encoder",
            "use a checkpoint of the prompted variant",
        )
    features = tree["feature_dict"]
    if len(features) != 4:
        raise ModelError(f"{source}: feature_dict holds {len(features)} prompt encoders, expected 4")
    state = {f"encoder.{key}": value for key, value in tree["encoder_dict"].items()}
    for index, feature in enumerate(features):
        state.update({f"feature.{index}.{key}": value for key, value in feature.items()})
    state.update({f"decoder.{key}": value for key, value in tree["decoder_dict"].items()})
    return state


def infer(state: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """Configuration values that the tensors' shapes fix."""
    try:
        patch = state["encoder.patch_embed.proj.weight"]
        tokens = state["encoder.depth_embed"].shape[1]
        tables = {
            int(key.split(".")[2]): value.shape[0] for key, value in state.items() if key.endswith("attn.rel_pos_h")
        }
        head_dim = state["encoder.blocks.0.attn.rel_pos_h"].shape[1]
        width, patch_size = patch.shape[0], patch.shape[-1]
        img_size = state["encoder.pos_embed"].shape[1] * patch_size
        long_table = 2 * (img_size // patch_size) - 1
        layer = "feature.3.transformer.layers."
        values: dict[str, Any] = {
            "internal_size": tokens * patch_size,
            "img_size": img_size,
            "patch_size": patch_size,
            "num_slice": state["encoder.slice_embed.weight"].shape[-1],
            "embed_dim": width,
            "depth": len(tables),
            "num_heads": width // head_dim,
            "mlp_ratio": state["encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
            "out_chans": state["encoder.neck_3d.0.0.weight"].shape[0],
            "prompt_depth": len({key.split(".")[4] for key in state if key.startswith(layer)}),
            "prompt_mlp_dim": state[f"{layer}0.mlp.lin1.weight"].shape[0],
            "num_pos_feats": state["feature.3.positional_encoding_gaussian_matrix"].shape[1],
            "mlahead_channels": state["decoder.mlahead.head2.0.weight"].shape[0],
            "num_classes": state["decoder.cls.3.weight"].shape[0],
        }
    except (KeyError, IndexError) as error:
        raise ModelError(f"{source} is not a 3dsam-adapter checkpoint: {error} is missing") from error
    values["global_attn_indexes"] = tuple(index for index, rows in sorted(tables.items()) if rows == long_table)
    short = {rows for rows in tables.values() if rows != long_table}
    if len(short) == 1:
        values["window_size"] = (short.pop() + 1) // 2
    mask = next((value for key, value in state.items() if key.endswith(MASK_KEY)), None)
    if mask is not None:
        values["cubic_window_size"] = round(mask.shape[-1] ** (1 / 3))
    return values


def check_masks(state: Mapping[str, Tensor], config: Sam3dConfig, source: Path) -> None:
    """Stored shift masks are constants of the configuration: they may be absent, but not different."""
    stored = {key: value for key, value in state.items() if key.endswith(MASK_KEY)}
    if not stored:
        return
    window = config.cubic_window_size
    expected = shift_mask((config.tokens,) * 3, window, window // 2)
    for key, value in stored.items():
        if value.shape != expected.shape or not torch.equal(value.float(), expected):
            raise ModelError(
                f"{source}: {key} {tuple(value.shape)} is not the shift mask of a {config.tokens}³ grid "
                f"with windows of {window}³"
            )
