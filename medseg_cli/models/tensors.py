"""Reading tensors from a checkpoint file without running anything that is in it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medseg_cli.errors import ModelError


def read_tensors(path: Path) -> Mapping[str, Any]:
    """The content of a .safetensors or torch file: tensors, and plain containers of them.

    Torch files are read with `weights_only=True`; numpy scalars, which official training files store, are allowed.

    Raises:
        ModelError: missing, truncated, not a checkpoint, or holding pickled objects.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint at {path}", "give the path of a .safetensors, .pth or .pt file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}", "fetch or import it again") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors and is refused: {_first_line(error)}", "only load tensors-only checkpoints"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} cannot be read: {_first_line(error)}", "fetch or import it again") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _numpy_scalars() -> list[Any]:
    """What the pickle of a numpy scalar names: its dtype's classes and the reconstructor, nothing that runs code."""
    dtypes = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    return [
        np.dtype,
        *dtypes,
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
