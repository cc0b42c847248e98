"""Brings a checkpoint file into the store: looks at what it is, converts, records."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medseg_cli import preset as presets
from medseg_cli.checkpoint_file import read_content, sniff, writing
from medseg_cli.errors import ModelError
from medseg_cli.preset_section import NAME
from medseg_cli.preset_weights import SUFFIXES
from medseg_cli.weights import store
from medseg_cli.weights.catalogue import CATALOGUE, Entry, by_hash, entry
from medseg_cli.weights.layouts import Checkpoint, identify

if TYPE_CHECKING:
    from torch import Tensor

DIFFERENCE = "medseg.base"  # the metadata key of a training's result that belongs to other weights
METADATA = "medseg"  # the one metadata key of a stored file: safetensors writes several in random order


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


def checkpoint_in(folder: Path) -> Path:
    """The one checkpoint of a folder as downloaded from a hub; safetensors before others of the same weights.

    Raises:
        ModelError: none, or several.
    """
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(SUFFIXES))
    safe = [path for path in found if path.suffix == ".safetensors"]
    if len(safe) == 1 or len(found) == 1:
        return (safe if len(safe) == 1 else found)[0]
    names = ": " + ", ".join(path.name for path in found[:3]) if found else ""
    raise ModelError(f"{folder} holds {len(found) or 'no'} checkpoints{names}", "name the checkpoint file itself")


def _refuse_difference(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
    except (SafetensorError, OSError):
        return  # `read_content` says what is wrong with it
    if DIFFERENCE in facts:
        raise ModelError(
            f"{path} holds only what a training changed: without the weights it began with it means nothing",
            "use it where it lies: --preset RUN, the folder with its preset.yaml",
        )


def _recognise(path: Path, kind: str) -> Checkpoint:
    if kind == "safetensors":
        _refuse_difference(path)
    content = read_content(path, kind)
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
        with writing(draft):
            save_file(_separate(checkpoint.tensors), draft, {METADATA: json.dumps(metadata, sort_keys=True)})
        # safetensors makes files that only their owner can read; a store is often shared.
        draft.chmod(0o644)
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
