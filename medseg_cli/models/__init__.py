"""Networks by name. A model takes tensors and returns tensors; files, scans and prompts live elsewhere."""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg_cli.errors import ModelError, UsageError

if TYPE_CHECKING:
    from torch import nn

MODELS = {
    "3dsam-adapter": "medseg_cli.models.sam3d.start:load",
    "dynunet": "medseg_cli.models.dynunet:build",
    "autosamus": "medseg_cli.models.samus.auto_start:load",
    "biomedclip": "medseg_cli.models.clip.checkpoint:build",
    "cc-sam": "medseg_cli.models.cc_sam.start:load",
    "sam": "medseg_cli.models.sam.start:load",
    "sam-unet": "medseg_cli.models.sam_unet.start:load",
    "samus": "medseg_cli.models.samus.start:load",
}
"""name → "module:function" taking (checkpoint path or None, configuration) and returning a ready module."""

STARTS = {
    "3dsam-adapter": "medseg_cli.models.sam3d.start:begin",
    "autosamus": "medseg_cli.models.samus.auto_start:begin",
    "cc-sam": "medseg_cli.models.cc_sam.start:begin",
    "sam": "medseg_cli.models.sam.start:begin",
    "sam-unet": "medseg_cli.models.sam_unet.start:begin",
    "samus": "medseg_cli.models.samus.start:begin",
}
"""name → "module:function" with which a training begins (`tuned_file.Begin`); others leave whole networks behind."""


def load_model(name: str, checkpoint: str | PathLike[str] | None = None, **config: Any) -> nn.Module:
    """Build a network and load its weights strictly.

    Args:
        name: a key of `MODELS`.
        checkpoint: official file or safetensors; None gives seeded random weights (for training and tests).
        **config: sizes that differ from the published model, by the names of the model's configuration class.

    Returns:
        The module in eval mode on the CPU; its `forward` documents shapes and axis order.

    Raises:
        ModelError: unknown name or configuration, unreadable or misfitting checkpoint.
        UsageError: the environment asks for kernels that do not exist.
    """
    if name not in MODELS:
        raise ModelError(f"unknown model '{name}'", f"known models: {', '.join(sorted(MODELS))}")
    try:
        import_module("medseg_kernels.dispatch").choice()
    except ValueError as error:
        raise UsageError(str(error), "or unset it") from error
    module, function = MODELS[name].split(":")
    return getattr(import_module(module), function)(None if checkpoint is None else Path(checkpoint), config)
