"""Reading a checkpoint file without running anything that is in it.

A torch file is a pickle, and a pickle can run code. It is read with `weights_only=True` alone; the few harmless objects
that official files hold besides tensors (a NumPy number, an optimiser) are let in as plain numbers or as empty shells.
"""

from __future__ import annotations

import functools
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg_cli.errors import ModelError, without_advice

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_HEADER = 100 * 2**20
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml")
# Classes found in published training checkpoints. Their contents are not wanted: each is read as an empty shell.
_SHELLS = (
    "argparse.Namespace",
    "torch.optim.adam.Adam",
    "torch.optim.adamw.AdamW",
    "torch.optim.sgd.SGD",
)


def read_tensors(path: Path) -> Mapping[str, Any]:
    """The dictionary in a safetensors or torch file: tensors, and plain containers of them.

    Raises:
        ModelError: missing, truncated, no checkpoint, holding pickled objects, or no dictionary.
    """
    content = read_content(path, sniff(path))
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds something else than a dictionary of tensors ({type(content).__name__})",
            "ask its author for a file with the state dict",
        )
    return content


def read_content(path: Path, kind: str) -> Any:
    """Whatever a checkpoint file of that kind (see `sniff`) holds, code excepted.

    Raises:
        ModelError: damaged, or holding pickled objects.
    """
    return _load_safetensors(path) if kind == "safetensors" else _load_torch(path, mmap=kind == "zip")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A failure of the system while safetensors writes, as the OSError that it hides in its own words.

    Args:
        path: of the file, for the error.

    Raises:
        OSError: the disk is full, the folder is not to be written to, and the like.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        code = int(found[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def sniff(path: Path) -> str:
    """What kind of file it is by its first bytes: "zip" or "legacy" (both torch) or "safetensors".

    Raises:
        ModelError: anything else, saying what it is and what to do.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(512)
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a folder", "give the checkpoint file inside it") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check the path") from error
    if not size:
        raise ModelError(f"{path} is empty", "the download failed: fetch it again")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(_WEB_PAGE):
        raise ModelError(
            f"{path} is a web page saved under that name, no checkpoint",
            "Google Drive and OneDrive send a page when they refuse or warn: open the link in a browser and download",
        )
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the file itself", "fetch the file with `git lfs pull`")
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    header = int.from_bytes(head[:8], "little")
    if size > 8 and header <= _LARGEST_HEADER and head[8:9] == b"{":
        if 8 + header > size:
            raise ModelError(f"{path} is truncated: a safetensors file cut off in its header", "fetch it again")
        return "safetensors"
    # After safetensors: the length at its beginning may end with that byte.
    if head.startswith(b"\x80"):
        return "legacy"
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        raise ModelError(
            f"{path} is a compressed or tar archive, no checkpoint", "unpack it and import the file inside"
        )
    raise ModelError(
        f"{path} is neither a torch nor a safetensors file", "medseg imports .pth, .pt, .bin, .safetensors"
    )


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(f"{path} is truncated or damaged: its end is missing", "fetch it again") from error
    if not any(member.filename.endswith("/data.pkl") for member in members):
        inside = [m.filename for m in members if m.filename.endswith((".pth", ".pt", ".bin", ".safetensors", ".tar"))]
        held = f"holding {', '.join(inside[:3])}" if inside else "without a checkpoint in it"
        raise ModelError(f"{path} is a zip archive {held}", "unpack it and import the checkpoint itself")
    if any("/code/" in member.filename for member in members):
        raise ModelError(
            f"{path} is a TorchScript program: refused, because loading it could run code",
            "only tensors are read; ask its author for a file with the state dict alone, or a safetensors file",
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ModelError(f"{path} is a compressed torch archive, which torch never writes", "get the original file")
    return "zip"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is a damaged safetensors file: {error}", "fetch it again") from error


def _load_torch(path: Path, mmap: bool) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(list(_harmless())), warnings.catch_warnings():
            # A pickle that torch did not write: what is wrong with it is said once, by the error.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"a pickled object ({found.group(1)})" if found else "more than tensors"
        raise ModelError(
            f"{path} holds {what}: refused, because loading it could run code",
            "only tensors are read; ask its author for a file with the state dict alone, or a safetensors file",
        ) from error
    except Exception as error:  # a damaged pickle or archive can raise anything; all of it means the same
        raise ModelError(f"{path} is damaged or truncated: {without_advice(error)}", "fetch it again") from error


@functools.cache
def _harmless() -> tuple[Any, ...]:
    """What may stand in a checkpoint besides tensors: NumPy numbers, and shells for the classes in `_SHELLS`."""
    import numpy as np
    from numpy._core.multiarray import scalar

    numbers = [np.dtype, *{type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}]
    renamed = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    shells = [(_Shell, name) for name in _SHELLS]
    return (*numbers, *renamed, *shells, (_plain_dict, "collections.defaultdict"), dict)


class _Shell:
    """Stands for an object whose content is not wanted; takes whatever the pickle says and keeps nothing."""

    def __setstate__(self, state: object) -> None:
        return


def _plain_dict(*_: object) -> dict[Any, Any]:
    return {}
