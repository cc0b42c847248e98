"""Loading SAMUS weights strictly, and beginning with SAM's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models.samus.auto import AutoSamus
from medseg_cli.models.samus.config import GRID, SamusConfig, config_of, parse_config
from medseg_cli.models.samus.network import Samus
from medseg_cli.models.strict import check_fit, load_strictly
from medseg_cli.models.vit import resized
from medseg_cli.weights.layouts import identify

LAYOUT, AUTO_LAYOUT = "samus", "autosamus"
_HINT = "expected is a whole state dict as the official code saves it"
_BLOCKS = "image_encoder.blocks."
_TRANSFORMER = "mask_decoder.transformer."

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Start:
    """What became of SAM's tensors.

    Args:
        copied: taken as they were.
        resized: position tables of the global blocks, brought to 63 rows.
        new: parts of SAMUS that SAM lacks, which keep their random weights.
    """

    copied: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]


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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AutoSamus(Samus(config_of(values))).eval()
    return fitted(checkpoint, values, AUTO_LAYOUT, lambda config: AutoSamus(Samus(config))).eval()


def fitted(checkpoint: Path, values: Mapping[str, Any], layout: str, network: Callable[[SamusConfig], Model]) -> Model:
    """The network that a file of this layout was made with, and its tensors in it; errors as `build`."""
    given = parse_config(values)
    weights = _tensors(checkpoint, layout)
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
    load_strictly(model, weights, checkpoint, layout, _HINT)
    return model


def random_network(config: SamusConfig, seed: int) -> Samus:
    """The network with weights drawn from `seed` alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Samus(config)


def begin(checkpoint: Path, values: Mapping[str, Any], seed: int) -> tuple[Samus, Start]:
    """A network to train, everything that SAM has taken from SAM and frozen but for the tables of the global blocks.

    Args:
        checkpoint: a SAM of the transformer's size, at 1024 pixels.
        values: the configuration, by the names of `SamusConfig`.
        seed: of the CNN branch and the adapters. They do not begin at zero: the network is not SAM at step 0.

    Raises:
        ModelError: a file of another layout or of other sizes, with the first differing keys.
    """
    model = random_network(config_of(values), seed)
    weights = from_sam(_tensors(checkpoint, "sam-"), model.config)
    own = model.state_dict()
    new = tuple(key for key in own if key not in weights and not _is_sam(key))
    check_fit({key: value for key, value in own.items() if key not in new}, weights, checkpoint, "samus", _HINT)
    model.load_state_dict(weights, strict=False)
    model.freeze()
    changed = _global_tables(model.config)
    return model, Start(tuple(key for key in weights if key not in changed), tuple(changed), new)


def from_sam(state: Mapping[str, Tensor], config: SamusConfig) -> dict[str, Tensor]:
    """SAM's tensors for SAMUS's 32 x 32 tokens.

    The tables of relative positions of global blocks (127, d) become (63, d) by linear interpolation; absolute
    positions stay (1, 64, 64, C), the position adapter halves them. Blocks are told by their number. (The official code
    takes every table in whose name a digit of 2, 5, 8 or 11 stands, and so cannot load ViT-L or ViT-H.)
    """
    changed = _global_tables(config)
    return {key: resized(value.float(), 2 * GRID - 1) if key in changed else value for key, value in state.items()}


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
        raise ModelError(f"{source} is no SAMUS checkpoint: {error} is missing", _HINT) from error


def _global_tables(config: SamusConfig) -> list[str]:
    return [f"{_BLOCKS}{block}.attn.rel_pos_{axis}" for block in config.global_attn_indexes for axis in "hw"]


def _is_sam(key: str) -> bool:
    return not any(part in key for part in ("cnn_embed", "post_pos_embed", "Adapter"))


def _tensors(path: Path, layout: str) -> dict[str, Tensor]:
    """Official names → tensors of a file of this layout; "sam-" stands for SAM of any size.

    Raises:
        ModelError: unreadable file, or one of another layout.
    """
    try:
        found = identify(read_tensors(path))
    except ModelError as error:
        if str(path) in error.message:
            raise
        raise ModelError(f"{path}: {error.message}", error.hint or _HINT) from error
    if found.layout != layout and not (layout.endswith("-") and found.layout.startswith(layout)):
        raise ModelError(f"{path} has the layout '{found.layout}', not {layout.rstrip('-')}'s", _HINT)
    return found.tensors
