"""What an image encoder made of a picture, kept for the next prompt: in memory, and in a folder if one is named.

A file is trusted only if it carries the key that it is asked for and the checksum of its tensors. An embedding can
reveal the scan it came from, so files are readable by their owner alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from medseg_cli.errors import InputError

VERSION = "1"
"""Part of every key: raised when the networks' `encode` comes to mean something else."""
_HINT = "choose another folder, or leave --embedding-cache out"


def embedding_key(
    scan_sha256: str, weights_sha256: str, preprocessing: Mapping[str, Any], picture: NDArray[np.uint8]
) -> str:
    """Name of the embedding of one picture, 64 hex digits.

    Args:
        scan_sha256: of the scan's file or files.
        weights_sha256: of the weights; random ones need a name of their own, such as their seed.
        preprocessing: whatever else the embedding depends on (frame, precision, model), as plain JSON values.
        picture: (H, W) or (H, W, 3), what the frame is given: another channel or series of the same file, another
            plane, slice or window is another picture.
    """
    text = json.dumps(
        {
            "version": VERSION,
            "scan": scan_sha256,
            "weights": weights_sha256,
            "preprocessing": dict(preprocessing),
            "picture": [list(picture.shape), picture.dtype.str],
        },
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings by key, the least recently used ones dropped from memory first; nothing is dropped from the folder.

    Several processes may share a folder: files appear whole, and who comes second replaces a file by an equal one.

    Attributes:
        limit_bytes: of tensors kept in memory.
        folder: where they are kept as well; None is nowhere.
        notes: files that were found but could not be used.
    """

    def __init__(self, limit_bytes: int, folder: Path | None = None) -> None:
        """Create `folder` if need be.

        Raises:
            InputError: nothing can be written there.
        """
        self.limit_bytes = limit_bytes
        self.folder = folder
        self.notes: list[str] = []
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._bytes = 0
        if folder is not None:
            _check_writable(folder)

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The embedding with that key, on the CPU, not to be changed in place; None if it has to be computed."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return dict(self._kept[key])
        found = self._read(key)
        if found is not None:
            self._keep(key, found)
        return found

    def put(self, key: str, embedding: dict[str, Tensor], memory_only: bool = False) -> None:
        """Keep a copy of an embedding, with `memory_only` not in the folder.

        Raises:
            InputError: the folder became full or unwritable.
        """
        # A copy, for a slice of a batch would keep the whole batch alive.
        own = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in embedding.items()}
        self._keep(key, own)
        if self.folder is not None and not memory_only:
            self._write(key, own)

    def _keep(self, key: str, embedding: dict[str, Tensor]) -> None:
        if key in self._kept:
            self._bytes -= _size(self._kept.pop(key))
        if _size(embedding) > self.limit_bytes:
            return
        self._kept[key] = dict(embedding)
        self._bytes += _size(embedding)
        while self._bytes > self.limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _size(oldest)

    def _file(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> dict[str, Tensor] | None:
        file = self._file(key)
        if file is None:
            return None
        try:
            content = file.read_bytes()
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            stated = header.get("__metadata__", {})
        except FileNotFoundError:
            return None
        except OSError as error:
            why = os.strerror(error.errno).lower() if error.errno else str(error)
        except (SafetensorError, ValueError):
            why = "it is damaged"
        else:
            if stated.get("key") == key and stated.get("sha256") == _checksum(tensors):
                return tensors
            why = "it is damaged" if stated.get("key") == key else "it is the embedding of something else"
        self.notes.append(f"cached embedding {file} was not used ({why}) and is computed again")
        return None

    def _write(self, key: str, embedding: dict[str, Tensor]) -> None:
        file = self._file(key)
        assert file is not None
        content = save(embedding, {"key": key, "sha256": _checksum(embedding)})
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _replace(file, content)
        except OSError as error:
            raise _unwritable(self.folder, error) from error


def _replace(file: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all; `mkstemp` makes it readable by its owner alone."""
    handle, draft = tempfile.mkstemp(suffix=".part", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(draft, file)
    finally:
        Path(draft).unlink(missing_ok=True)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"probe")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path | None, error: OSError) -> InputError:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return InputError(f"cannot keep embeddings in {folder}: {reason}", _HINT)


def _size(embedding: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in embedding.values())


def _checksum(embedding: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(embedding):
        value = embedding[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
