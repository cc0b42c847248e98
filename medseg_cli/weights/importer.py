"""Brings a checkpoint file into the store: looks at what it is, reads tensors only, converts, records.

A torch file is a pickle, and a pickle can run code. It is read with `weights_only=True` alone; the few harmless objects
that official files hold besides tensors (a NumPy number, an optimiser) are let in as plain numbers or as empty shells.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg_cli import preset as presets
from medseg_cli.errors import ModelError
from medseg_cli.preset_format import NAME
from medseg_cli.weights import store
from medseg_cli.weights.catalogue import CATALOGUE, Entry, by_hash, entry
from medseg_cli.weights.layouts import Checkpoint, identify

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "medseg"  # the one metadata key of a stored file: safetensors writes several in random order
_LARGEST_HEADER = 100 * 2**20
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml")
# Classes found in published training checkpoints. Their contents are not wanted: each is read as an empty shell.
_SHELLS = (
    "argparse.Namespace",
    "torch.optim.adam.Adam",
    "torch.optim.adamw.AdamW",
    "torch.optim.sgd.SGD",
)


def import_file(
    path: Path,
    name: str = "",
    *,
    licence: str = "",
    overwrite: bool = False,
    source: str = "",
    progress: Callable[[int, int | None], None] | None = None,
) -> store.Record:
    """Recognise, check and convert a checkpoint into the store.

    Args:
        path: torch or safetensors file.
        name: name in the store; "" where the file's hash or layout leaves one choice only.
        licence: of weights that the catalogue does not know.
        overwrite: replace another file of that name.
        source: where the file came from, for the record; its file name if empty.
        progress: called with (bytes read, bytes in all) while the file is hashed.

    Raises:
        ModelError: no such file, no checkpoint, unsafe, damaged, of an unknown layout, or not what `name` stands for.
    """
    kind = sniff(path)
    digest = store.sha256_of(path, progress)
    known = by_hash(digest)
    if name:
        _check_name(name, digest, known)
    checkpoint = _recognise(path, kind)
    name = name or (known.name if known else _only_name(path, checkpoint))
    listed = entry(name)
    if listed is not None and listed.layout != checkpoint.layout:
        raise ModelError(
            f"{path} has the layout '{checkpoint.layout}', '{name}' has '{listed.layout}'",
            "import it under another --name",
        )
    present = store.record(name)
    if present is not None and store.file_of(name).is_file():
        if present.source_sha256 == digest and store.sha256_of(store.file_of(name)) == present.sha256:
            return present
        if not overwrite and present.source_sha256 != digest:
            raise ModelError(f"weights '{name}' are in the store already, from another file", "use --overwrite")
    made = _convert(checkpoint, store.file_of(name), digest)
    record = store.Record(
        name=name,
        sha256=made,
        source_sha256=digest,
        source=source or path.name,
        layout=checkpoint.layout,
        licence=listed.licence if listed else licence or "not stated",
        imported=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    store.write_record(record)
    return record


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
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
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
    if head.startswith(b"\x80"):
        return "legacy"
    header = int.from_bytes(head[:8], "little")
    if size > 8 and header <= _LARGEST_HEADER and head[8:9] == b"{":
        if 8 + header > size:
            raise ModelError(f"{path} is truncated: a safetensors file cut off in its header", "fetch it again")
        return "safetensors"
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
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ModelError(f"{path} is a compressed torch archive, which torch never writes", "get the original file")
    return "zip"


def _recognise(path: Path, kind: str) -> Checkpoint:
    content = _load_safetensors(path) if kind == "safetensors" else _load_torch(path, mmap=kind == "zip")
    try:
        checkpoint = identify(content)
    except ModelError as error:
        raise ModelError(
            f"{path}: {error.message}", error.hint or "docs/weights.md lists what can be imported"
        ) from error
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{path}: '{name}' holds NaN or infinite values", "the training or the file went wrong")
    return checkpoint


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
        with torch.serialization.safe_globals(list(_harmless())):
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
        text = " ".join(str(error).split())[:160]
        raise ModelError(f"{path} is damaged or truncated: {text}", "fetch it again") from error


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


def _check_name(name: str, digest: str, known: Entry | None) -> None:
    if not re.fullmatch(NAME, name):
        raise ModelError(f"'{name}' cannot be a name", "use lower-case letters, digits, '-', '_' and '.'")
    if name in presets.locations() and entry(name) is None:
        raise ModelError(f"'{name}' is a preset's name", "choose another --name")
    listed = entry(name)
    if listed is None or listed.sha256 is None or digest.startswith(listed.sha256):
        return
    if known is not None:
        raise ModelError(
            f"this file is '{known.name}', not '{name}'", f"medseg weights import FILE --name {known.name}"
        )
    raise ModelError(
        f"this file has SHA-256 {digest[:12]}..., the published '{name}' has {listed.sha256[:12]}...",
        "damaged, or another training: fetch it again, or import it under a name of your own",
    )


def _only_name(path: Path, checkpoint: Checkpoint) -> str:
    """The one catalogue entry of unknown hash that has this layout."""
    fitting = [each.name for each in CATALOGUE if each.layout == checkpoint.layout and each.sha256 is None]
    if len(fitting) == 1:
        return fitting[0]
    choice = f"one of {', '.join(fitting)}, or a name of your own" if fitting else "a name of your own"
    raise ModelError(
        f"{path} has the layout '{checkpoint.layout}', which does not tell which weights they are",
        f"add --name with {choice}",
    )


def _convert(checkpoint: Checkpoint, target: Path, digest: str) -> str:
    """Write the tensors to the store and return the file's SHA-256. The same source gives the same bytes."""
    from safetensors.torch import save_file

    metadata = {"layout": checkpoint.layout, "source_sha256": digest}
    draft = target.with_name(f"{target.stem}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(_separate(checkpoint.tensors), draft, {METADATA: json.dumps(metadata, sort_keys=True)})
        made = store.sha256_of(draft)
        os.replace(draft, target)
    except OSError as error:
        raise ModelError(
            f"cannot write {target}: {error.strerror or error}",
            "free some space, or let MEDSEG_HOME name another folder",
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    store.remember(target, made)
    return made


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        where = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if where in seen else plain
        seen.add(where)
    return result
