"""Safetensors files of which equal contents are equal files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from medseg_cli.checkpoint_file import writing


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes, and so its SHA-256, depend on tensors and metadata alone.

    The library writes the metadata in an order that changes from process to process: it is sorted afterwards.

    Args:
        tensors: name → tensor, on the CPU.
        path: the file, replaced if it exists.
        metadata: text for the header.

    Raises:
        OSError: the system cannot write it.
    """
    with writing(path):
        save_file(dict(tensors), path, dict(metadata))
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # Tensors begin where they did: the format pads its header with spaces.
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))
    # The library makes files that only their owner can read; a run folder is often shared.
    path.chmod(0o644)
