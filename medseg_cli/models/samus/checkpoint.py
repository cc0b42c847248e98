"""Loading SAMUS weights strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models.samus.auto import AutoSamus
from medseg_cli.models.samus.config import GRID, SamusConfig, config_of, parse_config
from medseg_cli.models.samus.network import Samus
from medseg_cli.models.strict import load_strictly
from medseg_cli.weights.layouts import identify

LAYOUT, AUTO_LAYOUT = "samus", "autosamus"
HINT = "expected is a whole state dict as the official code saves it"
_BLOCKS = "image_encoder.blocks."
_TRANSFORMER = "mask_decoder.transformer."

Model = TypeVar("Model", bound=nn.Module)


def build(checkpoint: Path | None, values: Mapping[str, Any]) -> Samus:
    """A `Samus` in eval mode, weights from an official checkpoint (random ones when None).

    Sizes that the tensors' shapes fix are read from them and `values` must agree; its `variant` counts only where there
    is no checkpoint.

    Raises:
        ModelError: unknown configuration, unreadable file, or tensors that do not fit, with the first differing keys.
    """
    if checkpoint is None:
        return random_network(config_of(values), 0).eval()
    return fitted(checkpoint, values, LAYOUT, Samus).eval()


def build_auto(checkpoint: Path | None, values: Mapping[str, Any]) -> AutoSamus:
    """An `AutoSamus` in eval mode; arguments and errors as `build`."""
    if checkpoint is None:
        return prompting_itself(random_network(config_of(values), 0), 0).eval()
    return fitted(checkpoint, values, AUTO_LAYOUT, lambda config: AutoSamus(Samus(config))).eval()


def fitted(checkpoint: Path, values: Mapping[str, Any], layout: str, network: Callable[[SamusConfig], Model]) -> Model:
    """The network that a file of this layout was made with, and its tensors in it; errors as `build`."""
    given = parse_config(values)
    weights = tensors_of(checkpoint, layout)
    found = infer(weights, checkpoint)
    wrong = {name: value for name, value in given.items() if name in found and found[name] != value}
    if wrong:
        raise ModelError(
            f"{checkpoint} was made with {', '.join(f'{name} {found[name]}' for name in wrong)}, "
            f"not {', '.join(str(value) for value in wrong.values())}",
            "sizes are read from the file: leave them out",
        )
    with torch.device("meta"):
        model = network(SamusConfig(**{**found, **given}))
    load_strictly(model, weights, checkpoint, layout, HINT)
    return model


def random_network(config: SamusConfig, seed: int) -> Samus:
    """The network with weights drawn from `seed` alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Samus(config)


def prompting_itself(samus: Samus, seed: int) -> AutoSamus:
    """A SAMUS with a generator of prompts drawn from `seed`; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoSamus(samus)


def infer(state: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """Configuration values that the tensors' shapes fix: all but `decoder_heads`.

    Raises:
        ModelError: a tensor that is needed for it is missing or has another number of axes.
    """
    try:
        width = state["image_encoder.patch_embed.proj.weight"].shape[0]
        tables = {
            int(key.split(".")[2]): value.shape
            for key, value in state.items()
            if key.startswith(_BLOCKS) and key.endswith(".attn.rel_pos_h")
        }
        joined = tuple(index for index in sorted(tables) if f"{_BLOCKS}{index}.MLP_Adapter.D_fc1.weight" in state)
        windows = {shape[0] for index, shape in tables.items() if index not in joined}
        layers = {key.removeprefix(f"{_TRANSFORMER}layers.").split(".")[0] for key in state if "former.layers." in key}
        return {
            "embed_dim": width,
            "depth": len(tables),
            "num_heads": width // tables[0][1],
            "mlp_ratio": state[f"{_BLOCKS}0.mlp.lin1.weight"].shape[0] / width,
            "window_size": (windows.pop() + 1) // 2 if windows else GRID,
            "global_attn_indexes": joined,
            "prompt_dim": state["image_encoder.neck.0.weight"].shape[0],
            "mask_in_chans": state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
            "decoder_depth": len(layers),
            "decoder_mlp_dim": state[f"{_TRANSFORMER}layers.0.mlp.lin1.weight"].shape[0],
            "iou_dim": state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        }
    except (KeyError, IndexError) as error:
        raise ModelError(f"{source} is no SAMUS checkpoint: {error} is missing", HINT) from error


def tensors_of(path: Path, layout: str) -> dict[str, Tensor]:
    """Official names → tensors of a file of this layout; "sam-" stands for SAM of any size.

    Raises:
        ModelError: unreadable file, or one of another layout.
    """
    try:
        found = identify(read_tensors(path))
    except ModelError as error:
        if str(path) in error.message:
            raise
        raise ModelError(f"{path}: {error.message}", error.hint or HINT) from error
    if found.layout != layout and not (layout.endswith("-") and found.layout.startswith(layout)):
        raise ModelError(f"{path} has the layout '{found.layout}', not {layout.rstrip('-')}'s", HINT)
    return found.tensors
